"""`smidgen serve` as a user starts and stops it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from smidgen.cli.app import exit_code


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["smidgen:nano", "--host", "0.0.0.0"], "--host is 0.0.0.0, which other machines reach"),
        (["smidgen:nano", "--adapter", "judge"], "the adapter is 'judge', expected NAME=PATH"),
        (["http://localhost:1/v1", "--port", "0"], "is not a model that runs in this process"),
        (["smidgen:nan", "--port", "0"], "smidgen:nan"),
        (["smidgen:nano", "--port", "70000"], "--port"),
        (["smidgen:nano", "--deadline", "0"], "--deadline"),
        (["smidgen:nano", "--engine", "http"], "--engine"),
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
        answer = httpx2.post(f"{facts['url']}/chat/completions", json=asked, timeout=60, trust_env=False)
        assert answer.status_code == 200 and answer.json()["model"] == "nano"
        assert answer.json()["system_fingerprint"].startswith("fp_")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert errors.read_text() == (
        f"nano is served at {facts['url']}, described at {facts['url'].removesuffix('/v1')}/docs\n"
    )
