"""gIB: RoCE of Google's A3 Ultra, A4 and A4X machines, through a network plugin of Google's.

The nodes carry it below /usr/local/gib, which a profile mounts, with its lib64 in front of LD_LIBRARY_PATH and
scripts/set_nccl_env.sh sourced: AI-Hypercomputer/gpu-recipes 2e1fd5e, training/a4/llama31_405b/megatron-bridge-slurm;
GoogleCloudPlatform/cluster-toolkit 1047080, examples/machine-learning/a3-ultragpu-8g/nccl-tests/run-nccl-tests.sh.
Lines: gpu-recipes issue 5 (a plugin built for a newer GLIBC), NVIDIA-NeMo/Automodel pull request 3843 (no device).
"""

from collections.abc import Iterator
from functools import partial

from . import net_ib, roce
from .common import asked_for, google_plugin, uses_gdr, why_fewer, without_gdr
from .model import Fabric, LintRule
from .verdict import GOOD, Cause, Expectation, NodeView, Selection, Verdict, bad, log_rule, set_field

_LOG = (
    log_rule(r"NET/gIB ?: Initializing (gIB \S+)", "gib", set_field("plugin_version")),
    log_rule(r"NET/gIB ?: No device found", "ib_none"),
    log_rule(r"NET/gIB ?: Using(.*)$", "hcas", net_ib.ports),
)


def _judge(selection: Selection, expected: Expectation, view: NodeView) -> Verdict:
    slow = without_gdr(selection, expected, view)
    if slow is not None:
        return slow
    if selection.hcas and selection.hcas_whole and expected.too_few(len(selection.hcas)):
        what = f"NCCL uses {len(selection.hcas)} ports, and {expected.nics_per_node} are expected on each node"
        return bad(what, why_fewer("NCCL_IB_HCA", view), selection.line("hcas"))
    parts = (
        selection.plugin_version,
        f"{len(selection.hcas)} ports" if selection.hcas else None,
        "GPUDirect RDMA" if uses_gdr(selection) else None,
    )
    more = ", ".join(part for part in parts if part)
    return Verdict(GOOD, f"NCCL uses gIB{f' ({more})' if more else ''}")


def _why_not(selection: Selection, view: NodeView) -> Cause:
    return next(_causes(selection, view))


def _causes(selection: Selection, view: NodeView) -> Iterator[Cause]:
    """Yield likely causes, the most telling first; there is always one."""
    yield from asked_for(view)
    broken = selection.line("plugin_broken")
    if broken and "GLIBC" in broken:
        yield Cause("the node's gIB plugin needs a newer C library than the image has: use a newer image", broken)
    if broken:
        yield Cause("the gIB plugin was found and cannot be loaded", broken)
    if selection.line("ib_none"):
        yield Cause("gIB found no adapter: the container does not see /dev/infiniband", selection.line("ib_none"))
    chosen = view.environment.get("NCCL_NET_PLUGIN")
    if chosen:
        line = selection.line("plugin", "plugin_missing")
        yield Cause(f"NCCL_NET_PLUGIN={chosen} takes another plugin or none", line)
    yield Cause(
        "the gIB plugin was not found: mount /usr/local/gib, and put /usr/local/gib/lib64 in front of LD_LIBRARY_PATH",
        selection.line("plugin_missing"),
    )


FABRIC = Fabric(
    name="gib",
    title="gIB",
    networks="gIB",
    judge=_judge,
    why_not=_why_not,
    variables=partial(google_plugin, "gIB"),
    owns=roce.FABRIC.owns,
    log_rules=_LOG,
    lint_rules=(
        LintRule(
            "NCCL_NET_PLUGIN",
            "contradictory",
            "gIB is a plugin itself, and this takes another or none: NCCL falls back to TCP",
            "leave it out",
            "GoogleCloudPlatform/cluster-toolkit 1047080, examples/machine-learning/a3-ultragpu-8g",
            value="none|.*spcx.*",
        ),
    ),
    read_variables=net_ib.READ_VARIABLES,
    probe="ls /usr/local/gib",
    nsys_option="--nic-metrics",
)
