"""Whatever is wrong with a request gets a status of 4xx and a sentence, and the next one is served."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from tests.router.scripted import Scripted
from tests.serving.malformed import GOOD, as_json, malformed_requests
from tests.serving.specialised import Whole, whole_server
from tests.serving.test_endpoints import save
from tests.tools.served import exchange

from smidgen.data.types import Request
from smidgen.serving import connections
from smidgen.serving.specialists import SpecialistSettings

PATIENT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Every endpoint on a scripted model, with a store."""

    def say(request: Request) -> str:
        return "[[A]]" if request.constraint is None else save(request)

    store: Path = tmp_path_factory.mktemp("store") / "memory.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", 0.4)
        with whole_server(Scripted(say), SpecialistSettings(budget=20, store=store)) as running:
            yield running


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What libraries log as errors meanwhile."""
    found: list[str] = []

    class Listed(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    handler = Listed(logging.ERROR)
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)


def refused(server: Whole, errors: list[str], data: bytes) -> None:
    """Send a malformed request, then a right one."""
    answer = exchange(server.port, data)
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500, (status, answer)
    error, _ = json.JSONDecoder().raw_decode(answer.partition(b"\r\n\r\n")[2].decode())
    message = error["error"]["message"]
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert len(message) >= 12 and " " in message and "Traceback" not in message
    assert exchange(server.port, as_json("/v1/memory/search", b'{"query": "x"}')).startswith(b"HTTP/1.1 200")
    assert not errors
    assert not [row for row in server.log.rows if "fault" in row or row.get("status", 0) >= 500]


@pytest.mark.parametrize("path", [path for path in GOOD if path != "/v1/memory/undo"])
def test_what_the_malformed_ones_are_made_of_is_right(server: Whole, path: str):
    answer = exchange(server.port, as_json(path, json.dumps(GOOD[path]).encode()))
    assert answer.startswith(b"HTTP/1.1 200"), answer


@settings(max_examples=60, suppress_health_check=PATIENT)
@given(data=malformed_requests())
@example(data=b"\x80 / HTTP/1.1\r\n\r\n")
def test_60_malformed_requests(server: Whole, errors: list[str], data: bytes):
    refused(server, errors, data)


@pytest.mark.slow
@settings(max_examples=3000, suppress_health_check=PATIENT)
@given(data=malformed_requests())
def test_3000_malformed_requests(server: Whole, errors: list[str], data: bytes):
    refused(server, errors, data)
