"""`smidgen serve` as a user starts and stops it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from smidgen.cli.app import exit_code
from smidgen.memory import verify


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["smidgen:nano", "--host", "0.0.0.0"], "other machines reach, but there are no API keys"),
        (["smidgen:nano", "--api-keys", "/nowhere"], "there is no file of API keys at /nowhere"),
        (["smidgen:nano", "--allowed-host", "http://x"], "the allowed host is 'http://x'"),
        (["smidgen:nano", "--rate-limit", "0"], "--rate-limit"),
        (["smidgen:nano", "--port", "0", "--log-file", "/nowhere/log"], "the log /nowhere/log cannot be"),
        (["smidgen:nano", "--adapter", "judge"], "the adapter is 'judge', expected NAME=PATH"),
        (["http://localhost:1/v1", "--port", "0"], "is not a model that runs in this process"),
        (["smidgen:nan", "--port", "0"], "smidgen:nan"),
        (["smidgen:nano", "--port", "70000"], "--port"),
        (["smidgen:nano", "--deadline", "0"], "--deadline"),
        (["smidgen:nano", "--idle", "0"], "--idle"),
        (["smidgen:nano", "--engine", "http"], "--engine"),
        (["smidgen:nano", "--max-tokens-limit", "9"], "--max-tokens is 512, more than --max-tokens-limit, 9"),
    ],
)
def test_what_cannot_be_served_is_said_before_it_starts(capsys, arguments: list[str], sentence: str):
    assert exit_code(["serve", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_an_adapter_that_does_not_fit_is_named_before_the_start(capsys, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert exit_code(["serve", "smidgen:nano", "--port", "0", "--adapter", f"judge={tmp_path}"]) == 2
    assert "judge cannot be served: " in capsys.readouterr().err


def test_it_says_where_it_listens_and_ends_well_at_a_signal(tmp_path: Path):
    errors = tmp_path / "stderr"
    command = [sys.executable, "-m", "smidgen", "serve", "smidgen:nano", "--engine", "mlx", "--port", "0"]
    command += ["--json", "--name", "nano"]
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["models"] == ["nano"]
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = httpx2.post(
            f"{facts['url']}/chat/completions", json=asked, timeout=60, trust_env=False, verify=False
        )
        assert answer.status_code == 200 and answer.json()["model"] == "nano"
        assert answer.json()["system_fingerprint"].startswith("fp_")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    said, *rows = errors.read_text().splitlines()
    assert said == f"nano is served at {facts['url']}, described at {facts['url'].removesuffix('/v1')}/docs"
    (row,) = map(json.loads, rows)
    assert (row["route"], row["status"], row["model"]) == ("/v1/chat/completions", 200, "nano")
    assert row["completion_tokens"] == 4 and "Hello" not in rows[0]


@pytest.mark.slow
def test_a_server_with_keys_a_log_and_a_store(tmp_path: Path):
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    command = [sys.executable, "-m", "smidgen", "serve", "smidgen:nano", "--engine", "mlx", "--port", "0"]
    command += ["--json", "--host", "0.0.0.0", "--api-keys", str(tmp_path / "keys"), "--log-prompts"]
    command += ["--log-file", str(tmp_path / "log"), "--store", str(tmp_path / "memory.db"), "--budget", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"].replace("0.0.0.0", "127.0.0.1")
        with httpx2.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:
            assert client.get("/models").status_code == 401
            client.headers["authorization"] = "Bearer 0123456789abcdef"
            asked = {"text": "My sister lives in Graz.", "id": "a"}
            assert client.post("/route", json=asked).json()["status"] == "decided"
            assert client.post("/route", json=asked).json()["status"] == "known"
            assert client.get("/memory", params={"what": "pending"}).json()["total"] == 0
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and said.count("\n") == 1
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [row["status"] for row in rows] == [401, 200, 200, 200]
    assert rows[1]["texts"] == asked and rows[1]["client"].startswith("key-")
    assert "0123456789abcdef" not in (tmp_path / "log").read_text()
    assert verify(tmp_path / "memory.db").faults == ()
