"""JSON as it comes from strangers: whatever two readers could understand differently is refused.

RFC 8259 leaves open what duplicate keys, huge numbers and lone surrogates mean, and Python's `json` reads
`NaN` and `1e999`. Nesting is limited, since others read JSON recursively (pydantic, JSON Schema).
"""

import json
import math
import re
from typing import Any

import anyio.to_thread
from starlette.requests import Request

from smidgen.serving.faults import ApiError

MAX_DEPTH = 64
QUICK_BYTES = 2**16
"""Larger bodies are parsed in a thread, so that they do not hold up other clients."""
MAX_INTEGER = 2**63 - 1
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Refused(ValueError):
    """What is wrong with a value, as the end of a sentence that begins with `the body`."""


async def read_json_body(request: Request) -> Any:
    """Read the body of a request; raises as `read_json` does."""
    data = await request.body()
    return read_json(data) if len(data) <= QUICK_BYTES else await anyio.to_thread.run_sync(read_json, data)


def read_json(data: bytes) -> Any:
    """Read the body of a request.

    Raises:
        ApiError: 400; it is not JSON, or has what no two readers agree on.
    """
    if not data.strip():
        raise _bad("is empty; expected a JSON object")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
        if _is_deeper(value, MAX_DEPTH):
            raise _Refused(f"is nested more than {MAX_DEPTH} deep; send a flatter one")
    except _Refused as error:
        raise _bad(str(error)) from None
    except UnicodeDecodeError as error:
        raise _bad(f"is not UTF-8 at byte {error.start}; send JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad(
            f"is not JSON ({error.msg}, line {error.lineno}, column {error.colno}); expected a JSON object"
        ) from None
    except RecursionError:
        raise _bad(f"is nested more than {MAX_DEPTH} deep; send a flatter one") from None
    if _ESCAPED_SURROGATE.search(data) and _has_lone_surrogate(value):
        raise _bad("has half a character (a lone surrogate such as \\ud800); send whole ones")
    return value


def _bad(what: str) -> ApiError:
    return ApiError(400, f"the body {what}", code="invalid_json")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise _Refused(f"has the key {_shown(twice)} twice in one object; send it once")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise _Refused(f"has the integer {_shown(digits)}; expected at most 64 bits")
    return number


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _Refused(f"has the number {_shown(digits)}, which is too large; expected a finite one")
    return number


def _constant(name: str) -> float:
    raise _Refused(f"has {name}, which is not JSON; expected finite numbers")


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects stand in each other more than `depth` deep; looked at level by level."""
    level = [value]
    for _ in range(depth):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _shown(text: str) -> str:
    shown = text.encode("utf-8", "replace").decode("utf-8")
    return f"'{shown}'" if len(shown) <= 40 else f"'{shown[:40]}…'"
