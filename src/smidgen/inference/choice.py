"""The choice between the engines `mlx` and `llama` for a model folder on a CPU, and of llama.cpp's file type.

Which is faster depends on the processor, its libraries, the model's shape and the number of rows. So both
answer a few prompts with the first blocks of the model, which takes seconds, and the result is kept in the
cache folder for all models of that shape, such as those trained from the same base. A candidate must fit into
memory, and a file type hold the folder's weights without loss that matters.

Nothing is measured where there is one candidate. On a GPU that is MLX, since llama.cpp is compared on a CPU
only. Quantised weights beyond `cpu_forward.LARGEST` run in llama.cpp: MLX's products with them are scalar
code on a CPU, so that its turn alone would take minutes.
"""

import json
import math
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from smidgen.backend import blas, blas_library, device, mx
from smidgen.cache import cache_dir
from smidgen.data.types import Message, Request, Sample, Sampling
from smidgen.errors import ModelError, WorkError
from smidgen.export.gguf import write_gguf
from smidgen.export.gguf.supported import check_architecture
from smidgen.files import sha256_json, write_json
from smidgen.inference import llama_server
from smidgen.inference.cpu_forward import LARGEST
from smidgen.inference.engine import Engine
from smidgen.inference.llama import LlamaEngine
from smidgen.inference.llama_files import converted_model
from smidgen.inference.mlx import MlxEngine
from smidgen.models.licence import LicenceNotice
from smidgen.models.load import load, read_config, resolve
from smidgen.models.parts import parameters_of
from smidgen.models.save import copy_tokenizer, stored_dtype
from smidgen.models.weights import read_weights

FORMAT = 2
"""Version of the measurement; increment it when its results would change."""
MEMORY_SHARE = 0.8
"""Share of the memory that the weights of a candidate may take; the KV cache and the system need the rest."""
TYPE_BYTES = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 34 / 32}
"""Bytes of a weight in a file of llama.cpp."""
MEASURED_WEIGHTS = 10_000_000
"""Weights of the blocks that are measured; at least one block."""
PATIENCE = 3.0
"""Seconds until which measurements are repeated, to lessen what other programs disturb."""
MOST_ROWS = 16
"""Rows that are measured; with more, an engine's rate per row changes little."""
SHARED_WORDS, OWN_WORDS, TOKENS = 64, 32, 8
"""A judge's load on a small scale: instructions that all prompts share, their own text, a short answer."""
MOST_TURNS, BUDGET = 5, 15.0
"""Most repetitions, and seconds after which no further candidate is opened, should the machine be busy."""
BEATEN = 3.0
"""A candidate this many times slower than the best is not asked again; noise explains a factor of 2."""
PACKAGES = ("smidgen", "mlx", "mlx-lm", "numpy", "scipy-openblas32", "xllamacpp")
LAYER = re.compile(r"\.layers\.(\d+)\.")

_chosen: dict[str, "Choice"] = {}
"""The choices of this process, which an engine and what names it have to share."""


@dataclass(frozen=True)
class Choice:
    """An engine, and what was measured.

    Attributes:
        engine: `mlx` or `llama`.
        dtype: file type for llama.cpp; None for the usual one.
        model: name of the model.
        rows: number of rows that were measured together; 0 if nothing was measured.
        seconds: time that each candidate took, by its name, such as `mlx` or `llama F16`.
    """

    engine: str
    dtype: str | None = None
    model: str = ""
    rows: int = 0
    seconds: Mapping[str, float] | None = None

    def __str__(self) -> str:
        """The choice as a phrase, with the speed of each candidate relative to the best."""
        name = self.engine if self.dtype is None else f"{self.engine} {self.dtype}"
        if not self.seconds:
            return name
        best = min(self.seconds.values())
        others = ", ".join(f"{other} {best / seconds:.2f}" for other, seconds in self.seconds.items())
        return f"{name} for {self.model}, {self.rows} rows (relative speed: {others})"


def choose(model: str, *, batch_size: int, kv_bits: int | None = None) -> Choice:
    """Choose the engine for a folder on this machine; measures if that has not been done before.

    Args:
        model: a model as `smidgen.models.load.load` takes it.
        batch_size: maximum number of rows decoded together.
        kv_bits: KV-cache bits, as in `open_engine`.
    """
    if device().kind != "cpu" or not llama_server.is_installed():
        return Choice("mlx")
    path = resolve(model)
    try:
        config = read_config(path)
        check_architecture(config, model)
        weights = read_weights(path)
        engines = candidates(path, config, _num_weights(weights, config))
    except ModelError:
        return Choice("mlx")  # its loader reports what is wrong, if anything is
    if len(engines) == 1:
        engine, _, dtype = engines[0].partition(" ")
        return Choice(engine, dtype or None)
    rows = 1 << (min(batch_size, MOST_ROWS).bit_length() - 1)
    key = _key(config, weights, engines, rows, kv_bits)
    if key not in _chosen:
        file = choices_dir() / f"{key}.json"
        _chosen[key] = _read(file) or _measured(model, path, engines, rows, kv_bits, file)
    return replace(_chosen[key], model=model)


def candidates(path: Path, config: Mapping[str, Any], num_weights: int) -> list[str]:
    """Return the engines to measure, such as `mlx` and `llama F16`; the one of fewest bytes if none fits."""
    dtypes = faithful_types(path, config)
    is_small = num_weights <= LARGEST  # then MLX's weights are copied for numpy
    bytes_per_weight = {f"llama {dtype}": TYPE_BYTES[dtype] for dtype in dtypes}
    if is_small or not config.get("quantization"):
        bytes_per_weight = {"mlx": 8.0 if is_small else 4.0} | bytes_per_weight
    return [name for name, size in bytes_per_weight.items() if weights_fit(num_weights * size)] or [
        min(bytes_per_weight, key=lambda name: bytes_per_weight[name])
    ]


def weights_fit(num_bytes: float) -> bool:
    """Return whether weights of a size are few enough for this machine's memory."""
    return num_bytes <= MEMORY_SHARE * device().memory_bytes


def choices_dir() -> Path:
    """Return the folder of the choices made on this machine."""
    return cache_dir() / "engines"


def known_choices() -> Iterator[Choice]:
    """Yield the choices made on this machine, those of other processors and versions included."""
    for file in sorted(choices_dir().glob("*.json")):
        if (choice := _read(file)) is not None:
            yield choice


def faithful_types(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the file types of llama.cpp that hold the weights of a folder without loss that matters.

    Quantised weights have at most 8 bits and stay in 8. Weights of 16 bits fit F16, whose rounding of what
    bfloat16 can hold beyond it is below 3e-8, and their own type. Weights of 32 bits stay as they are.
    """
    if config.get("quantization"):
        return ["Q8_0"]
    return {mx.float16: ["F16", "F32"], mx.bfloat16: ["F16", "BF16", "F32"]}.get(stored_dtype(path), ["F32"])


def measure(path: Path, engines: Sequence[str], rows: int, kv_bits: int | None) -> dict[str, float]:
    """Return the seconds in which each engine answers `rows` prompts with the first blocks of a model.

    The engines take turns, and their best times count.
    """
    seconds, begun = {}, time.perf_counter()
    in_numpy = _num_weights(read_weights(path), read_config(path)) <= LARGEST  # as the whole model would run
    with tempfile.TemporaryDirectory(prefix="smidgen-choice-") as folder, ExitStack() as stack:
        excerpt = write_excerpt(path, Path(folder) / "model")
        opened = {}
        for name in engines:
            if len(opened) > 1 and time.perf_counter() - begun > BUDGET:
                break
            opened[name] = engine = _open(excerpt, name, rows, kv_bits, in_numpy=in_numpy)
            stack.callback(engine.close)
            _answer(engine, rows, 0, max_tokens=1)  # loads the weights
        started, turn = time.perf_counter(), 0
        while turn < MOST_TURNS and (not turn or time.perf_counter() - started < PATIENCE):
            turn += 1
            for name, engine in opened.items():
                seconds[name] = min(seconds.get(name, math.inf), _answer(engine, rows, turn))
            limit = BEATEN * min(seconds.values())
            opened = {name: engine for name, engine in opened.items() if seconds[name] <= limit}
            if len(opened) == 1:
                break
    return seconds


def write_excerpt(path: Path, folder: Path) -> Path:
    """Write a model that is the first blocks of another, with its embedding and head; return its folder."""
    config, weights = read_config(path), read_weights(path)
    num_blocks = int(config["num_hidden_layers"])
    blocks = sum(number for name, number, _ in parameters_of(weights, config) if LAYER.search(name))
    kept = max(1, min(num_blocks, MEASURED_WEIGHTS * num_blocks // max(1, blocks)))
    folder.mkdir()
    first = {
        name: value
        for name, value in weights.items()
        if (found := LAYER.search(name)) is None or int(found[1]) < kept
    }
    mx.save_safetensors(str(folder / "model.safetensors"), first, metadata={"format": "pt"})
    by_layer = {
        name: value[:kept]
        for name, value in config.items()
        if isinstance(value, list) and len(value) == num_blocks
    }
    write_json(folder / "config.json", config | by_layer | {"num_hidden_layers": kept})
    copy_tokenizer(path, folder)
    return folder


def _measured(
    model: str, path: Path, engines: Sequence[str], rows: int, kv_bits: int | None, file: Path
) -> Choice:
    """Measure, and keep the choice in a file."""
    print(f"measuring which engine is fastest for {model} on this machine …", file=sys.stderr, flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LicenceNotice)  # the model itself is opened next, and gives it
        seconds = measure(path, engines, rows, kv_bits)
    engine, _, dtype = min(seconds, key=lambda name: seconds[name]).partition(" ")
    choice = Choice(engine, dtype or None, model, rows, seconds)
    kept = ""
    with suppress(WorkError):  # the cache folder may be read-only or full
        write_json(file, asdict(choice))
        kept = f"; kept in {file}"
    print(f"engine: {choice}{kept}", file=sys.stderr, flush=True)
    return choice


def _read(file: Path) -> Choice | None:
    """Return the choice in a file; None if there is none that can be read."""
    try:
        return Choice(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _open(folder: Path, name: str, rows: int, kv_bits: int | None, *, in_numpy: bool) -> Engine:
    engine, _, dtype = name.partition(" ")
    if engine == "mlx":
        return MlxEngine(load(str(folder)), batch_size=rows, kv_bits=kv_bits, in_numpy=in_numpy)
    file = folder / f"{dtype}.gguf"
    write_gguf(str(folder), file, dtype=dtype)
    model = converted_model(file, folder, dtype, name=name)
    return LlamaEngine(model, batch_size=rows, kv_bits=kv_bits)


def _answer(engine: Engine, rows: int, turn: int, *, max_tokens: int = TOKENS) -> float:
    """Let an engine answer new prompts; return the seconds that it took."""
    shared = _words(turn, SHARED_WORDS)
    texts = [f"{shared} {_words(1000 * (turn + 1) + row, OWN_WORDS)}" for row in range(rows)]
    requests = [
        Request(Sample(str(i), (Message("text", text),)), Sampling(max_tokens=max_tokens), logprobs=False)
        for i, text in enumerate(texts)
    ]
    started = time.perf_counter()
    for _ in engine.complete(requests):
        pass
    return time.perf_counter() - started


def _words(seed: int, number: int) -> str:
    words = "which answer counts better than another when both towns keep seven green tin bells".split()
    return " ".join(words[(seed * 7919 + i * i * (seed % 13 + 1)) % len(words)] for i in range(number))


def _num_weights(weights: Mapping[str, mx.array], config: Mapping[str, Any]) -> int:
    return sum(number for _, number, _ in parameters_of(weights, config))


def _key(
    config: Mapping[str, Any],
    weights: Mapping[str, mx.array],
    engines: list[str],
    rows: int,
    kv_bits: int | None,
) -> str:
    """Return what the measurement depends on, as a hash."""
    shape = [config["model_type"], config.get("quantization")]
    shape += sorted([name, list(value.shape), str(value.dtype)] for name, value in weights.items())
    library = blas_library()
    kernel = library.openblas_get_config().decode() if library is not None else ""
    versions = [metadata.version(name) if _is_installed(name) else None for name in PACKAGES]
    machine = [device().name, device().cores, blas().name, blas().threads, kernel]
    return sha256_json([FORMAT, shape, engines, rows, kv_bits, machine, versions])[:32]


def _is_installed(name: str) -> bool:
    return bool(list(metadata.distributions(name=name)))
