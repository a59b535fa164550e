"""What is known of a request while it is answered; the access log and the metrics read it at the end."""

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from starlette.types import Scope

from smidgen.serving.answers import Usage
from smidgen.serving.faults import FAILED, ApiError


@dataclass
class RequestFacts:
    """Facts that whoever knows them fills in.

    Attributes:
        id: the request's id, also in the header `x-request-id` of the response.
        client: a hash of the client's key, or its address if the server asks for no keys.
        started: when it arrived, from `time.perf_counter`.
        model: the model that was asked.
        prompt_tokens: tokens of all prompts.
        completion_tokens: tokens of all completions.
        queue_seconds: how long it waited before the model began.
        first_token_seconds: from its arrival to the first token.
        texts: what was asked; logged only where prompts are.
        fault: what failed, if the server or a stream did; never sent to a client.
    """

    id: str = field(default_factory=lambda: f"req_{uuid4().hex[:24]}")
    client: str = ""
    started: float = field(default_factory=time.perf_counter)
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_seconds: float | None = None
    first_token_seconds: float | None = None
    texts: Any = None
    fault: str = ""

    def begin_answer(self, queue_seconds: float | None) -> None:
        """Note that the first token of a stream is there."""
        self.first_token_seconds = time.perf_counter() - self.started
        self.queue_seconds = queue_seconds

    def note_failure(self, error: ApiError, *, in_stream: bool = False) -> None:
        """Note why the server failed on a request, or how a stream ended whose status was sent before."""
        if error.type == FAILED:
            self.fault = fault_of(error.__cause__ or error.__context__ or error)
        if in_stream:
            self.fault = f"the stream ended with {error.status} {self.fault}".rstrip()

    def end_answer(self, usage: Usage, queue_seconds: float | None) -> None:
        """Note the tokens of an answer that is complete, and how long it waited for the model."""
        self.prompt_tokens, self.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.queue_seconds = queue_seconds


def facts_of(scope: Scope) -> RequestFacts:
    """Return the facts of a request, made when they are first asked for."""
    state = scope.setdefault("state", {})
    if "facts" not in state:
        address = scope.get("client")
        state["facts"] = RequestFacts(client=address[0] if address else "")
    return state["facts"]


def fault_of(error: BaseException) -> str:
    """Return the kind of an error and where it was raised, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return f"{type(error).__name__} at {' > '.join(places)}"
