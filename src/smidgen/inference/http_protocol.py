"""Requests and completions as OpenAI's protocol has them.

https://platform.openai.com/docs/api-reference/chat. What the protocol has no place for is refused, and what a
server answers is checked.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError

from smidgen.data.control_tokens import defused
from smidgen.data.schemas import check_schema, validate
from smidgen.data.templates import REPLACEMENT, TEXT
from smidgen.data.types import Completion, Constraint, Message, Request, Sampling, Timing
from smidgen.errors import ConfigError, WorkError
from smidgen.inference.constraints import check_constrained, grammar_of
from smidgen.inference.http_faults import RequestFailed
from smidgen.inference.http_server import Answer, excerpt
from smidgen.inference.sampling import check_sampling
from smidgen.inference.stopping import end_of

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
ABOUT_LENGTH = (
    "maximum context length",  # vLLM, SGLang, OpenAI
    "the model's context length",  # vLLM from 0.16, SGLang
    "maximum model length",  # vLLM's engine
    "context_length_exceeded",  # OpenAI's code
    "exceed_context_size_error",  # llama.cpp's type
    "available context size",  # llama.cpp before that
    "exceeds the context length",  # Ollama, where it is told not to cut the prompt
    "max_tokens is too large",  # OpenAI: more than the model ever answers
)
"""What servers say if prompt and answer do not fit. mlx_lm.server takes any length."""
OTHER_LIMIT = "max_completion_tokens"
"""What OpenAI's newer models want instead of `max_tokens`; some other servers ignore it."""


def request_body(
    request: Request, model: str, *, thinking: bool, limit_name: str = "max_tokens"
) -> dict[str, Any]:
    """Return what is sent for a request; `limit_name` is what the server calls the most tokens to answer.

    Raises:
        ConfigError: a setting is out of range or has no place in the protocol.
    """
    sampling = request.sampling
    check_sampling(sampling)
    _refuse_unknown(sampling)
    _refuse_begun(request.sample.messages)
    check_constrained(request, thinking=thinking)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": m.role, "content": defused(m.content)} for m in request.sample.messages],
        limit_name: sampling.max_tokens,
        "temperature": sampling.temperature,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": thinking},  # vLLM, llama-server and mlx_lm.server read it
    }
    optional = {
        "top_p": (sampling.top_p, sampling.top_p != 1.0),
        "frequency_penalty": (sampling.frequency_penalty, sampling.frequency_penalty != 0),
        "seed": (_seed(sampling.seed, request.sample.id), sampling.temperature > 0),
        "stop": (list(sampling.stop), bool(sampling.stop)),
        "response_format": (_response_format(request.constraint), request.constraint is not None),
    }
    return body | {name: value for name, (value, is_given) in optional.items() if is_given}


def _refuse_begun(messages: Sequence[Message]) -> None:
    """Refuse prompts that are more or less than a conversation that ends with a question."""
    if any(message.role == TEXT for message in messages):
        raise ConfigError(
            "a server is asked through its chat template, so a prompt cannot stand alone; "
            "leave --no-chat-template out or run the model here"
        )
    if messages and messages[-1].role == "assistant":
        raise ConfigError(
            "servers differ in whether they go on with an answer that was begun, as in the template single; "
            "use another template or run the model here"
        )


def read_answer(request: Request, answer: str, seconds: float, url: str, *, thinking: bool) -> Completion:
    """Read what a server answered in so many seconds; half a surrogate pair becomes U+FFFD.

    Raises:
        RequestFailed: it is no completion, or does not keep to the constraint.
    """
    try:
        content = json.loads(answer)
        choice = content["choices"][0]
        text, reason = choice["message"].get("content") or "", _reason(choice.get("finish_reason"))
        if not isinstance(text, str):
            raise TypeError("content must be a text")
        timing = _timing(content.get("usage"), seconds)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise RequestFailed(
            WorkError,
            f"the server at {url} answered what is no completion ({type(error).__name__}: {error}): "
            f"{excerpt(answer)}",
            ". Check that the URL is that of an OpenAI-compatible server",
        ) from None
    text = HALF_CHARACTER.sub(REPLACEMENT, text)
    if request.constraint is not None and reason == "stop":
        text = _constrained(request.constraint, text, url)
    for stop in request.sampling.stop:
        text = text.partition(stop)[0]
    inside = thinking and "</think>" in text  # most servers put what is thought elsewhere
    sampling = request.sampling
    text = text[: end_of(text, sampling.stop_after, boxed=sampling.stop_at_boxed, thinking=inside)]
    return Completion(text, finish_reason=reason, timing=timing)


def wants_other_limit(answer: Answer) -> bool:
    """Whether a server refuses a request because it names `max_tokens`."""
    return answer.status in (400, 422) and OTHER_LIMIT in answer.text and not is_about_length(answer)


def is_about_length(answer: Answer) -> bool:
    """Whether a server refuses a request because prompt and answer do not fit its model."""
    said = answer.text.lower()
    return answer.status in (400, 413, 422) and any(phrase in said for phrase in ABOUT_LENGTH)


def _reason(said: Any) -> str:
    """Why the answer ended, in smidgen's words; `function_call` is an older word of the protocol."""
    reason = "tool_calls" if said == "function_call" else said
    if reason not in ("stop", "length", "content_filter", "tool_calls"):
        raise ValueError(f"the finish_reason is {said!r}")
    return reason


def _timing(usage: Any, seconds: float) -> Timing | None:
    """Token counts as the server bills them; None if it tells none that can be read."""
    counts = usage if isinstance(usage, dict) else {}
    numbers = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (n if type(n) is int and 0 <= n < 2**31 else None for n in numbers)
    return None if read is None or written is None else Timing(seconds, seconds, read, written)


def _constrained(constraint: Constraint, text: str, url: str) -> str:
    """The text that was asked for, if the server has kept to the constraint."""
    try:
        value = json.loads(text)
        validate(value, _schema(constraint))
    except (ValueError, RecursionError, ValidationError) as error:
        raise RequestFailed(
            WorkError,
            f"the server at {url} does not keep to response_format ({str(error).splitlines()[0]})",
            "; use a server that does, or leave the constraint out",
        ) from None
    return value if constraint.kind == "choices" else text


def _refuse_unknown(sampling: Sampling) -> None:
    unknown = {
        "top_k": sampling.top_k != 0,
        "min_p": sampling.min_p != 0,
        "repetition_penalty": sampling.repetition_penalty != 1.0,
    }
    if given := [name for name, is_given in unknown.items() if is_given]:
        raise ConfigError(
            f"OpenAI's protocol has no {' and no '.join(given)}; leave it out or use another engine"
        )


def _response_format(constraint: Constraint | None) -> dict[str, Any] | None:
    if constraint is None:
        return None
    schema = {"name": "answer", "strict": True, "schema": _schema(constraint)}
    return {"type": "json_schema", "json_schema": schema}


def _schema(constraint: Constraint) -> Any:
    """A constraint as a JSON schema, the only kind that the protocol has; choices are texts in quotes."""
    grammar_of(constraint)  # refuses what cannot be read
    if constraint.kind == "regex":
        raise ConfigError(
            "OpenAI's protocol has no regular expressions; give a schema or choices, or use another engine"
        )
    value = json.loads(constraint.value)
    if constraint.kind == "choices":
        return {"type": "string", "enum": value}
    try:
        check_schema(value)
    except SchemaError as error:
        raise ConfigError(
            f"what a server answers cannot be held against the schema: {error.message}; "
            "write its regular expressions as Python reads them"
        ) from None
    return value


def _seed(seed: int, sample_id: str) -> int:
    """A seed of each sample's own, below 2³¹."""
    digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
