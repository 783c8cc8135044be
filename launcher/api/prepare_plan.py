"""From a request to its plan, made once: discovery first, then the check of the configuration where it is wanted."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal, TypeVar

from launcher._util.errors import RequestError
from launcher._util.user_paths import require_directory
from launcher.api.discover import Discovered, Intent, discover
from launcher.api.progress import Progress, Silent
from launcher.config.request import Request
from launcher.contract.frozen import dataclass
from launcher.discovery.bridge_release import BridgeRelease
from launcher.discovery.files import require_sources
from launcher.discovery.host import new_run_id
from launcher.discovery.recipe import MegatronScript
from launcher.planning.inputs import PlanInputs
from launcher.planning.make import make_plan
from launcher.planning.model import Plan
from launcher.planning.run_paths import run_root
from launcher.rundir import RunDirectory

CheckPolicy = Literal["never", "if asked", "if unknown", "if possible"]
"""Whether to run the recipe first: where the request says so; besides, unless it forbids it, where the training stack
is at hand, "if unknown" only for a recipe that the index does not describe."""


@dataclass(frozen=True)
class PreparedPlan:
    """A plan with what it was made from, for those who carry it out."""

    plan: Plan
    inputs: PlanInputs = field(repr=False)
    resumed: RunDirectory | None
    """The run that it continues."""
    release: BridgeRelease
    """The release of Megatron Bridge that the job will find."""
    behind: bool = False
    """Whether it only queues a job behind the one that the resumed run has."""

    @property
    def scripts(self) -> Mapping[str, str]:
        """Return the text of each script of the run by the file's name."""
        from launcher.scripts import scripts

        return scripts(self.plan)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values: the content of plan.json."""
        return self.plan.to_dict()


def prepare_plan(
    asked: Request, intent: Intent, *, check: CheckPolicy = "if asked", progress: Progress | None = None
) -> PreparedPlan:
    """Decide the run that the request asks for. Writes nothing and starts nothing besides the check.

    Raises a RequestError of the kind that fits, and OutsideError where a program fails that had to be asked.
    """
    return prepare_found(discover(asked, intent), intent, check=check, progress=progress)


def prepare_found(
    found: Discovered, intent: Intent, *, check: CheckPolicy = "if asked", progress: Progress | None = None
) -> PreparedPlan:
    """Decide the run as `prepare_plan` does, once the world was looked at."""
    inputs = found.inputs
    require_directory(run_root(inputs.request, inputs.cluster, inputs.host), "--run-root")
    if _wants_check(found, check):
        from launcher.api.check_config import check_config

        knowledge = check_config(found, progress or Silent())
        found = dataclasses.replace(found, inputs=dataclasses.replace(found.inputs, knowledge=knowledge))
    plan = make_plan(found.inputs)
    require_sources(mount.source for mount in plan.mounts)
    if plan.guesses and check != "never" and intent == "submit" and found.inputs.request.check_config is None:
        raise RequestError(
            f"the recipe was not run, and the job depends on what it decides: {'; '.join(plan.guesses)}",
            where=plan.recipe,
            hint="State these values as overrides, check where the training stack or an image with it is at hand "
            "(--check-on node: in a short job), or let the guesses stand: --no-check-config.",
        )
    return PreparedPlan(plan, found.inputs, found.resumed, found.release, found.behind)


T = TypeVar("T")


def start_new(prepared: PreparedPlan, start: Callable[[PreparedPlan], T]) -> T:
    """Return `start(prepared)`, with another run id where the one that was drawn is taken."""
    from launcher.backends.prepare import RunExistsError

    for _ in range(8):
        try:
            return start(prepared)
        except RunExistsError:
            if prepared.resumed is not None:
                raise
            host = prepared.inputs.host
            prepared = redrawn(prepared, new_run_id(host.now), host.nonce)
    return start(prepared)


def redrawn(prepared: PreparedPlan, run_id: str, nonce: str) -> PreparedPlan:
    """Return the plan with another id of a new run, and another nonce of its submission."""
    host = dataclasses.replace(prepared.inputs.host, run_id=run_id, nonce=nonce)
    inputs = dataclasses.replace(prepared.inputs, host=host)
    return dataclasses.replace(prepared, plan=make_plan(inputs), inputs=inputs)


def _wants_check(found: Discovered, policy: CheckPolicy) -> bool:
    asked = found.inputs.request.check_config
    if isinstance(found.inputs.recipe, MegatronScript):
        return False
    if asked is None and policy != "never" and found.inputs.request.check_on is not None:
        return True
    if policy == "never" or asked is not None or policy == "if asked":
        return policy != "never" and bool(asked)
    if policy == "if unknown" and found.inputs.knowledge.recipe_is_known:
        return False
    from launcher.api.check_config import stack_is_here

    return found.inputs.request.entrypoint is None and stack_is_here(found)
