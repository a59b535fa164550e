import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from smidgen.backend import device
from smidgen.data.types import Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, DataError, ModelError
from smidgen.export.gguf import write_gguf
from smidgen.gguf.read import read_metadata
from smidgen.inference import choice, engine_identity, llama_files, llama_server, open_engine
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.mlx import MlxEngine
from smidgen.inference.replay import ReplayEngine
from smidgen.options import EngineOptions


@pytest.fixture
def recording(tmp_path) -> str:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"id": "a", "text": "yes"}) + "\n")
    return str(file)


@pytest.mark.parametrize("engine", ["auto", "mlx"])
def test_models(tiny_model_dir, engine):
    opened = open_engine(EngineOptions(str(tiny_model_dir), engine=engine, batch_size=2))
    assert isinstance(opened, MlxEngine)
    request = Request(Sample("a", (Message("user", "hello"),)), Sampling(max_tokens=3))
    ((answered, completion),) = opened.complete([request])
    assert answered is request
    assert completion.timing is not None
    opened.close()


@pytest.mark.parametrize("engine", ["auto", "replay"])
def test_recordings(recording, engine):
    opened = open_engine(EngineOptions(recording, engine=engine))
    assert isinstance(opened, ReplayEngine)


def test_unknown_names(tiny_model_dir, tmp_path, recording):
    with pytest.raises(
        ConfigError, match=r"no engine 'mlxx'; expected one of auto, .*\. Did you mean 'mlx'\?"
    ):
        open_engine(EngineOptions(str(tiny_model_dir), engine="mlxx"))
    with pytest.raises(ModelError, match="none"):
        open_engine(EngineOptions(str(tmp_path / "none")))
    with pytest.raises(DataError, match="there is no data file"):
        open_engine(EngineOptions(str(tmp_path / "none.jsonl")))
    with pytest.raises(ModelError, match=r"answers\.jsonl"):
        open_engine(EngineOptions(recording, engine="mlx"))


def test_settings_that_do_not_fit(tiny_model_dir, recording):
    with pytest.raises(ConfigError, match="batch_size is 0; expected 1 or more"):
        open_engine(EngineOptions(str(tiny_model_dir), batch_size=0))
    with pytest.raises(
        ConfigError, match=r"an adapter does not apply to the recording .*; leave it out or name"
    ):
        open_engine(EngineOptions(recording, adapter=Path("adapter")))
    with pytest.raises(ConfigError, match="kv_bits is 5; expected 8 or 4"):
        open_engine(EngineOptions(str(tiny_model_dir), kv_bits=5))
    with pytest.raises(ConfigError, match="kv_bits does not apply to the recording"):
        open_engine(EngineOptions(recording, kv_bits=8))
    with pytest.raises(ConfigError, match="thinking does not apply to the recording"):
        open_engine(EngineOptions(recording, thinking=True))


def test_recordings_need_no_arrays(recording):
    code = (
        "import sys; from smidgen import EngineOptions; from smidgen.inference import open_engine; "
        "open_engine(EngineOptions(sys.argv[1])); "
        "print(sorted({'mlx', 'mlx_lm', 'torch'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, recording], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")


@pytest.fixture
def measured(monkeypatch, tmp_path) -> dict[str, float]:
    """The seconds of each engine, as if measured; the caches are folders of the test."""
    seconds = {"mlx": 2.0, "llama F32": 1.0}
    monkeypatch.setattr(llama_files, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(choice, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(choice, "candidates", lambda *_: list(seconds))
    monkeypatch.setattr(choice, "measure", lambda path, engines, rows, kv_bits: dict(seconds))
    return seconds


def test_models_on_a_cpu_run_in_the_faster_engine(tiny_model_dir, monkeypatch, measured):
    folder = str(tiny_model_dir)
    chosen = open_engine(EngineOptions(folder))
    assert isinstance(chosen, LlamaEngine if device().kind == "cpu" else MlxEngine)
    assert isinstance(open_engine(EngineOptions(folder, engine="mlx")), MlxEngine)
    # llama.cpp cannot score
    assert isinstance(open_engine(EngineOptions(folder), scores=True), MlxEngine)
    measured["llama F32"] = 3.0
    assert isinstance(open_engine(EngineOptions(folder, batch_size=2)), MlxEngine)
    monkeypatch.setattr(llama_server, "xllamacpp", None)
    assert isinstance(open_engine(EngineOptions(folder)), MlxEngine)
    with pytest.raises(ConfigError, match=r"needs the package xllamacpp, which is not installed; install"):
        engine = open_engine(EngineOptions(folder, engine="llama"))
        list(engine.complete([Request(Sample("a", (Message("user", "hi"),)))]))


@pytest.mark.usefixtures("measured")
def test_what_llama_cpp_does_not_know_stays_on_mlx(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"model_type": "nope"}))
    with pytest.raises(ModelError, match="nope"):
        open_engine(EngineOptions(str(tmp_path / "other")))
    with pytest.raises(ModelError, match=r"has model_type 'nope'; GGUF files can be written of"):
        open_engine(EngineOptions(str(tmp_path / "other"), engine="llama"))


PINNED = {
    "mlx": "b98ac986aa4b9c80b6c6e671beeda149d5162cbbc73bb21a7ae3a408750637d3",
    "llama": "f91569b43248a526e2c3a4f6ae28fcc331af2a1ae9e55d01f343241e9d3d2444",
    "adapter, thinking": "ff1df95abaa3615a5983859633272b491f685e369a0e3541c5cc33320fec53fb",
    "kv_bits": "c11edde655cff60c9cf6f40721328b2ba8db23e53c839e6ed77833dca9a9ae80",
    "recording": "b885e30ce9029d6a85756d1c91895f212d17c483ec21023217508dd67c72f004",
    "gguf": "db1e6612d809ab4768f2f40f542f4f3296f2e52cfbe2c67a06237add5ccc3a68",
    "server": "6c9f4d5ff6bafb8704c6aaabe8399a6353554c7a15390b53832504f293a67c40",
    "named, thinking": "9391124eb5d2d252009a6979bb289de6d53bfd483601ce8b9d439dc3eb02e3d3",
}
"""Records name these fingerprints; were one to change, no evaluation that was begun earlier could go on."""


def test_fingerprints_stay_what_records_name(tmp_path: Path):
    folder, adapter = tmp_path / "model", tmp_path / "adapter"
    folder.mkdir()
    adapter.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (adapter / "adapters.safetensors").write_bytes(b"low rank")
    (tmp_path / "said.jsonl").write_text('{"id": "a", "text": "b"}\n')
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    model, server = str(folder), "http://localhost:1/v1"
    named = {
        "mlx": EngineOptions(model, "mlx"),
        "llama": EngineOptions(model, "llama"),
        "adapter, thinking": EngineOptions(model, "mlx", adapter=adapter, thinking=True),
        "kv_bits": EngineOptions(model, "mlx", kv_bits=8),
        "recording": EngineOptions(str(tmp_path / "said.jsonl")),
        "gguf": EngineOptions(str(tmp_path / "m.gguf")),
        "server": EngineOptions(server),
        "named, thinking": EngineOptions(f"{server}/", model_name="b", thinking=True),
    }
    assert {name: engine_identity(options) for name, options in named.items()} == PINNED
    assert engine_identity(EngineOptions(model), scores=True) == PINNED["mlx"]
    scored = engine_identity(named["gguf"], scores=True)
    assert scored == engine_identity(EngineOptions(named["gguf"].model, engine="mlx")) != PINNED["gguf"]
    slow = EngineOptions(server, timeout=9.0, api_key_env="KEY", batch_size=3)
    assert engine_identity(slow) == PINNED["server"], "what changes no answer is not part of it"


@pytest.mark.parametrize("kind", ["bos", "padding"])
def test_ids_beyond_the_vocabulary_of_a_gguf_file_are_left_out(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(llama_files, "cache_dir", lambda: tmp_path / "cache")
    file = tmp_path / "model.gguf"
    write_gguf("smidgen:nano", file)
    metadata = read_metadata(file) | {
        f"tokenizer.ggml.{kind}_token_id": 2**32 - 1, "tokenizer.ggml.eot_token_id": 151_645,
        "tokenizer.ggml.add_bos_token": kind == "bos",
    }  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        tokenizer = llama_files._tokenizer_of(file, metadata)
    assert tokenizer.eos_token_ids == {3067, 3069} and tokenizer.opening == []
    lines = {str(warning.message) for warning in said}
    assert len(lines) == 2
    assert any(f"has the {kind} token 4294967295, which is not in the vocabulary" in line for line in lines)
    assert any("has the eot token 151645, which" in line for line in lines)


@pytest.mark.slow
def test_drafts_run_in_the_mlx_engine(tiny_model_dir, measured, tmp_path):
    folder = str(tiny_model_dir)
    drafted = open_engine(EngineOptions(folder, decode="jacobi"))  # where llama.cpp would be faster
    request = Request(Sample("a", (Message("user", "hi"),)), Sampling(max_tokens=4))
    ((_, completion),) = drafted.complete([request])
    assert completion.passes is not None
    own = open_engine(EngineOptions(folder, decode="draft", draft_model=folder))
    assert isinstance(own, MlxEngine)
    recording = tmp_path / "r.jsonl"
    recording.write_text("")
    for options in (
        EngineOptions(folder, engine="llama", decode="lookup"),
        EngineOptions("http://localhost:1/v1", decode="lookup"),
        EngineOptions(str(recording), decode="lookup"),
    ):
        with pytest.raises(
            ConfigError, match=r"the engine \w+ does not support decode lookup; leave it out, or"
        ):
            open_engine(options)
    identities = [
        engine_identity(EngineOptions(folder, engine="mlx")),
        *(engine_identity(EngineOptions(folder, decode=decode)) for decode in ("lookup", "jacobi")),
        engine_identity(EngineOptions(folder, decode="draft", draft_model=folder)),
    ]
    assert len(set(identities)) == 4
