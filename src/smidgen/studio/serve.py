"""Serve the studio on the loopback interface until it is interrupted."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn

from smidgen.errors import WorkError
from smidgen.studio.app import make_app
from smidgen.studio.jobs import Jobs
from smidgen.studio.security import new_token
from smidgen.studio.workspace import Workspace

HOST = "127.0.0.1"
SECONDS_TO_CLOSE = 3
"""How long open streams may hold up the end; the browser notices and connects again."""


def serve(workspace: Workspace, port: int, opened: Callable[[str], None]) -> None:
    """Serve the studio of a workspace; returns when it is interrupted, after all its commands have ended.

    Args:
        workspace: the folder to work in.
        port: the port; 0 takes a free one.
        opened: called with the address, token included, once connections are accepted.

    Raises:
        WorkError: the port is in use.
    """
    listening = _listen(port)
    token = new_token()
    jobs = Jobs(workspace.root)
    config = uvicorn.Config(
        make_app(workspace, token, jobs),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_CLOSE,
        lifespan="on",
    )
    opened(f"http://{HOST}:{listening.getsockname()[1]}/?token={token}")
    try:
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended
            _Server(config, jobs).run(sockets=[listening])
    finally:
        listening.close()


class _Server(uvicorn.Server):
    """A server that ends what it has started before it waits for the requests that are answered by it."""

    def __init__(self, config: uvicorn.Config, jobs: Jobs) -> None:
        super().__init__(config)
        self._jobs = jobs

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the jobs, then the server."""
        await self._jobs.close()
        await super().shutdown(sockets)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = (error.strerror or str(error)).lower()
        raise WorkError(
            f"port {port} cannot be used: {reason}; choose another one, as --port 0 does by itself"
        ) from None
    return listening
