"""Requests that are wrong in one way each, by construction, made of right ones."""

import json
from typing import Any

from hypothesis import strategies as st

GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "seed": 1},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2, "temperature": 0.5, "stop": ["x"]},
    "/v1/judge": {"prompt": "1 + 1?", "a": "2", "b": "3", "template": "verdict", "max_tokens": 2},
    "/v1/judge/grade": {"prompt": "1 + 1?", "answer": "2", "max_tokens": 2},
    "/v1/judge/rank": {"prompt": "1 + 1?", "answers": ["2", "3"], "max_tokens": 2},
    "/v1/route": {"text": "My sister lives in Graz.", "id": "a"},
    "/v1/memory/search": {"query": "Graz", "limit": 3},
    "/v1/memory/undo": {"entry": 1},
}
"""A right body of every endpoint that takes one."""
NO_NUMBERS = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e400")
NOWHERE = (b"/v1/../../etc/passwd", b"/%2e%2e/etc/passwd", b"/v1/%00", b"//", b"/v1/judge\x80")
REQUIRED = ("messages", "prompt", "a", "answer", "answers", "text", "query", "entry")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def request_bytes(path: str, body: bytes, *, headers: bytes = b"", method: bytes = b"POST") -> bytes:
    """A request whose connection ends with the answer."""
    head = b"%b %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b" % (method, path.encode(), headers)
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def as_json(path: str, body: bytes) -> bytes:
    """A request with a body that is declared as JSON."""
    return request_bytes(path, body, headers=b"Content-Type: application/json\r\n")


@st.composite
def no_json(draw: st.DrawFn, path: str) -> bytes:
    """Bodies that are no JSON, or JSON that two readers could understand differently."""
    whole = json.dumps(GOOD[path]).encode()
    inner = whole[1:-1]
    strange = [
        whole[: draw(st.integers(0, len(whole) - 1))],
        whole + draw(st.sampled_from([b"}", b"]", b"{}", b",", b"\x00", b"x"])),
        whole.decode().encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-16-le"]))),
        b"\xef\xbb\xbf" + whole,
        b'{%b, "x": %b}' % (inner, draw(st.sampled_from(NO_NUMBERS))),
        b'{%b, "x": %b}' % (inner, b"9" * draw(st.integers(20, 6000))),
        b"{%b, %b}" % (inner, inner),
        b'{%b, "x": "\\ud8%02x"}' % (inner, draw(st.integers(0, 255))),
        b'{%b, "x": %b}' % (inner, b"[" * (depth := draw(st.integers(65, 3000))) + b"]" * depth),
        b'{%b, "x": %b1%b}' % (inner, b'{"a":' * depth, b"}" * depth),
        whole.replace(b'"', draw(st.sampled_from([b"'", b"\xff", b"\xc3", b"\\"]))),
        draw(st.binary(max_size=60)),
        draw(json_values.filter(lambda value: not isinstance(value, dict)).map(json.dumps)).encode(),
    ]
    return draw(st.sampled_from(strange))


@st.composite
def wrong_fields(draw: st.DrawFn, path: str) -> bytes:
    """Objects that lack a field, have one too many, or one of another type."""
    body = dict(GOOD[path])
    kind = draw(st.sampled_from(["missing", "unknown", "type", "anything"]))
    if kind == "missing":
        del body[draw(st.sampled_from([name for name in body if name in REQUIRED]))]
    elif kind == "unknown":
        body[f"{draw(st.text(max_size=12))}?"] = draw(json_values)
    elif kind == "type":
        body[draw(st.sampled_from(sorted(body)))] = draw(st.sampled_from([{"x": 1}, [[1]], True]))
    else:
        body = draw(st.dictionaries(st.text(max_size=8), json_values, max_size=5))
    return json.dumps(body).encode()


@st.composite
def wrong_headers(draw: st.DrawFn, path: str) -> bytes:
    """Requests with a right body and a head that is wrong."""
    body, kind = json.dumps(GOOD[path]).encode(), b"Content-Type: application/json\r\n"
    text = draw(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30)).encode()
    control = draw(st.sampled_from([b"\x00", b"\x01", b"\x7f", b"\r", b"\n", b"\x0b"]))
    good, charset = as_json(path, body), kind.replace(b"\r", b"; charset=x" + text + b"\r")
    version = draw(st.sampled_from([b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.1.1", b"http", b""]))
    method = draw(st.sampled_from([b"GET /v1", b"PUT /v1", b"DELETE /v1", b"P\x00ST /v1", b"/v1"]))
    nowhere = draw(st.sampled_from([*NOWHERE, b"/v1/" + text]))
    number = draw(st.integers(101, 300))
    return draw(
        st.sampled_from(
            [
                good.replace(b"Host: localhost", b"Host: " + text + b".example"),
                good.replace(b"Host: localhost", b"Host: localhost\r\nHost: localhost"),
                good.replace(b"Host: localhost\r\n", b""),
                good.replace(b"Host: localhost", b"Host: localhost\r\nOrigin: https://" + text + b".example"),
                request_bytes(path, body, headers=b"Content-Type: text/" + text + b"\r\n"),
                request_bytes(path, body, headers=charset),
                request_bytes(path, body),
                request_bytes(path, body, headers=kind + b"Content-Encoding: " + text + b"\r\n"),
                request_bytes(path, body, headers=kind + b"Content-Length: 1\r\n"),
                request_bytes(path, body, headers=kind + b"Transfer-Encoding: " + text + b"\r\n"),
                request_bytes(path, body, headers=kind + b"Transfer-Encoding: chunked\r\n"),
                request_bytes(path, body, headers=kind + text + b"\r\n"),
                request_bytes(path, body, headers=kind + text + b" : 1\r\n"),
                request_bytes(path, body, headers=kind + b"X: " + text + control + text + b"\r\n"),
                request_bytes(path, body, headers=kind + b"X" + control + b": " + text + b"\r\n"),
                request_bytes(path, body, headers=kind + b"X: 1\r\n" * number),
                request_bytes(path, body, headers=kind + b"X: " + text * 17_000 + b"\r\n"),
                good.replace(b"Content-Length: ", b"Content-Length: -"),
                good.replace(b"Content-Length: ", b"Content-Length: 9999999999999"),
                good.replace(b"HTTP/1.1", version),
                good.replace(b"POST /v1", method),
                good.replace(path.encode(), nowhere),
                draw(st.binary(min_size=1, max_size=100)) + b"\r\n\r\n",
            ]
        )
    )  # fmt: skip


@st.composite
def malformed_requests(draw: st.DrawFn) -> bytes:
    """Requests that a server must refuse with a status of 4xx."""
    path = draw(st.sampled_from(sorted(GOOD)))
    kind = draw(st.sampled_from([no_json, wrong_fields, wrong_headers]))
    made = draw(kind(path))
    return made if kind is wrong_headers else as_json(path, made)
