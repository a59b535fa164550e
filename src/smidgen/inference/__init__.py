"""Prompts become completions; `open_engine` is the only door."""

from pathlib import Path

from smidgen.errors import ConfigError, did_you_mean
from smidgen.files import content_hash, sha256_json
from smidgen.inference.engine import Engine, Stream

ENGINES = ("auto", "mlx", "replay")

__all__ = ["ENGINES", "Engine", "Stream", "engine_identity", "open_engine"]


def open_engine(
    model: str,
    *,
    engine: str = "auto",
    adapter: Path | None = None,
    thinking: bool = False,
    batch_size: int = 64,
) -> Engine:
    """Open whatever completes prompts.

    Args:
        model: a model as `smidgen.models.load.load` takes it, or the file of a recording.
        engine: `mlx` runs the model here, `replay` answers from a recording; `auto` takes a `.jsonl` file
            for a recording and all else for a model.
        adapter: folder of a low-rank adapter to put on the model.
        thinking: whether the chat template opens a thinking block.
        batch_size: rows decoded together at most.

    Raises:
        ConfigError: the engine is unknown, or a setting does not go with it.
        DataError: the recording cannot be used.
        ModelError: the model cannot be loaded.
    """
    if engine not in ENGINES:
        known = ", ".join(ENGINES)
        raise ConfigError(
            f"there is no engine '{engine}'; expected one of {known}.{did_you_mean(engine, ENGINES)}"
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; expected 1 or more")
    if _is_recording(model, engine):
        if adapter is not None or thinking:
            given = "an adapter" if adapter is not None else "thinking"
            raise ConfigError(f"{given} does not go with the recording {model}; leave it out or name a model")
        from smidgen.inference.replay import ReplayEngine

        return ReplayEngine(Path(model))
    # Recordings are read on machines where MLX need not even be installed, so it is imported only here.
    from smidgen.inference.mlx import MlxEngine
    from smidgen.models.load import load

    return MlxEngine(load(model, adapter=adapter), thinking=thinking, batch_size=batch_size)


def engine_identity(
    model: str, *, engine: str = "auto", adapter: Path | None = None, thinking: bool = False
) -> str:
    """Return a fingerprint of what `open_engine` opens: every byte of the weights, or of the recording."""
    if _is_recording(model, engine):
        return content_hash(Path(model))
    from smidgen.models.load import resolve

    return sha256_json([content_hash(resolve(model)), adapter and content_hash(adapter), thinking])


def _is_recording(model: str, engine: str) -> bool:
    return engine == "replay" or (engine == "auto" and model.endswith(".jsonl"))
