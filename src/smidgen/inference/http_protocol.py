"""Requests and completions in OpenAI's protocol.

https://platform.openai.com/docs/api-reference/chat. Settings that the protocol lacks are refused, and
answers are validated.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from jsonschema.exceptions import SchemaError, ValidationError

from smidgen.data.control_tokens import defused
from smidgen.data.schemas import check_schema, validate
from smidgen.data.stream_decoder import HALF_CHARACTER, REPLACEMENT
from smidgen.data.templates import TEXT
from smidgen.data.types import Completion, Constraint, Message, Request, Sampling, Timing
from smidgen.errors import ConfigError, WorkError
from smidgen.inference.constraints import check_constrained, grammar_of
from smidgen.inference.http_faults import RequestFailed
from smidgen.inference.http_server import Answer, excerpt
from smidgen.inference.sampling import check_sampling
from smidgen.inference.stopping import end_of

ABOUT_LENGTH = (
    "maximum context length",  # vLLM, SGLang, OpenAI
    "the model's context length",  # vLLM from 0.16, SGLang
    "maximum model length",  # vLLM's engine
    "context_length_exceeded",  # OpenAI's code
    "exceed_context_size_error",  # llama.cpp's type
    "available context size",  # llama.cpp before that
    "exceeds the context length",  # Ollama, if it is set not to truncate the prompt
    "max_tokens is too large",  # OpenAI: above the model's output limit
)
"""Phrases in errors of servers if prompt and answer do not fit. mlx_lm.server accepts any length."""
OTHER_LIMIT = "max_completion_tokens"
"""Replaces `max_tokens` for OpenAI's newer models; some other servers ignore it."""


def request_body(
    request: Request, model: str, *, thinking: bool, limit_name: str = "max_tokens"
) -> dict[str, Any]:
    """Return the JSON body of a request; `limit_name` is the server's name for the maximum number of tokens.

    Raises:
        ConfigError: a setting is out of range or missing in the protocol.
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
    """Refuse plain text prompts and conversations that end with an assistant turn."""
    if any(message.role == TEXT for message in messages):
        raise ConfigError(
            "a server applies its chat template, so it cannot complete a plain text; "
            "leave --no-chat-template out or run the model locally"
        )
    if messages and messages[-1].role == "assistant":
        raise ConfigError(
            "not every server continues a partial answer, which the template single needs; "
            "use another template or run the model locally"
        )


def read_answer(request: Request, answer: str, seconds: float, url: str, *, thinking: bool) -> Completion:
    """Parse a server's answer, which took `seconds`; half a surrogate pair becomes U+FFFD.

    Raises:
        RequestFailed: the answer is not a completion, or violates the constraint.
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
            f"the server at {url} answered with something that is not a completion "
            f"({type(error).__name__}: {error}): {excerpt(answer)}",
            ". Check that the URL is that of an OpenAI-compatible server",
        ) from None
    text = HALF_CHARACTER.sub(REPLACEMENT, text)
    if request.constraint is not None and reason == "stop":
        text = _constrained(request.constraint, text, url)
    for stop in request.sampling.stop:
        text = text.partition(stop)[0]
    inside = thinking and "</think>" in text  # most servers return reasoning in another field
    sampling = request.sampling
    text = text[: end_of(text, sampling.stop_after, boxed=sampling.stop_at_boxed, thinking=inside)]
    return Completion(text, finish_reason=reason, timing=timing)


def wants_other_limit(answer: Answer) -> bool:
    """Return whether a server refuses a request because it uses `max_tokens`."""
    return answer.status in (400, 422) and OTHER_LIMIT in answer.text and not is_about_length(answer)


def is_about_length(answer: Answer) -> bool:
    """Return whether a server refuses a request because prompt and answer do not fit the context."""
    text = answer.text.lower()
    return answer.status in (400, 413, 422) and any(phrase in text for phrase in ABOUT_LENGTH)


def _reason(value: Any) -> str:
    """Return the finish reason; `function_call` is an older name in the protocol."""
    reason = "tool_calls" if value == "function_call" else value
    if reason not in ("stop", "length", "content_filter", "tool_calls"):
        raise ValueError(f"the finish_reason is {value!r}")
    return reason


def _timing(usage: Any, seconds: float) -> Timing | None:
    """Return the token counts that the server reports; None if it reports none, or invalid ones."""
    counts = usage if isinstance(usage, dict) else {}
    numbers = [counts.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (n if type(n) is int and 0 <= n < 2**31 else None for n in numbers)
    return None if read is None or written is None else Timing(seconds, seconds, read, written)


def _constrained(constraint: Constraint, text: str, url: str) -> str:
    """Return the constrained text after checking it against the constraint."""
    try:
        value = json.loads(text)
        validate(value, _schema(constraint))
    except (ValueError, RecursionError, ValidationError) as error:
        raise RequestFailed(
            WorkError,
            f"the server at {url} does not follow response_format ({str(error).splitlines()[0]})",
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
    """Return a constraint as JSON schema, the only kind in the protocol; choices become quoted strings."""
    grammar_of(constraint)  # refuses an invalid constraint
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
            f"answers of a server cannot be validated against the schema: {error.message}; "
            "write its regular expressions in Python's syntax"
        ) from None
    return value


def _seed(seed: int, sample_id: str) -> int:
    """Return a separate seed for each sample, below 2³¹."""
    digest = hashlib.blake2b(f"{seed}/{sample_id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1
