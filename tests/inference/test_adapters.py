"""Adapters of requests, and weights that change under an engine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from tests.models.test_lora import CONFIG, adapted

from smidgen.backend import mx
from smidgen.data.types import Completion, Message, Request, Sample, Sampling
from smidgen.errors import ModelError, WorkError
from smidgen.inference import adapters as adapters_module
from smidgen.inference import inbox as inbox_module
from smidgen.inference.cpu_forward import CpuForward
from smidgen.inference.forward import MlxForward
from smidgen.inference.mlx import MlxEngine
from smidgen.models.graph import named_arrays
from smidgen.models.load import LoadedModel, load
from smidgen.models.lora import save_adapter, with_adapter


def ask(name: str, text: str, adapter: Path | str | None = None, **sampling) -> Request:
    settings = Sampling(**({"max_tokens": 8} | sampling))
    return Request(Sample(name, (Message("user", text),)), settings, adapter=adapter)


def answers(engine: MlxEngine, requests: list[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def what(found: dict[str, Completion]) -> dict[str, tuple]:
    return {name: (c.token_ids, c.text, c.finish_reason) for name, c in found.items()}


@pytest.fixture(scope="module")
def folders(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of the tiny model, the later ones stronger."""
    made = []
    for i in range(3):
        loaded = load(str(tiny_model_dir))
        graph = adapted(loaded.model)
        strengthened = {n: v * (i + 1) for n, v in named_arrays(graph.trainable_parameters()).items()}
        graph.load_weights(list(strengthened.items()), strict=False)
        made.append(tmp_path_factory.mktemp("adapters") / str(i))
        save_adapter(made[-1], graph, CONFIG)
    return made


@pytest.fixture(params=["this device", "any device"])
def device(request, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass of this device, and the one that every device has."""
    if request.param == "any device":
        monkeypatch.setattr(
            adapters_module, "forward_of", lambda model, kv_bits, in_numpy: MlxForward(model, kv_bits=kv_bits)
        )


@pytest.mark.slow
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("most", [4, 1])
@pytest.mark.parametrize("own", [None, 2])
def test_each_request_is_answered_as_by_an_engine_of_its_adapter(
    tiny_model_dir, folders, monkeypatch, most, own
):
    for module in (inbox_module, adapters_module):
        monkeypatch.setattr(module, "MOST_ADAPTERS", most)
    name, default = str(tiny_model_dir), own if own is None else folders[own]
    engine = MlxEngine(load(name, adapter=default), batch_size=3)
    chosen = [None, folders[0], str(folders[1]), folders[0]]
    requests = [ask(str(i), "the better " * (i % 3) + str(i), chosen[i % 4]) for i in range(16)]
    session, events = engine.session(), []
    for request in requests:
        session.submit(request)
        events += session.step()
    while not session.is_idle:
        events += session.step()
    session.close()
    found = {event.request.sample.id: event.completion for event in events}
    expected: dict[str, Completion] = {}
    for adapter in {None, *chosen}:
        alone = MlxEngine(load(name, adapter=default if adapter is None else Path(adapter)), batch_size=3)
        expected |= answers(alone, [replace(r, adapter=None) for r in requests if r.adapter == adapter])
    assert what(found) == what(expected) == what(answers(engine, requests))
    plain = answers(engine, [replace(request, adapter=None) for request in requests])
    assert all(what(plain)[str(i)] != what(found)[str(i)] for i in range(16) if i % 4 in (1, 3))


def test_an_adapter_shares_the_weights_and_leaves_the_model_as_it_was(tiny_model_dir, folders):
    for own in (None, folders[1]):
        loaded = load(str(tiny_model_dir), adapter=own)
        before = named_arrays(loaded.model.parameters())
        other = named_arrays(with_adapter(loaded.model, folders[0]).parameters())
        after = named_arrays(loaded.model.parameters())
        assert list(before) == list(after) and all(before[name] is after[name] for name in before)
        assert [name for name in other if "lora" in name]
        assert all(other[name] is after[name] for name in other if name in after and "lora" not in name)


def test_adapters_that_do_not_fit_are_refused(loaded, folders, tmp_path):
    engine = MlxEngine(loaded)
    with pytest.raises(ModelError, match="nowhere"):
        answers(engine, [ask("a", "why", tmp_path / "nowhere")])
    assert answers(engine, [ask("a", "why", folders[0])])


@pytest.fixture
def own(tiny_model_dir: Path) -> LoadedModel:
    """A model of the test's own, to be changed."""
    return load(str(tiny_model_dir))


def change(loaded: LoadedModel) -> None:
    """Change every weight, as a step of training does."""
    rng = np.random.default_rng(3)
    arrays = named_arrays(loaded.model.parameters())
    loaded.model.load_weights(
        [(n, v + mx.array(rng.normal(0, 0.05, v.shape), mx.float32)) for n, v in arrays.items()]
    )


@pytest.mark.usefixtures("device")
def test_a_refreshed_engine_answers_as_one_that_is_opened_anew(own, folders):
    requests = [
        ask(str(i), "the better answer is " * 2 + str(i), [None, folders[0]][i % 2]) for i in range(8)
    ]
    sample = Sample("s", (Message("user", "which"),))
    engine = MlxEngine(own)
    session = engine.session()
    old = answers(engine, requests)
    session.submit(requests[0])
    while not session.is_idle:
        session.step()
    change(own)
    engine.refresh()
    new = answers(engine, requests)
    assert what(new) != what(old)
    assert what(new) == what(answers(MlxEngine(own), requests))
    ((_, left),), ((_, right),) = (
        list(e.score([sample], ["the first", "x"])) for e in (engine, MlxEngine(own))
    )
    assert np.concatenate(left.logprobs) == pytest.approx(np.concatenate(right.logprobs), abs=1e-4)
    for request in requests:
        session.submit(request)
    events = []
    while not session.is_idle:
        events += session.step()
    assert what({event.request.sample.id: event.completion for event in events}) == what(new)
    session.close()


@pytest.mark.usefixtures("device")
def test_any_thread_may_run_the_next_step(own):
    engine = MlxEngine(own, batch_size=4)
    requests = [ask(str(i), f"the better {i}", max_tokens=1 + i) for i in range(7)]
    expected = answers(engine, requests)
    session, events = engine.session(), []
    with ThreadPoolExecutor(1) as left, ThreadPoolExecutor(1) as right:
        for request in requests:
            session.submit(request)
        for pool in cycle((left, right)):
            events += pool.submit(session.step).result()
            if session.is_idle:
                break
        for pool in (left, right):
            pool.submit(mx.clear_streams).result()
    session.close()
    assert what({event.request.sample.id: event.completion for event in events}) == what(expected)
    assert what(answers(engine, requests)) == what(expected)


def test_weights_do_not_change_under_requests(own):
    engine = MlxEngine(own)
    session = engine.session()
    ticket = session.submit(ask("a", "why"))
    session.step()
    with pytest.raises(
        WorkError, match=r"1 requests are pending, so the weights cannot be refreshed; finish"
    ):
        engine.refresh()
    session.cancel(ticket)
    engine.refresh()
    abandoned = engine.complete([ask(str(i), "why", max_tokens=1 + i) for i in range(3)])
    next(abandoned)
    with pytest.raises(WorkError, match="requests are pending"):
        engine.refresh()
    abandoned.close()
    engine.refresh()
    session.close()


def test_weights_that_change_in_place_are_not_seen_before_refresh(own):
    engine = MlxEngine(own)
    engine._decoders.base = CpuForward(own.model)
    requests = [ask(str(i), f"the better {i}") for i in range(4)]
    old = answers(engine, requests)
    own.model.model.embed_tokens.weight += 0.5
    mx.eval(own.model.parameters())
    assert what(answers(engine, requests)) == what(old)
