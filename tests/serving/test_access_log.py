"""The log of a server: lines of JSON whatever is in them, for its owner only, and never in the way."""

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from smidgen.errors import UserError
from smidgen.serving.access_log import AccessLog
from smidgen.serving.faults import FAILED, ApiError
from smidgen.serving.request_facts import RequestFacts, fault_of


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_of_json_that_nothing_can_forge(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    for text in ("a", 'b\n{"status": 200}', "\u2028", "\ud800"):
        log = AccessLog(path)  # a second start goes on at the end
        log.write(texts=text)
        log.close()
    assert [row["texts"] for row in rows_of(path)] == ["a", 'b\n{"status": 200}', "\u2028", "\ud800"]
    assert all(row["time"].endswith("+00:00") for row in rows_of(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_stderr_without_a_file(capfd: pytest.CaptureFixture[str]):
    log = AccessLog()
    log.write(status=200)
    log.close()
    sys.stderr.write("still open")
    err = capfd.readouterr().err
    assert json.loads(err.splitlines()[0])["status"] == 200 and err.endswith("still open")


def test_a_file_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot be written .*; name another file"):
        AccessLog(tmp_path)


def test_a_full_disk_stops_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    log = AccessLog(tmp_path / "log.jsonl")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.write(status=200)
    log.write(status=200)
    assert capsys.readouterr().err.count("its lines are lost") == 1
    log.close()


def test_how_a_stream_ended_that_had_begun_is_noted():
    facts = RequestFacts()
    facts.note_failure(ApiError(503, "the server is stopping"), in_stream=True)
    assert facts.fault == "the stream ended with 503"
    facts.note_failure(ApiError(503, "the queue is full"))
    assert facts.fault == "the stream ended with 503"  # a status says it otherwise
    failure = ApiError(500, "the engine failed", FAILED)
    failure.__cause__ = ValueError("the secret text of a prompt")
    facts.note_failure(failure, in_stream=True)
    assert facts.fault.startswith("the stream ended with 500 ValueError at") and "secret" not in facts.fault


def test_what_libraries_log_comes_without_messages_of_errors(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log, logger = AccessLog(path), logging.getLogger("smidgen.test")
    with log.taking("smidgen.test"):
        try:
            raise ValueError("the secret text of a prompt")
        except ValueError as error:
            logger.error("Exception in ASGI application\n", exc_info=error)
            assert fault_of(error).startswith("ValueError at test_access_log.py:")
    log.close()
    (row,) = rows_of(path)
    assert (row["level"], row["message"]) == ("error", "Exception in ASGI application")
    assert row["fault"].startswith("ValueError at test_access_log.py:") and "secret" not in path.read_text()
    assert not logger.handlers and logger.propagate
