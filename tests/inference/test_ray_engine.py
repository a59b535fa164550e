"""Workers of Ray, without Ray: what is refused before it starts, and what one worker does with a block."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.fake_server import FakeServer

from smidgen.backend import device
from smidgen.cli.app import exit_code
from smidgen.cli.workers import RayOptions
from smidgen.data.types import Message, Request, Sample
from smidgen.errors import ConfigError, DataError, WorkError
from smidgen.files import write_jsonl
from smidgen.inference import engine_identity, llama_server, open_engine, ray_engine
from smidgen.inference.choice import Choice
from smidgen.inference.ray_cluster import block_of, objects_of
from smidgen.inference.ray_engine import RayEngine
from smidgen.inference.ray_worker import Answered, Desk, Worker, complete
from smidgen.options import EngineOptions, Workers

pytest.importorskip("ray")


def requests(number: int) -> list[Request]:
    return [Request(Sample(f"s{n}", (Message("user", "Say it."),))) for n in range(number)]


@pytest.fixture
def recording(tmp_path: Path) -> EngineOptions:
    """A recording that answers s0 to s3."""
    write_jsonl(tmp_path / "said.jsonl", [{"id": f"s{n}", "text": f"it {n}"} for n in range(4)])
    return EngineOptions(str(tmp_path / "said.jsonl"), workers=Workers())


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@given(number=st.integers(1, 3000), batch=st.integers(1, 80), workers=st.integers(1, 9))
def test_blocks_have_every_question_once_in_order(number: int, batch: int, workers: int):
    parts = list(ray_engine._parts(list(range(number)), batch, workers))
    assert [one for part in parts for one in part] == list(range(number))
    assert max(map(len, parts)) <= ray_engine.FULL_BATCHES * batch
    assert len(parts) >= min(number, workers) or number < ray_engine.BLOCKS * workers


def answer(worker: Worker, asked: list[Request]) -> Answered:
    return objects_of(worker(block_of(asked, number=0)))[0]


def worker_of(options: EngineOptions, identity: str | None = None) -> Worker:
    return Worker((replace(options, workers=None),), None, identity, False, complete)


def test_a_worker_answers_a_block(recording: EngineOptions):
    found = answer(worker_of(recording, engine_identity(recording)), requests(3))
    assert [(name, completion.text) for name, completion in found.found] == [
        ("s0", "it 0"),
        ("s1", "it 1"),
        ("s2", "it 2"),
    ]
    assert found.error is None and not found.warnings and found.peak_memory_bytes is None


def test_what_was_finished_before_an_error_comes_with_it(recording: EngineOptions):
    def ask(engine, asked):
        yield from list(complete(engine, asked))[:2]
        warnings.warn("seen here", UserWarning, stacklevel=1)
        warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        raise DataError("a bad row")

    worker = worker_of(recording)
    worker._ask = ask
    found = answer(worker, requests(3))
    assert [name for name, _ in found.found] == ["s0", "s1"] and str(found.error) == "a bad row"
    assert [str(warning) for warning in found.warnings] == ["seen here"]


def test_a_fault_of_ours_is_not_one_of_ray(recording: EngineOptions):
    def ask(engine, asked):
        raise TypeError("ours")

    worker = worker_of(recording)
    worker._ask = ask
    assert isinstance(answer(worker, requests(1)).error, TypeError)


def test_ray_itself_fails():
    class Broken:
        def iter_batches(self, **settings: object):
            raise ray_engine.ray.exceptions.RaySystemError("the node is gone")

    with pytest.raises(WorkError, match=r"Ray failed \(RaySystemError: .*; finished answers are kept"):
        list(ray_engine._arrivals(Broken()))  # type: ignore[arg-type]


def test_a_worker_with_other_weights_is_refused(recording: EngineOptions):
    found = answer(worker_of(recording, "another identity"), requests(1))
    assert isinstance(found.error, ConfigError) and "has other weights on the worker" in str(found.error)


def test_workers_take_turns_and_keep_their_seats():
    desk = Desk()
    assert [desk.seat(name) for name in "abcab"] == [0, 1, 2, 0, 1]
    assert [desk.begin(block) for block in (3, 4, 3)] == [1, 1, 2]


def test_a_missing_answer_is_refused_before_ray_starts(recording: EngineOptions):
    engine = open_engine(recording)
    with pytest.raises(DataError, match=r"no completion for s4; expected one row for each of the 5 samples"):
        list(engine.complete(requests(5)))
    assert not ray_engine.ray.is_initialized()
    assert (
        isinstance(engine, RayEngine) and engine.recording is not None and engine.peak_memory_bytes() is None
    )
    assert list(engine.complete([])) == []
    engine.close()


def test_requests_over_time_are_refused(recording: EngineOptions):
    engine = open_engine(recording)
    for ask in (engine.session, lambda: engine.stream(requests(1)[0])):
        with pytest.raises(ConfigError, match="not requests that arrive over time; leave --ray out"):
            ask()


def test_workers_change_no_identity(recording: EngineOptions):
    assert engine_identity(recording) == engine_identity(replace(recording, workers=None))


def test_without_ray_its_extra_is_named(recording: EngineOptions, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray_engine, "ray", None)
    with pytest.raises(ConfigError, match=r"install it with `pip install 'smidgen\[ray\]'`"):
        open_engine(recording)


def test_servers_must_have_the_same_model(server: FakeServer):
    other = FakeServer()
    other.models = ["another"]
    try:
        options = EngineOptions(server.url, workers=Workers(endpoints=(other.url,)))
        with pytest.raises(ConfigError, match=r"different models \(only at http.*, another at http"):
            open_engine(options)
        other.models = ["only"]
        servers = ray_engine._servers(replace(options, workers=None), (other.url,))
        assert [(one.model, one.model_name) for one in servers] == [(server.url, "only"), (other.url, "only")]
    finally:
        other.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere:port"])
def test_a_cluster_that_is_not_there(address: str, recording: EngineOptions):
    engine = open_engine(replace(recording, workers=Workers(address=address)))
    with pytest.raises(WorkError, match=rf"could not be started or joined at {address} \("):
        list(engine.complete(requests(1)))


def test_workers_are_checked():
    with pytest.raises(ConfigError, match="the endpoint here is not a URL"):
        Workers(endpoints=("here",))
    with pytest.raises(ConfigError, match="2 workers cannot ask 3 servers"):
        Workers(2, ("http://a/v1", "http://b/v1"))
    with pytest.raises(ConfigError, match="further endpoints are given, but the model smidgen:nano"):
        EngineOptions(workers=Workers(endpoints=("http://a/v1",)))


@pytest.mark.parametrize(
    ("details", "name"),
    [
        ({"workers": 2}, "--workers"),
        ({"endpoint": ("http://a/v1",)}, "--endpoint"),
        ({"ray_address": "auto"}, "--ray-address"),
        ({"worker_cpus": 1.0}, "--worker-cpus"),
        ({"worker_gpus": 0.0}, "--worker-gpus"),
    ],
)
def test_details_need_ray(details: dict, name: str):
    with pytest.raises(ConfigError, match=f"{name} applies only to workers of Ray; add --ray"):
        RayOptions(**details)
    options = RayOptions(ray=True, **details).workers_of()
    assert options is not None and RayOptions().workers_of() is None


def test_ray_is_for_many_rows(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["judge", "--prompt", "1?", "--a", "1", "--b", "2", "--ray"]) == 2
    assert "--ray applies only to a file of pairs" in capsys.readouterr().err
    arguments = ["judge", "x.jsonl", "--out", "y.jsonl", "--model", "http://a/v1", "--also", "http://b/v1"]
    assert exit_code([*arguments, "--ray", "--endpoint", "http://c/v1"]) == 2
    assert "leave --endpoint or --also out" in capsys.readouterr().err


def test_an_engine_that_is_chosen_by_measuring_is_chosen_once(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = Choice("llama", "F32")
    monkeypatch.setattr("smidgen.inference.choice.choose", lambda model, **settings: chosen)
    options = EngineOptions(str(tiny_model_dir))
    engine = open_engine(replace(options, workers=Workers()))
    assert isinstance(engine, RayEngine)
    (given,) = engine._options
    assert (given.engine, given.dtype, given.workers) == ("llama", "F32", None)
    assert engine._identity == engine_identity(options) == engine_identity(given)
    assert engine_identity(given) != engine_identity(replace(given, dtype=None))


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("64", 4), ("", 4), ("0", 4), ("many", 4)])
def test_llama_cpp_keeps_to_the_cores_of_its_worker(
    given: str, threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(llama_server, "device", lambda: replace(device(), cores=4))
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert llama_server.num_threads() == threads
