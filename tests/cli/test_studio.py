"""`smidgen studio`: the address that it prints, its end, and what it refuses."""

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from smidgen.cli.app import exit_code


def test_it_prints_an_address_serves_and_ends_quietly(tmp_path: Path):
    words = [sys.executable, "-m", "smidgen", "studio", str(tmp_path), "--port", "0", "--no-open"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline().strip()
    try:
        assert line.startswith(f"studio of {tmp_path}: http://127.0.0.1:"), line
        address = line.split(": ", 1)[1]
        jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with jar.open(address, timeout=30) as answer:
            assert b"<title>smidgen studio</title>" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(address.partition("?")[0], timeout=30)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


def test_scripts_read_the_address_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("smidgen.studio.serve", lambda workspace, port, opened: opened("http://here"))
    visited: list[str] = []
    monkeypatch.setattr("webbrowser.open", visited.append)
    assert exit_code(["studio", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"workspace": str(tmp_path), "address": "http://here"}
    assert (err, visited) == ("", ["http://here"])


def test_a_port_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert exit_code(["studio", str(tmp_path), "--port", str(port), "--no-open"]) == 1
    assert f"port {port} cannot be used: address already in use; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is not a folder; name the folder with your rows, recipes and runs"),
        ([".", "--port", "70000"], "Must be <= 65535"),
        ([".", "--port", "x"], "x is not a whole number"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert exit_code(["studio", *arguments, "--no-open"]) == 2
    assert sentence in capsys.readouterr().err
