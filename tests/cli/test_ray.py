"""`--ray`: the records of one process, whatever is killed in between."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.tools.fake_server import FakeServer

from smidgen.cli.app import exit_code

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]
TIMES = ("timing", "session", "elapsed")
WORKER = "ray::MapWorker"


@pytest.fixture(scope="session")
def running() -> Iterator[None]:
    """Ray on this machine, for all tests of the session."""
    from smidgen.inference.ray_cluster import start_ray
    from smidgen.options import Workers

    start_ray(Workers(), 2)
    yield
    ray.shutdown()


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.jsonl", 24)


def write_pairs(path: Path, number: int) -> str:
    rows = [
        {"id": f"p{n}", "prompt": f"{n} + 1?", "a": f"{n + 1}", "b": f"{n}", "better": "a"}
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_recording(path: Path, number: int) -> str:
    said = [
        {"id": f"p{n}", "order": order, "text": f"[[{'AB'[n % 3 % 2]}]]"}
        for n in range(number)
        for order in ("ab", "ba")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    return str(path)


def judgements(path: Path) -> dict[str, dict[str, Any]]:
    """The judgements of a file by id, without times; none is there twice."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: {k: v for k, v in row.items() if k not in TIMES} for row in rows}


def without_times(value: Any) -> Any:
    """A result without what depends on the clock or the memory of a process."""
    if isinstance(value, dict):
        timed = ("speed", "cost", "out")
        return {key: without_times(item) for key, item in value.items() if key not in timed}
    return value


def said_by(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert exit_code([*arguments, "--json"]) == 0, capsys.readouterr().err
    return without_times(json.loads(capsys.readouterr().out))


@pytest.mark.usefixtures("running")
def test_pairs_are_judged_as_in_one_process(
    pairs: str, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, model in {
        "weights": ["--model", str(tiny_model_dir), "--engine", "mlx", "--max-tokens", "6"],
        "recording": ["--model", write_recording(tmp_path / "said.jsonl", 24), "--template", "verdict"],
    }.items():
        one, shared = tmp_path / f"{name}-one.jsonl", tmp_path / f"{name}-ray.jsonl"
        alone = said_by(["judge", pairs, *model, "--out", str(one)], capsys)
        spread = said_by(["judge", pairs, *model, "--out", str(shared), "--ray"], capsys)
        assert judgements(one) == judgements(shared) and len(judgements(one)) == 48
        assert alone == spread
        files = [path.with_name(f"{path.stem}.pairs.jsonl").read_bytes() for path in (one, shared)]
        assert files[0] == files[1]
        shared.write_bytes(one.read_bytes()[:3000])  # begun in one process, finished on workers
        assert said_by(["judge", pairs, *model, "--out", str(shared), "--ray"], capsys) == spread
        assert judgements(one) == judgements(shared)


@pytest.mark.usefixtures("running")
def test_an_evaluation_is_that_of_one_process(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = write_recording(tmp_path / "said.jsonl", 25)  # of which one pair is not asked for
    arguments = ["evaluate", "judge", "--data", pairs, "--model", said, "--template", "verdict"]
    alone = said_by([*arguments, "--out", str(tmp_path / "one")], capsys)
    spread = said_by([*arguments, "--out", str(tmp_path / "ray"), "--ray"], capsys)
    assert alone == spread and alone["unused_replay_rows"] == 2
    folders = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("one", "ray")]
    assert folders[0] == folders[1]


@pytest.mark.usefixtures("running")
def test_answers_scored_by_probability(pairs: str, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]):
    model = ["--model", str(tiny_model_dir), "--method", "logits", "--template", "verdict", "--limit", "6"]
    arguments = ["evaluate", "judge", "--data", pairs, *model]
    alone, spread = said_by(arguments, capsys), said_by([*arguments, "--ray"], capsys)
    assert alone["n"] == 12
    for name, metric in alone["metrics"].items():  # sums in another order, so not the same last bits
        known = {key: value for key, value in metric.items() if value is not None}
        assert {key: spread["metrics"][name][key] for key in known} == pytest.approx(known, rel=1e-5), name


@pytest.mark.usefixtures("running")
def test_servers_share_the_rows(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    servers = [FakeServer(), FakeServer()]
    for server in servers:
        server.delay = 0.05
    arguments = ["judge", pairs, "--out", str(tmp_path / "said.jsonl"), "--concurrency", "2", "--ray"]
    try:
        found = said_by([*arguments, "--model", servers[0].url, "--endpoint", servers[1].url], capsys)
        counts = [len(server.requests) for server in servers]
        assert found["judgements"] == sum(counts) == 48 and min(counts) > 0
    finally:
        for server in servers:
            server.close()


@pytest.mark.usefixtures("running")
def test_a_cluster_that_runs_is_joined_and_left(pairs: str, tmp_path: Path):
    said, out = write_recording(tmp_path / "said.jsonl", 24), tmp_path / "out.jsonl"
    address = ray.get_runtime_context().gcs_address
    arguments = ["judge", pairs, "--out", str(out), "--model", said, "--template", "verdict"]
    joined = started([*arguments, "--ray", "--ray-address", address])
    told = joined.communicate()[1]
    assert joined.returncode == 0 and len(judgements(out)) == 48, told
    assert "ray" not in told.lower() and ray.is_initialized(), told


@pytest.mark.usefixtures("running")
def test_a_server_that_refuses_ends_the_work_with_one_sentence(
    pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    server = FakeServer()
    server.script = [(401, {}, "no")] * 1000
    arguments = ["judge", pairs, "--out", str(tmp_path / "said.jsonl"), "--model", server.url]
    try:
        codes = [exit_code(arguments), exit_code([*arguments, "--ray"])]
        sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    finally:
        server.close()
    assert codes == [2, 2] and len(sentences) == 2 and sentences[0] == sentences[1], sentences
    assert "set the key in OPENAI_API_KEY" in sentences[0]


def _dies(engine: object, asked: list[Any]) -> Iterator[tuple[str, Any]]:
    import os

    os._exit(1)


@pytest.mark.usefixtures("running")
def test_a_block_that_always_ends_its_worker_is_given_up(tmp_path: Path):
    from smidgen.errors import WorkError
    from smidgen.inference import open_engine, ray_engine
    from smidgen.options import EngineOptions, Workers

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    said = write_recording(tmp_path / "said.jsonl", 1)
    engine = open_engine(EngineOptions(said, workers=Workers(1)))
    assert isinstance(engine, ray_engine.RayEngine)
    with pytest.raises(WorkError, match="4 workers of Ray were lost while they answered the same rows"):
        list(engine._spread({"p0#ab": None}, _dies))


def started(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "smidgen", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(holds: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
def test_a_worker_and_then_the_command_are_killed(tmp_path: Path):
    """Nothing is lost or doubled, Ctrl-C keeps what is finished, and the last command tells none of Ray."""
    number, out, one = 150, tmp_path / "shared.jsonl", tmp_path / "one.jsonl"
    pairs = write_pairs(tmp_path / "pairs.jsonl", number)
    model = ["--model", "smidgen:nano", "--engine", "mlx", "--max-tokens", "24", "--concurrency", "4"]
    assert exit_code(["judge", pairs, *model, "--out", str(one)]) == 0

    def written() -> int:
        return out.read_bytes().count(b"\n") if out.exists() else 0

    def workers() -> list[psutil.Process]:
        found = psutil.Process(running.pid).children(recursive=True)
        return [process for process in found if WORKER in "".join(process.cmdline()[:1])]

    arguments = ["judge", pairs, *model, "--out", str(out), "--ray", "--workers", "2"]
    running = started(arguments)
    wait_until(lambda: written() > 30)
    killed = workers()[0]
    killed.kill()
    wait_until(lambda: written() > 100)
    left = workers()
    assert killed.pid not in {one.pid for one in left}
    running.kill()
    running.communicate()
    assert not psutil.wait_procs(left, timeout=60)[1]
    assert written() < 2 * number

    running = started(arguments)
    kept = written()
    wait_until(lambda: written() > kept)
    running.send_signal(signal.SIGINT)
    said = running.communicate()[1]
    assert running.returncode == 130 and said.splitlines()[-1] == "error: interrupted"

    running = started(arguments)
    said = running.communicate()[1]
    assert running.returncode == 0, said
    assert judgements(out) == judgements(one)
    assert "ray" not in said.lower(), said
