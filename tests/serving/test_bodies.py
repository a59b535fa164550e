"""Bodies and connections on a real server: what is too large, too slow or no HTTP is cut early."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from starlette.types import Message
from tests.serving.toy import MAX_BODY_BYTES, ListedLog, toy
from tests.tools.served import connected, exchange, one_answer, received, served

from smidgen.serving import body_limits, connections
from smidgen.serving.body_limits import Bodies, ClientGone
from smidgen.serving.faults import ApiError
from smidgen.serving.guard import Guards
from smidgen.serving.strict_json import MAX_DEPTH, read_json

HEAD = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GIGABYTE = 10**9
SOON = 0.2


@pytest.fixture(scope="module")
def log() -> ListedLog:
    return ListedLog()


@pytest.fixture(scope="module")
def port(log: ListedLog) -> Iterator[int]:
    """A server that waits for heads, bodies and readers for `SOON` seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", SOON)
        patch.setattr(connections, "SEND_SECONDS", SOON)
        patch.setattr(body_limits, "LINGER_SECONDS", SOON)
        guards = Guards(max_body_bytes=MAX_BODY_BYTES, body_seconds=SOON)
        with served(toy(guards, log=log), limit_concurrency=20, timeout_keep_alive=SOON) as port:
            yield port


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def sentence_of(answer: bytes) -> str:
    return json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())[0]["error"]["message"]


def with_body(body: bytes) -> bytes:
    return b"%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (HEAD, len(body), body)


def serves(port: int) -> bool:
    answer = exchange(port, with_body(b'{"a": 1}'))
    return status_of(answer) == 200 and answer.endswith(b'{"a":1}')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "is empty"),
        (b"  ", "is empty"),
        (b"{", "is not JSON (Expecting property name"),
        (b'{"a": 1}}', "is not JSON (Extra data"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON (Unexpected UTF-8 BOM"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b'{"a": NaN}', "has NaN, which is not JSON"),
        (b'{"a": -Infinity}', "has -Infinity"),
        (b'{"a": 1e999}', "has the number '1e999', which is too large"),
        (b'{"a": 9223372036854775808}', "has the integer '9223372036854775808'"),
        (b'{"a": ' + b"9" * 5000 + b"}", "has the integer '9999"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "has the key 'b' twice in one object"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "has the key '?' twice"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "is nested more than 64 deep"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "is nested more than 64 deep"),
        (b"[" * 90_000, "is nested more than 64 deep"),
        (b'{"a": "\n"}', "is not JSON (Invalid control character"),
    ],
)
def test_what_two_readers_could_understand_differently(port: int, body: bytes, said: str):
    answer = exchange(port, with_body(body))
    assert status_of(answer) == 400 and said in sentence_of(answer)


def test_what_is_strange_but_clear_passes():
    body = '{"a": "\\ud83d\\ude00 é \\u0000", "": [1e308, -0.0, 9223372036854775807], "\\\\ud800": null}'
    assert read_json(body.encode()) == json.loads(body)
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert read_json(deep) == json.loads(deep)


def test_a_large_body_of_strange_json_takes_no_long_time():
    started = time.perf_counter()
    read_json(b"[" + b"[]," * 100_000 + b"[]]")
    with pytest.raises(ApiError, match="'99999' twice"):
        read_json(b"{%b}" % b",".join(b'"%d":1' % min(number, 99_999) for number in range(100_001)))
    assert time.perf_counter() - started < 5  # quadratic would be minutes


@pytest.mark.parametrize(
    ("header", "status", "said"),
    [
        (b"Content-Type: text/plain", 415, "is 'text/plain'; send JSON"),
        (b"Content-Type: application/json; charset=latin-1", 415, "send JSON with the header"),
        (b"X: 1", 415, "Content-Type is ''"),
        (b"Content-Type: application/json\r\nContent-Encoding: gzip", 415, "is compressed"),
        (b"Content-Type: application/json\r\nTransfer-Encoding: chunked", 400, "expected one of them"),
    ],
)
def test_bodies_of_another_kind(port: int, header: bytes, status: int, said: str):
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 7\r\n"
    answer = exchange(port, head + header + b"\r\n\r\n2\r\n{}\r\n")
    assert status_of(answer) == status and said in sentence_of(answer)


def test_what_takes_no_body(port: int):
    answer = exchange(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
    assert status_of(answer) == 400 and "GET takes no body here" in sentence_of(answer)
    zero = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert status_of(exchange(port, zero)) == 200


@pytest.mark.parametrize("length", [b"abc", b"-1", b"1e3", b"0x10", b"9" * 30, b"1, 2"])
def test_lengths_that_are_none_or_endless(port: int, length: bytes):
    answer = exchange(port, b"%bContent-Length: %b\r\n\r\n{}" % (HEAD, length))
    assert status_of(answer) in (400, 413) and sentence_of(answer)


def test_a_declared_gigabyte_is_refused_before_it_is_sent(port: int):
    with connected(port) as client:
        client.sendall(b"%bContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (HEAD, GIGABYTE))
        answer = received(client)
    assert status_of(answer) == 413 and "larger than 100,000 bytes" in sentence_of(answer)
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("host", [b"localhost", b"evil.example"])
def test_a_gigabyte_that_is_sent_anyway_is_cut(port: int, declared: bool, host: bytes):
    head = HEAD.replace(b"localhost", host)
    head += b"Content-Length: %d\r\n\r\n" % GIGABYTE if declared else b"Transfer-Encoding: chunked\r\n\r\n"
    part = b"x" * 2**16
    piece = part if declared else b"%x\r\n%b\r\n" % (len(part), part)
    sent, answer = 0, b""
    with connected(port) as client:
        client.sendall(head)
        with suppress(OSError):  # the server closes the connection
            while sent < GIGABYTE:
                client.sendall(piece)
                sent += len(part)
        with suppress(OSError):
            answer = received(client)
    assert sent < 50 * 2**20  # what lies in the buffers of two sockets, and a little that is read politely
    assert not answer or status_of(answer) in (403, 413)
    assert serves(port)


def test_a_refused_client_that_sends_a_little_more_sees_the_answer(port: int):
    """Closing with unread bytes would reset its connection, and the answer with it."""
    with connected(port) as client:
        client.sendall(with_body(b"x" * (MAX_BODY_BYTES + 1)))
        time.sleep(0.05)
        client.settimeout(5)
        answer = b"".join(iter(lambda: client.recv(2**16), b""))
    assert status_of(answer) == 413


def test_a_refusal_of_a_body_that_was_read_keeps_the_connection(port: int):
    with connected(port) as client:
        for body, status in ((b"[", 400), (b"[1]", 200)):
            client.sendall(with_body(body).replace(b"Connection: close\r\n", b""))
            answer = one_answer(client)
            assert status_of(answer) == status and b"connection: close" not in answer.lower()


@pytest.mark.parametrize("begun", [b"", b"P", HEAD, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_does_not_come_is_cut(port: int, begun: bytes):
    started = time.perf_counter()
    with connected(port) as client:
        client.sendall(begun)
        answer = received(client)
    assert status_of(answer) == 408 and "the headers did not arrive within" in sentence_of(answer)
    assert SOON * 0.9 < time.perf_counter() - started < 5


def test_a_head_that_drips_is_cut(port: int):
    started = time.perf_counter()
    with connected(port) as client, suppress(OSError):
        while time.perf_counter() - started < 5:
            client.sendall(b"GET /" if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else b"x")
            time.sleep(0.02)
    assert time.perf_counter() - started < 3
    assert serves(port)


def test_a_second_head_that_drips_is_cut_too(port: int):
    with connected(port) as client:
        client.sendall(with_body(b"[1]").replace(b"Connection: close\r\n", b""))
        assert status_of(one_answer(client)) == 200
        started = time.perf_counter()
        with suppress(OSError):
            while time.perf_counter() - started < 5:
                client.sendall(b"x")
                time.sleep(0.02)
        assert time.perf_counter() - started < 3


def test_an_idle_connection_is_closed(port: int):
    started = time.perf_counter()
    with connected(port) as client:
        client.sendall(with_body(b"[1]").replace(b"Connection: close\r\n", b""))
        assert status_of(received(client)) == 200
    assert time.perf_counter() - started < 4


def test_a_body_that_does_not_come_is_cut(port: int):
    with connected(port) as client:
        client.sendall(HEAD + b'Content-Length: 10\r\n\r\n{"a')
        answer = received(client)
    assert status_of(answer) == 408 and f"the body did not arrive within {SOON} s" in sentence_of(answer)


def test_a_client_that_leaves_in_its_body_is_no_failure(port: int, log: ListedLog):
    with connected(port) as client:
        client.sendall(HEAD + b'Content-Length: 10\r\n\r\n{"a')
    assert "fault" not in log.row(lambda row: row["status"] == 499)
    assert serves(port)


def test_a_client_that_reads_nothing_is_cut(port: int, log: ListedLog):
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.settimeout(5)
        client.sendall(b"GET /v1/flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
        log.row(lambda row: row["route"] == "/v1/flood")
        assert len(received(client)) < 64 * 2**20


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # HTTP/2
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\x00" * 100,
        b"POST /v1/echo HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nX: a\x01b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_http(port: int, data: bytes):
    answer = exchange(port, data)
    assert 400 <= status_of(answer) < 500 or status_of(answer) == 501
    assert sentence_of(answer)


def test_chunks_that_are_none_end_the_connection(port: int):
    answer = exchange(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n")
    assert status_of(answer) == 400 and serves(port)


def test_more_connections_than_the_server_takes(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 10)  # all of them are open together
    open_ones = [connected(port) for _ in range(19)]
    try:
        answer = exchange(port, b"")
        assert status_of(answer) == 503 and "as many connections as it takes" in sentence_of(answer)
    finally:
        for each in open_ones:
            each.close()
    time.sleep(0.1)
    assert serves(port)


def test_paths_that_climb_are_no_files(port: int):
    for path in (
        b"/../../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/v1/..%2f..%2fetc/passwd",
        b"//etc/passwd",
    ):
        answer = exchange(port, b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path)
        assert status_of(answer) == 404 and b"root:" not in answer


def test_a_failure_midway_cuts_the_connection(port: int, log: ListedLog):
    body = with_body(b"{}").replace(b"/v1/echo", b"/v1/fail-midway")
    answer = exchange(port, body)
    assert b"half " in answer and not answer.endswith(b"0\r\n\r\n")  # which a client would take for the end
    assert "ValueError at" in log.row(lambda row: row["route"] == "/v1/fail-midway")["fault"]


def test_a_client_that_is_gone_is_not_answered():
    async def app(scope, receive, send):
        raise AssertionError

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(ClientGone):
        asyncio.run(Bodies(app, most=10, seconds=1)(scope, receive, send))
