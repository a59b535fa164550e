"""The choice of an engine by measurement; no test depends on which is faster."""

from pathlib import Path

import pytest

from smidgen.backend import Device, device, mx
from smidgen.inference import choice
from smidgen.inference.choice import (
    Choice,
    candidates,
    choose,
    faithful_types,
    known_choices,
    measure,
    write_excerpt,
)
from smidgen.inference.mlx import MlxEngine
from smidgen.models.graph import named_arrays
from smidgen.models.load import load
from smidgen.models.quantization import quantize
from smidgen.models.save import save_model
from smidgen.models.weights import read_weights

on_a_cpu = pytest.mark.skipif(device().kind != "cpu", reason="elsewhere nothing is measured")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(choice, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(choice, "candidates", candidates)  # the real ones
    monkeypatch.setattr(choice, "_chosen", {})
    return tmp_path / "cache"


@on_a_cpu
def test_a_choice_is_measured_once_and_said(tiny_model_dir, cache, monkeypatch, capsys):
    asked = []

    def measured(path, engines, rows, kv_bits):
        asked.append((engines, rows, kv_bits))
        return {"mlx": 2.0, "llama F32": 1.0}

    monkeypatch.setattr(choice, "measure", measured)
    found = choose(str(tiny_model_dir), batch_size=64)
    assert (found.engine, found.dtype, found.rows) == ("llama", "F32", 16)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"measuring which engine is fastest for {tiny_model_dir} on this machine …"
    assert "16 rows (relative speed: mlx 0.50, llama F32 1.00); kept in" in said[1]
    assert choose(str(tiny_model_dir), batch_size=40) == found
    assert capsys.readouterr().err == ""
    choose(str(tiny_model_dir), batch_size=1)
    choose(str(tiny_model_dir), batch_size=1, kv_bits=8)
    engines = ["mlx", "llama F32"]
    assert asked == [(engines, 16, None), (engines, 1, None), (engines, 1, 8)]
    assert len(list(known_choices())) == 3 and found in known_choices()
    assert {path.parent for path in cache.rglob("*.json")} == {cache / "engines"}


@on_a_cpu
def test_a_measurement_is_that_of_all_models_of_a_shape(tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choice, "measure", lambda *_: {"mlx": 1.0, "llama F32": 2.0})
    loaded = load(str(tiny_model_dir))
    changed = named_arrays(loaded.model.parameters())["model.norm.weight"] * 2
    loaded.model.load_weights([("model.norm.weight", changed)], strict=False)
    save_model(tmp_path / "trained", loaded.model, loaded.config, tiny_model_dir)
    first = choose(str(tiny_model_dir), batch_size=1)
    assert "measuring" in capsys.readouterr().err
    second = choose(str(tmp_path / "trained"), batch_size=1)
    assert "measuring" not in capsys.readouterr().err
    assert (first.model, second.model) == (str(tiny_model_dir), str(tmp_path / "trained"))
    save_model(tmp_path / "half", loaded.model, loaded.config, tiny_model_dir, dtype=mx.float16)
    choose(str(tmp_path / "half"), batch_size=1)
    assert "measuring" in capsys.readouterr().err and len(list(known_choices())) == 2


@on_a_cpu
def test_one_candidate_needs_no_measurement(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(choice, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(choice, "candidates", lambda *_: ["llama F32"])
    assert choose(str(tiny_model_dir), batch_size=4) == Choice("llama", "F32")
    monkeypatch.setattr(choice, "candidates", lambda *_: ["mlx"])
    assert choose(str(tiny_model_dir), batch_size=4) == Choice("mlx")
    assert str(Choice("mlx")) == "mlx"
    assert not list(known_choices())


def test_candidates_fit_into_memory(tmp_path, monkeypatch):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.ones((2, 2), dtype=mx.bfloat16)})
    memory = {"GB": 16}
    monkeypatch.setattr(choice, "device", lambda: Device("cpu", "a cpu", memory["GB"] * 10**9, 2))
    halves, all_types = ["llama F16", "llama BF16"], ["llama F16", "llama BF16", "llama F32"]
    assert candidates(tmp_path, {}, 135_000_000) == ["mlx", *all_types]
    assert candidates(tmp_path, {}, 3_000_000_000) == ["mlx", *all_types]
    assert candidates(tmp_path, {}, 4_000_000_000) == halves
    memory["GB"] = 8
    assert candidates(tmp_path, {}, 4_000_000_000) == ["llama F16"], "the smallest, if none fits"
    packed = {"quantization": {"bits": 4}}
    assert candidates(tmp_path, packed, 135_000_000) == ["mlx", "llama Q8_0"]
    assert candidates(tmp_path, packed, 600_000_000) == ["llama Q8_0"], "MLX would take minutes"


@on_a_cpu
def test_an_excerpt_of_a_large_model_runs_as_the_whole_does(tiny_model_dir, monkeypatch):
    opened = []

    def noted(folder, name, rows, kv_bits, *, in_numpy):
        opened.append(in_numpy)
        return MlxEngine(load(str(folder)), batch_size=rows, in_numpy=in_numpy)

    monkeypatch.setattr(choice, "_open", noted)
    measure(tiny_model_dir, ["mlx"], 1, None)
    monkeypatch.setattr(choice, "LARGEST", 1)
    measure(tiny_model_dir, ["mlx"], 1, None)
    assert opened == [True, False]


@on_a_cpu
def test_who_is_far_behind_is_not_asked_again(tiny_model_dir, monkeypatch):
    asked = []
    speeds = {"first": 1.0, "near": 2.0, "far": 4.0}

    class Named:
        def __init__(self, name):
            self.name = name

        def close(self):
            asked.append(f"{self.name} closed")

    def answer(engine, rows, turn, *, max_tokens=choice.TOKENS):
        if turn:
            asked.append(engine.name)
        return speeds[engine.name] / (turn or 1)

    monkeypatch.setattr(choice, "_open", lambda folder, name, rows, kv_bits, *, in_numpy: Named(name))
    monkeypatch.setattr(choice, "_answer", answer)
    assert measure(tiny_model_dir, list(speeds), 1, None) == {"first": 0.2, "near": 0.4, "far": 4.0}
    assert asked.count("far") == 1 and asked.count("near") == asked.count("first") == choice.MOST_TURNS
    assert asked[-3:] == ["far closed", "near closed", "first closed"]


@pytest.mark.slow
@on_a_cpu
@pytest.mark.parametrize("dtype", ["F32", "F16", "Q8_0"])
def test_every_candidate_answers(tiny_model_dir, dtype):
    engines = ["mlx", f"llama {dtype}"]
    found = measure(tiny_model_dir, engines, 2, None)
    assert list(found) == engines and all(0 < seconds < 600 for seconds in found.values())


def test_an_excerpt_is_a_model_of_the_first_blocks(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED_WEIGHTS", 1)
    folder = write_excerpt(tiny_model_dir, tmp_path / "one")
    short, whole = load(str(folder)), load(str(tiny_model_dir))
    assert len(short.model.model.layers) == 1 < len(whole.model.model.layers)
    for name, value in read_weights(folder).items():
        assert mx.array_equal(value, read_weights(tiny_model_dir)[name])
    monkeypatch.setattr(choice, "MEASURED_WEIGHTS", 10**9)
    folder = write_excerpt(tiny_model_dir, tmp_path / "all")
    assert read_weights(folder).keys() == read_weights(tiny_model_dir).keys()


def test_blocks_of_a_quantised_model_are_counted_unpacked(tiny_model_dir, tmp_path, monkeypatch):
    loaded = load(str(tiny_model_dir))
    plain = sum(v.size for name, v in read_weights(tiny_model_dir).items() if choice.LAYER.search(name))
    save_model(
        tmp_path / "q",
        loaded.model,
        quantize(loaded.model, loaded.config, bits=4, group_size=32),
        tiny_model_dir,
    )
    monkeypatch.setattr(choice, "MEASURED_WEIGHTS", plain - 1)
    assert len(load(str(write_excerpt(tmp_path / "q", tmp_path / "first"))).model.model.layers) == (
        len(loaded.model.model.layers) - 1
    )


@on_a_cpu
def test_a_cache_that_cannot_be_written_or_read_costs_only_the_measurement(
    tiny_model_dir, cache, monkeypatch, capsys
):
    turns = []
    monkeypatch.setattr(choice, "measure", lambda *_: turns.append(1) or {"mlx": 1.0, "llama F32": 2.0})
    cache.write_text("a file where the folder should be")
    assert choose(str(tiny_model_dir), batch_size=1).engine == "mlx"
    assert choose(str(tiny_model_dir), batch_size=1).engine == "mlx" and len(turns) == 1
    assert "kept in" not in capsys.readouterr().err
    cache.unlink()
    monkeypatch.setattr(choice, "_chosen", {})
    choose(str(tiny_model_dir), batch_size=1)
    (file,) = cache.rglob("*.json")
    file.write_text('{"engine": "mlx", "of another version": 1}')
    assert not list(known_choices())


@pytest.mark.parametrize(
    ("dtype", "types"),
    [
        (mx.float16, ["F16", "F32"]),
        (mx.bfloat16, ["F16", "BF16", "F32"]),
        (mx.float32, ["F32"]),
    ],
)
def test_no_file_type_is_lossier_than_the_weights(tmp_path, dtype, types):
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"a": mx.ones((2, 2), dtype=dtype)})
    assert faithful_types(tmp_path, {}) == types
    assert faithful_types(tmp_path, {"quantization": {"bits": 4}}) == ["Q8_0"]
