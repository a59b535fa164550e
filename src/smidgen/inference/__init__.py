"""Inference engines: completions and scores of prompts. `open_engine` is the only entry point."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from smidgen.errors import ConfigError
from smidgen.files import content_hash, is_url, sha256_json
from smidgen.inference.engine import Engine, Event, LocalEngine, Session, Stream
from smidgen.options import EngineOptions

if TYPE_CHECKING:
    from smidgen.inference.drafting import Drafting

__all__ = [
    "Engine",
    "Event",
    "LocalEngine",
    "Session",
    "Stream",
    "engine_identity",
    "model_hash",
    "open_engine",
    "open_local_engine",
]


def open_engine(options: EngineOptions, *, scores: bool = False) -> Engine:
    """Open an inference engine.

    Args:
        options: the model, its engine and their settings. The engine `auto` depends on the model: `http` for
            a URL, `llama` for a `.gguf` file, `replay` for a `.jsonl` file. A folder runs in `mlx`; on a CPU,
            if llama.cpp is installed and supports it, in the faster of the two (`choice.choose`).
        scores: whether `Engine.score` will be called; `auto` then takes an engine that supports it.

    Raises:
        ConfigError: a setting does not apply to the engine.
        DataError: the recording cannot be used.
        ModelError: the model cannot be loaded.
        WorkError: the server does not answer.
    """
    model, adapter = options.model, options.adapter
    kind, dtype = _engine_for(options, scores=scores)
    _check_fit(options, kind)
    if scores and kind != "mlx":
        raise ConfigError(
            f"the engine {kind} does not support log-probability scoring; use --engine mlx and a model folder"
        )
    if options.decode != "ar" and kind != "mlx":
        raise ConfigError(
            f"the engine {kind} does not support decode {options.decode}; leave it out, or use --engine mlx "
            "and a model folder"
        )
    thinking, batch_size, kv_bits = options.thinking, options.batch_size, options.kv_bits
    # Imported here because the libraries of one engine need not be installed to use another.
    if kind == "replay":
        from smidgen.inference.replay import ReplayEngine

        return ReplayEngine(Path(model))
    if kind == "http":
        from smidgen.inference.http import HttpEngine
        from smidgen.inference.http_server import Patience

        return HttpEngine(
            model,
            model_name=options.model_name,
            api_key_env=options.api_key_env,
            thinking=thinking,
            batch_size=batch_size,
            patience=None if options.timeout is None else Patience(timeout=options.timeout),
        )
    if kind == "llama":
        from smidgen.inference.llama import LlamaEngine
        from smidgen.inference.llama_files import llama_model

        found = llama_model(model, adapter=adapter, dtype=dtype)
        return LlamaEngine(found, thinking=thinking, batch_size=batch_size, kv_bits=kv_bits)
    from smidgen.inference.mlx import MlxEngine
    from smidgen.models.load import load

    loaded = load(model, adapter=adapter)
    return MlxEngine(
        loaded, thinking=thinking, batch_size=batch_size, kv_bits=kv_bits, drafting=_drafting(options)
    )


def open_local_engine(options: EngineOptions) -> LocalEngine:
    """Open an engine that runs a model in this process; raises as `open_engine` does.

    Raises:
        ConfigError: also, the model is a server or a recording.
    """
    if is_url(options.model) or options.model.endswith(".jsonl") or options.engine in ("http", "replay"):
        raise ConfigError(
            f"{options.model} is not a model that runs in this process; name a model folder, a .gguf file or "
            "a hub id, and leave --engine out"
        )
    return cast(LocalEngine, open_engine(options))


def _drafting(options: EngineOptions) -> "Drafting | None":
    """Return how to draft."""
    from smidgen.inference.drafting import Drafting
    from smidgen.models.truncated import load_first

    if options.decode == "ar":
        return None
    return Drafting(options.decode, None if options.draft_model is None else load_first(options.draft_model))


def _check_fit(options: EngineOptions, kind: str) -> None:
    """Refuse settings that do not apply to the engine."""
    unfit = {
        "an adapter": options.adapter is not None and kind in ("replay", "http"),
        "kv_bits": options.kv_bits is not None and kind in ("replay", "http"),
        "thinking": options.thinking and kind == "replay",
        "a model name": options.model_name is not None and kind != "http",
        "an API key variable": options.api_key_env is not None and kind != "http",
        "a timeout": options.timeout is not None and kind != "http",
    }
    if given := [name for name, is_given in unfit.items() if is_given]:
        what = {"replay": "recording", "http": "server"}.get(kind, "model")
        raise ConfigError(
            f"{given[0]} does not apply to the {what} {options.model}; leave it out or name a model"
        )


def engine_identity(options: EngineOptions, *, scores: bool = False) -> str:
    """Return a fingerprint of what `open_engine` opens: a hash of all weights, or of the recording.

    For a server only the address and the model name are known. If the server changes what it serves under
    that name, start new records.
    """
    model, adapter, kv_bits = options.model, options.adapter, options.kv_bits
    kind, dtype = _engine_for(options, scores=scores)
    if kind == "replay":
        return content_hash(Path(model))
    if kind == "http":
        return sha256_json([kind, model.rstrip("/"), options.model_name, options.thinking])
    parts = [content_hash(_local(model)), adapter and content_hash(adapter), options.thinking]
    parts += [] if kind == "mlx" else [kind]
    parts += [dtype] if dtype in ("F32", "BF16") else []  # the others are what `llama` uses by itself
    parts += [] if kv_bits is None else [f"{kv_bits} bits"]
    # The answers are the same, and the times are not.
    parts += [] if options.decode == "ar" else [options.decode, options.draft_model]
    return sha256_json(parts)


def model_hash(options: EngineOptions) -> str:
    """Return a hash of what options name, whatever engine runs it: weights, a recording, or an address.

    Raises:
        ConfigError: there is no such adapter or recording.
        ModelError: there is no such model.
    """
    model, adapter = options.model, options.adapter
    if is_url(model):
        return sha256_json([model.rstrip("/"), options.model_name])
    if adapter is not None and not adapter.is_dir():
        raise ConfigError(f"there is no adapter folder {adapter}; check the path, or leave the adapter out")
    if model.endswith(".jsonl") and not Path(model).is_file():
        raise ConfigError(f"there is no recording {model}; expected a file of recorded answers")
    source = Path(model) if model.endswith(".jsonl") else _local(model)
    return sha256_json([content_hash(source), adapter and content_hash(adapter)])


def _engine_for(options: EngineOptions, *, scores: bool) -> tuple[str, str | None]:
    """Return the engine to use, and llama.cpp's file type if `auto` chose one."""
    model, engine = options.model, options.engine
    is_server = is_url(model)
    if is_server != (engine == "http") and engine != "auto":
        given = f"{model} is the URL of a server" if is_server else f"{model} is not a URL"
        raise ConfigError(f"{given}, so the engine {engine} cannot be used; leave --engine out")
    if engine != "auto":
        return engine, None
    if is_server:
        return "http", None
    if model.endswith(".jsonl"):
        return "replay", None
    if scores or options.decode != "ar":
        return "mlx", None  # the only engine that scores given texts or verifies drafts
    if model.endswith(".gguf"):
        return "llama", None
    from smidgen.inference.choice import choose

    choice = choose(model, batch_size=options.batch_size, kv_bits=options.kv_bits)
    return choice.engine, choice.dtype


def _local(model: str) -> Path:
    """Return the file or folder of a model."""
    from smidgen.models.load import resolve

    path = Path(model).expanduser()
    return path if model.endswith(".gguf") and path.is_file() else resolve(model)
