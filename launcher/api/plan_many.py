"""Plans of many requests that differ mostly in their values: what they have in common is looked at once."""

import dataclasses
import json

from launcher._util.errors import RequestError
from launcher.api.discover import OF_VALUES, RunContext, discover_context, discover_in
from launcher.api.prepare_plan import PreparedPlan, prepare_found
from launcher.config.request import Request


class ManyPlans:
    """Makes plans for `submit`. Requests of one shape, equal but for assignments and variables, share a context."""

    def __init__(self) -> None:
        self._contexts: dict[str, RunContext | RequestError] = {}

    def prepare(self, asked: Request, *, run_id: str, nonce: str) -> PreparedPlan:
        """Decide the run of a request, with the id of the run and the nonce of its submission.

        Raises as `prepare_plan`; what is wrong with a shape is raised again for each of its requests.
        """
        context = self._of_shape(asked).with_values(asked)
        host = dataclasses.replace(context.host, run_id=run_id, nonce=nonce)
        return prepare_found(discover_in(dataclasses.replace(context, host=host)), "submit")

    def code_digest(self, asked: Request) -> str:
        """Return the digest of the user's own code that a request runs. Raises RequestError."""
        return self._of_shape(asked).digest

    @property
    def shapes(self) -> int:
        """Return how many shapes were looked at."""
        return len(self._contexts)

    def _of_shape(self, asked: Request) -> RunContext:
        stated = {key: value for key, value in asked.stated().items() if key not in OF_VALUES}
        shape = json.dumps(stated, sort_keys=True, default=str)
        if shape not in self._contexts:
            try:
                self._contexts[shape] = discover_context(asked, "submit")
            except RequestError as error:
                self._contexts[shape] = error
        found = self._contexts[shape]
        if isinstance(found, RequestError):
            raise found.with_traceback(None)  # else it would keep the frames of all requests before
        return found
