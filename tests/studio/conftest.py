"""A workspace with a finished run, and a studio whose commands are a small script instead of smidgen."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from smidgen.studio import make_app
from smidgen.studio.jobs import Jobs
from smidgen.studio.workspace import Workspace

TOKEN = "the-token-of-the-tests"
ADDRESS = "http://127.0.0.1:8766"
SCRIPT = """
import json, os, sys, time
words = sys.argv[1:]
if words[:1] in (["run"], ["export"]):
    try:
        print("begins", file=sys.stderr, flush=True)
        time.sleep(60 if "slow" in " ".join(words) else 0)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
if "bad" in " ".join(words):
    print("warning: odd", file=sys.stderr)
    print("error: the rows are bad; mend them", file=sys.stderr)
    sys.exit(2)
print(json.dumps({"words": words, "folder": os.getcwd()}))
"""
PROGRAM = (sys.executable, "-c", SCRIPT)
RECIPE = 'name = "made"\ntask = "judge"\n\n[data]\ntrain = "rows.jsonl"\ntest = "rows.jsonl"\n'


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def record(id: str, score: float) -> dict:
    return {
        "id": id,
        "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": f"Question {id}"}],
        "target": None,
        "metadata": {"better": "first", "order": "ab", "subset": "sums"},
        "text": f"says {score}",
        "score": score,
        "answer": "first",
        "parsed": True,
    }


def make_run(root: Path, name: str, scores: dict[str, list[float]]) -> Path:
    """A finished run with evaluations."""
    folder = root / "runs" / name
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "adapters.safetensors").write_bytes(b"")
    (folder / "config.toml").write_text(f'name = "{name}"\ntask = "judge"\n[model]\nbase = "base/model"\n')
    (folder / "provenance.json").write_text('{"finished": "2026-01-01"}')
    (folder / "report.json").write_text('{"task": "judge"}')
    (folder / "report.html").write_text("<p>the report</p>")
    stages = [
        {"kind": "stage", "stage": "train", "state": state, "seconds": 1.0}
        for state in ("started", "finished")
    ]
    write_lines(folder / "events.jsonl", stages)
    write_lines(folder / "metrics.jsonl", [{"step": step, "loss": 1 / step} for step in (1, 2, 3)])
    for evaluation, found in scores.items():
        place = folder / "evaluations" / evaluation
        write_lines(place / "records.jsonl", [record(f"r{i}", score) for i, score in enumerate(found)])
        (place / "evaluation.json").write_text("{}")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace, with secrets beside it."""
    root = tmp_path / "space"
    root.mkdir()
    (tmp_path / "secret.jsonl").write_text('{"secret": 1}\n')
    (root / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (root / "linked").symlink_to(tmp_path)
    (root / ".hidden.jsonl").write_text("{}\n")
    (root / "rows.jsonl").write_text('{"prompt": "p", "a": "a", "b": "b", "better": "a"}\n')
    (root / "made.toml").write_text(RECIPE)
    make_run(root, "done", {"before": [0, 0, 1, 1], "after": [0, 1, 0, 1]})
    return root


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    """The page's own requests: the right host, origin and token."""
    workspace = Workspace(root)
    app = make_app(workspace, TOKEN, Jobs(workspace.root, PROGRAM))
    headers = {"authorization": f"Bearer {TOKEN}", "origin": ADDRESS}
    with TestClient(app, base_url=ADDRESS, headers=headers) as client:
        yield client
