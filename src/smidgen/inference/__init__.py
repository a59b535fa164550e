"""Prompts become completions; `open_engine` is the only door."""

import math
from pathlib import Path

from smidgen.errors import ConfigError, did_you_mean
from smidgen.files import content_hash, is_url, sha256_json
from smidgen.inference.engine import Engine, Stream

KV_BITS = (8, 4)
ENGINES = ("auto", "mlx", "llama", "http", "replay")
LARGE = 50_000_000
"""Parameters beyond which llama.cpp is the engine on a CPU; smaller models run in numpy's forward pass."""

__all__ = ["ENGINES", "Engine", "Stream", "engine_identity", "open_engine"]


def open_engine(
    model: str,
    *,
    engine: str = "auto",
    adapter: Path | None = None,
    thinking: bool = False,
    batch_size: int = 64,
    model_name: str | None = None,
    api_key_env: str | None = None,
    timeout: float | None = None,
    scores: bool = False,
    kv_bits: int | None = None,
) -> Engine:
    """Open whatever completes prompts.

    Args:
        model: a model as `smidgen.models.load.load` takes it, a `.gguf` file, the URL of a server, or the
            file of a recording.
        engine: `mlx` and `llama` (llama.cpp) run the model here, `http` asks a server, `replay` answers from
            a recording; `auto` goes by the model: URLs, `.gguf` and `.jsonl` files speak for themselves, and
            a folder runs in llama.cpp if it has more than `LARGE` parameters, llama.cpp knows its kind and is
            installed, and there is only a CPU.
        adapter: folder of a low-rank adapter to put on the model.
        thinking: whether the chat template opens a thinking block.
        batch_size: rows decoded together, or requests under way, at most.
        model_name: what a server calls the model, if it has several.
        api_key_env: the environment variable of a server's key, if it is not `OPENAI_API_KEY`, which goes
            only to servers on this machine or behind https.
        timeout: seconds that one answer of a server may take before it is asked again; 600 if None.
        scores: whether `Engine.score` will be called; `auto` then takes an engine that can.
        kv_bits: how many bits `mlx` and `llama` hold a number of the keys and values in, 8 or 4: longer or
            more rows in the same memory, for a little precision. As the model computes if None.

    Raises:
        ConfigError: the engine is unknown, or a setting does not go with it.
        DataError: the recording cannot be used.
        ModelError: the model cannot be loaded.
        WorkError: the server does not answer.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
    if kv_bits not in (None, *KV_BITS):
        raise ConfigError(f"kv_bits is {kv_bits}; expected 8 or 4")
    if timeout is not None and not 0 < timeout < math.inf:
        raise ConfigError(f"timeout is {timeout}; expected seconds above 0")
    kind = _engine_for(model, engine, scores=scores)
    unfit = {
        "an adapter": adapter is not None and kind in ("replay", "http"),
        "kv_bits": kv_bits is not None and kind in ("replay", "http"),
        "thinking": thinking and kind == "replay",
        "a model name": model_name is not None and kind != "http",
        "the variable of an API key": api_key_env is not None and kind != "http",
        "a timeout": timeout is not None and kind != "http",
    }
    if given := [name for name, is_given in unfit.items() if is_given]:
        what = {"replay": "recording", "http": "server"}.get(kind, "model")
        raise ConfigError(f"{given[0]} does not go with the {what} {model}; leave it out or name a model")
    if scores and kind != "mlx":
        raise ConfigError(
            f"the engine {kind} tells no probabilities of given continuations; use --engine mlx and a "
            "model's folder for that"
        )
    # Each engine brings libraries of its own, which need not be installed where another one is used.
    if kind == "replay":
        from smidgen.inference.replay import ReplayEngine

        return ReplayEngine(Path(model))
    if kind == "http":
        from smidgen.inference.http import HttpEngine
        from smidgen.inference.http_server import Patience

        return HttpEngine(
            model,
            model_name=model_name,
            api_key_env=api_key_env,
            thinking=thinking,
            batch_size=batch_size,
            patience=None if timeout is None else Patience(timeout=timeout),
        )
    if kind == "llama":
        from smidgen.inference.llama import LlamaEngine
        from smidgen.inference.llama_files import llama_model

        found = llama_model(model, adapter=adapter)
        return LlamaEngine(found, thinking=thinking, batch_size=batch_size, kv_bits=kv_bits)
    from smidgen.inference.mlx import MlxEngine
    from smidgen.models.load import load

    loaded = load(model, adapter=adapter)
    return MlxEngine(loaded, thinking=thinking, batch_size=batch_size, kv_bits=kv_bits)


def engine_identity(
    model: str,
    *,
    engine: str = "auto",
    adapter: Path | None = None,
    thinking: bool = False,
    model_name: str | None = None,
    scores: bool = False,
    kv_bits: int | None = None,
) -> str:
    """Return a fingerprint of what `open_engine` opens: every byte of the weights, or of the recording.

    Of a server only its address and the model's name are known; whoever changes what it serves changes the
    name, or begins new records.
    """
    kind = _engine_for(model, engine, scores=scores)
    if kind == "replay":
        return content_hash(Path(model))
    if kind == "http":
        return sha256_json([kind, model.rstrip("/"), model_name, thinking])
    parts = [content_hash(_local(model)), adapter and content_hash(adapter), thinking]
    parts += [] if kind == "mlx" else [kind]
    return sha256_json(parts if kv_bits is None else [*parts, f"{kv_bits} bits"])


def _engine_for(model: str, engine: str, *, scores: bool) -> str:
    """The engine that is meant, which for `auto` the model decides."""
    if engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise ConfigError(
            f"there is no engine '{engine}'; expected one of {known}.{did_you_mean(engine, ENGINES)}"
        )
    is_server = is_url(model)
    if is_server != (engine == "http") and engine != "auto":
        given = f"{model} is the URL of a server" if is_server else f"{model} is no URL"
        raise ConfigError(f"{given}, which does not go with the engine {engine}; leave --engine out")
    if engine != "auto":
        return engine
    if is_server:
        return "http"
    for ending, kind in ((".jsonl", "replay"), (".gguf", "llama")):
        if model.endswith(ending):
            return kind
    return "mlx" if scores else _engine_for_folder(model)


def _engine_for_folder(model: str) -> str:
    from smidgen.backend import device
    from smidgen.errors import ModelError
    from smidgen.export.gguf.names import check_architecture
    from smidgen.inference.llama_server import is_installed
    from smidgen.models.load import read_config, resolve
    from smidgen.models.weights import count_weights

    if device().kind != "cpu" or not is_installed():
        return "mlx"
    path = resolve(model)
    try:
        config = read_config(path)
        check_architecture(config, model)
        return "llama" if count_weights(path, config) > LARGE else "mlx"
    except ModelError:
        return "mlx"  # which says what is wrong with it, if anything is


def _local(model: str) -> Path:
    """The file or the folder of a model."""
    from smidgen.models.load import resolve

    path = Path(model).expanduser()
    return path if model.endswith(".gguf") and path.is_file() else resolve(model)
