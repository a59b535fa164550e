"""A server with a memory store, killed under load: its journal is complete, and nothing is applied twice."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import httpx2
import pytest
from tests.tools.store_faults import text_of

from smidgen.memory import Store, verify

CLIENTS, INPUTS, KILLS = 4, 60, 5
SCRIPT = Path(__file__).parents[1] / "tools" / "scripted_server.py"
ROOT = SCRIPT.parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(port: int, store: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), "--port", str(port), "--store", str(store), "--budget", "20"]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    with log.open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"PYTHONPATH": paths})


def send_all(name: str, port: int, promised: dict[str, int]) -> None:
    """Send the texts of a client one after the other, each until the server has answered it."""
    with httpx2.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False, verify=False
    ) as client:
        for number in range(INPUTS):
            body = {"id": f"{name}-{number}", "text": text_of(name, number)}
            while body["id"] not in promised:
                try:
                    found = client.post("/v1/route", json=body)
                except httpx2.TransportError:
                    time.sleep(0.02)
                    continue
                if found.status_code == 200 and (stored := found.json().get("stored")):
                    promised[body["id"]] = stored["entry"]


@pytest.mark.slow
def test_kills_under_load_lose_nothing_and_apply_nothing_twice(tmp_path: Path):
    port, store, log, random = free_port(), tmp_path / "memory.db", tmp_path / "log", Random(0)
    promised: dict[str, int] = {}
    names = "abcd"[:CLIENTS]
    clients = [threading.Thread(target=send_all, args=(name, port, promised), daemon=True) for name in names]
    server = started(port, store, log)
    try:
        for client in clients:
            client.start()
        for kill in range(KILLS):
            least = len(promised) + random.randint(5, CLIENTS * INPUTS // (KILLS + 2))
            while len(promised) < least:
                assert server.poll() is None, log.read_text()
                time.sleep(0.002)
            time.sleep(random.uniform(0, 0.05))
            server.send_signal(signal.SIGKILL)
            server.wait()
            report = verify(store)
            assert report.faults == (), (kill, report.faults)
            server = started(port, store, log)
        for client in clients:
            client.join(120)
        assert len(promised) == CLIENTS * INPUTS
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
    report = verify(store)
    assert report.faults == ()
    assert (report.inputs, report.decided, report.pending) == (CLIENTS * INPUTS, CLIENTS * INPUTS, 0)
    with Store.open(store, readonly=True) as opened:
        entries = opened.entries()
    decided = {entry.input: entry.number for entry in entries if entry.kind == "decided"}
    assert decided == promised
    kinds = {change["before"] is None for entry in entries for change in entry.body.get("changes", ())}
    assert kinds == {True, False}  # memories were added, and others changed
    for entry in entries:
        if entry.kind == "received":
            name, number = str(entry.input).split("-")
            assert entry.body["text"] == text_of(name, int(number))
    assert "Traceback" not in log.read_text()
