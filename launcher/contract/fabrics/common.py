"""What several fabrics share: causes that do not depend on the transport."""

from collections.abc import Iterator

from .verdict import Cause, NodeView


def is_socket(network: str) -> bool:
    """Whether NCCL's network of this name is TCP."""
    return network.lower() == "socket"


def asked_for(view: NodeView) -> Iterator[Cause]:
    """Yield the cause where the environment selects TCP."""
    if is_socket(view.environment.get("NCCL_NET", "")):
        yield Cause("NCCL_NET=Socket asks for it")


def why_fewer(variable: str, view: NodeView) -> Cause:
    """Return why there are fewer devices than the node has; `variable` names the devices to use."""
    if view.environment.get(variable):
        return Cause(f"{variable}={view.environment[variable]} names those")
    return Cause("a link is down, or the container does not see all of /dev/infiniband")
