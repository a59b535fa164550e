"""A real uvicorn server in a thread of the test's process, and raw bytes to it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from smidgen.serving.connections import GuardedProtocol


@contextmanager
def served(app: ASGIApp, **settings: Any) -> Iterator[int]:
    """Serve an app on a free port of the loopback, which is yielded."""
    given: dict[str, Any] = {
        "http": GuardedProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "lifespan": "off",
    }
    server = uvicorn.Server(uvicorn.Config(app, port=0, **given | settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def connected(port: int, *, timeout: float = 10.0) -> socket.socket:
    """Connect to a server of this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def exchange(port: int, data: bytes, *, timeout: float = 10.0) -> bytes:
    """Send bytes, and return everything that comes until the server closes the connection."""
    with connected(port, timeout=timeout) as client:
        client.sendall(data)
        return received(client)


def received(client: socket.socket) -> bytes:
    """Everything that comes until the server closes the connection, with or without a reset."""
    parts = []
    try:
        while part := client.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def one_answer(client: socket.socket) -> bytes:
    """One response of a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(2**16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(2**16)
    return head + b"\r\n\r\n" + body
