"""Whether the server or a request is at fault where there is no answer.

Some failures are plainly the server's, and end the work at once: it cannot be reached, refuses the key or
does not know the model (401, 403, 404 and their like), or still asks for patience after all tries (429). Any
other may be of one request alone: a status such as 400 or 500 or a timeout each time it is sent, an error in
a 200, what is not JSON or not a completion. Such a failure is kept back until it is clear whose it is:

- Once the server has answered another request after it, it is the request's own. The request is completed
  with the finish reason `error`.
- After `MOST` failures in a row no more requests are sent. If the server has answered nothing so far, the
  fault is the server's, and the first failure is raised.
- After `MOST` in a row otherwise, and at the end, a harmless question with the same settings is sent. If it
  is answered, the failures are the requests' own; if not, the first is raised.

What is raised was not completed, so a resumed evaluation asks for it again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from smidgen.data.types import Completion, Request, Sample
from smidgen.errors import SmidgenError

MOST = 8
"""Failures in a row that are kept back; few enough that a broken server is not asked for long."""
FAILED = "error"
"""The finish reason of a request that failed by itself; one of `smidgen.data.types.UNANSWERED`."""


class RequestFailed(Exception):
    """There is no answer to one request.

    Attributes:
        what: what happened.
        error: what to raise if that is the server's fault.
    """

    def __init__(self, kind: type[SmidgenError], what: str, advice: str):
        """Make an error of that kind of what happened and what to do about it, as it goes on."""
        super().__init__(what)
        self.what = what
        self.error = kind(what + advice)


class Failures:
    """The failures since the last answer."""

    def __init__(
        self, put: Callable[[tuple[Request, Completion]], None], blame: Callable[[RequestFailed], None]
    ):
        """Hand completions of requests that failed by themselves to `put`, and why to `blame`."""
        self._put = put
        self._blame = blame
        self._kept: list[tuple[Request, RequestFailed]] = []
        self._has_answered = False

    @property
    def are_many(self) -> bool:
        """Whether no more requests may be sent before it is clear whose fault they are."""
        return len(self._kept) >= MOST

    def keep(self, request: Request, failed: RequestFailed) -> None:
        """Take note of a request that failed."""
        self._kept.append((request, failed))

    def answered(self) -> None:
        """Take note that the server answers: what failed before is not its fault."""
        self._has_answered = True
        for request, failed in self._kept:
            self._blame(failed)
            self._put((request, Completion("", finish_reason=FAILED)))
        self._kept.clear()

    async def judge(self, ask: Callable[[Request], Awaitable[Completion]]) -> None:
        """Find out whose fault the failures are, with nothing under way.

        Raises:
            SmidgenError: it is the server's.
        """
        if not self._kept:
            return
        request, first = self._kept[0]
        if self.are_many and not self._has_answered:
            raise first.error
        messages = tuple(replace(message, content="Hello") for message in request.sample.messages)
        try:
            await ask(replace(request, sample=Sample("smidgen-probe", messages)))
        except RequestFailed:
            raise first.error from None
        self.answered()
