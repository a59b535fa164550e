"""A model folder for transformers, mlx-lm and smidgen, made of a GGUF file without torch."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_save

from smidgen.cache import cache_dir
from smidgen.errors import ConfigError, ModelError, first_few
from smidgen.files import atomic_folder, sha256_file, sha256_json, write_json
from smidgen.gguf.config import config_of, expected_shapes
from smidgen.gguf.names import ROPE_DIVISORS, graph_name
from smidgen.gguf.read import GgufFile, can_dequantize, open_gguf
from smidgen.gguf.read_tokenizer import FORMAT as TOKENIZER_FORMAT
from smidgen.gguf.read_tokenizer import end_tokens, special_token, write_tokenizer
from smidgen.gguf.tensors import DTYPES, plan_weights, write_weights

FORMAT = 1
"""Counts changes of what an import writes beside the tokenizer; older folders are then no longer used."""

_LICENCE_KEYS = {
    "general.license": "license",
    "general.license.name": "license_name",
    "general.license.link": "license_link",
}


@dataclass(frozen=True)
class Imported:
    """What was made of a GGUF file.

    Attributes:
        path: the folder.
        source: the file.
        sha256: of the file.
        architecture: of the model.
        tensors: how many.
        kinds: how many tensors the file had of each type.
        dtype: what most numbers are stored in.
        bytes: of the weights.
        licence: as the file names it; None where it does not.
        seconds: that it took.
    """

    path: Path
    source: Path
    sha256: str
    architecture: str
    tensors: int
    kinds: dict[str, int]
    dtype: str
    bytes: int
    licence: str | None
    seconds: float


@dataclass(frozen=True)
class ImportedFacts:
    """The cache folder of imported models.

    Attributes:
        folder: its path.
        models: number of models in it.
        bytes: total size of everything in it.
    """

    folder: Path
    models: int
    bytes: int


def import_gguf(file: Path, out: Path, *, dtype: str | None = None) -> Imported:
    """Write the model of a GGUF file as a folder, which appears whole or not at all.

    Args:
        file: the GGUF file.
        out: the folder.
        dtype: `float32`, `float16` or `bfloat16`; as the file has its numbers if None, and float16 for those
            of block types.

    Raises:
        ConfigError: there is no such dtype, or something stands at `out`.
        ModelError: the file is not there or is damaged, or its architecture, its tokenizer, the type of its
            numbers or its rotary scaling is none that is known here.
        WorkError: the disk is full or the place cannot be written.
    """
    start = time.perf_counter()
    with open_gguf(file) as opened:
        metadata = opened.metadata()
        names = _graph_names(file, opened)
        shapes = {ours: opened.tensors[theirs].shape for theirs, ours in names.items()}
        divisors = opened.rows(ROPE_DIVISORS) if ROPE_DIVISORS in opened.tensors else None
        config = config_of(file, metadata, shapes, divisors)
        _check(file, opened, config, names, shapes)
        targets = plan_weights(opened, names, config["head_dim"], dtype)
        numbers = Counter[str]()
        for target in targets:
            numbers[target.dtype] += target.nbytes
        stored = next(name for name, kind in DTYPES.items() if kind == max(numbers, key=numbers.__getitem__))
        with atomic_folder(out) as folder:
            write_tokenizer(folder, file, metadata)
            write_weights(opened, targets, folder / "model.safetensors")
            write_json(folder / "config.json", _finished(config, file, metadata, stored))
            imported = Imported(
                path=out,
                source=file,
                sha256=sha256_file(file),
                architecture=opened.architecture,
                tensors=len(targets),
                kinds=dict(Counter(placed.kind.name for placed in opened.tensors.values())),
                dtype=stored,
                bytes=sum(target.nbytes for target in targets),
                licence=metadata.get("general.license"),
                seconds=time.perf_counter() - start,
            )
            _write_card(folder, imported, metadata)
    return imported


def cached_import(file: Path) -> Path:
    """Return the model folder of a GGUF file, made in the cache folder the first time.

    Raises:
        ModelError, WorkError: as in `import_gguf`.
    """
    if not file.is_file():
        raise ModelError(f"there is no file {file}; check the path")
    name = sha256_json([FORMAT, TOKENIZER_FORMAT, sha256_file(file)])[:32]
    folder = _cached() / name
    if not folder.exists():
        try:
            import_gguf(file, folder)
        except ConfigError:  # another process may have made it meanwhile
            if not folder.exists():
                raise
    return folder


def imported_facts() -> ImportedFacts:
    """Return the contents of the cache folder of imported models, which need not exist."""
    folder = _cached()
    files = [file for file in folder.rglob("*") if file.is_file()]
    models = [model for model in folder.glob("*") if not model.name.startswith(".")]
    return ImportedFacts(folder, len(models), sum(file.stat().st_size for file in files))


def _cached() -> Path:
    return cache_dir() / "imported"


def _graph_names(file: Path, opened: GgufFile) -> dict[str, str]:
    """The graph's names of a file's tensors by its own; what the graph has no place for is refused."""
    names = {name: graph_name(name) for name in opened.tensors if name != ROPE_DIVISORS}
    if unknown := [name for name, ours in names.items() if ours is None]:
        raise ModelError(
            f"{file} holds tensors that a {opened.architecture} has no place for: {first_few(unknown, ', ')}"
        )
    return {name: ours for name, ours in names.items() if ours is not None}


def _check(
    file: Path,
    opened: GgufFile,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse tensors that do not make the model, or whose numbers cannot be read."""
    wanted = expected_shapes(config)
    faults = [f"missing '{name}' {shape}" for name, shape in wanted.items() if name not in shapes]
    faults += [f"unexpected '{theirs}'" for theirs, ours in names.items() if ours not in wanted]
    faults += [
        f"'{theirs}' has shape {shapes[ours]}, expected {wanted[ours]}"
        for theirs, ours in names.items()
        if ours in wanted and shapes[ours] != wanted[ours]
    ]
    if faults:
        raise ModelError(f"the tensors of {file} do not fit its metadata: {first_few(faults)}")
    vectors = {placed.kind for placed in opened.tensors.values() if len(placed.shape) == 1}
    kinds = {placed.kind for placed in opened.tensors.values()}
    odd = {kind.name for kind in kinds if not can_dequantize(kind)}
    odd |= {f"{kind.name} vectors" for kind in vectors if kind.name not in DTYPES.values()}
    if odd:
        raise ModelError(
            f"{file} holds numbers of the type {', '.join(sorted(odd))}, which cannot be read here; use a "
            "file of F16, BF16, Q8_0 or K-quants of the same model"
        )


def _finished(config: dict[str, Any], file: Path, metadata: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The content of `config.json`, with what the tokenizer and the weights tell."""
    known = dict(metadata)
    tokens, rows = len(metadata["tokenizer.ggml.tokens"]), config["vocab_size"]
    if tokens > rows:
        raise ModelError(
            f"the tokenizer in {file} has {tokens} tokens, the model {rows}; fetch the file again"
        )
    if config["model_type"] == "qwen2":  # transformers computes it there
        config = {name: value for name, value in config.items() if name != "head_dim"}
    bos, pad = (special_token(file, known, kind) for kind in ("bos", "padding"))
    ids = {"bos_token_id": bos, "eos_token_id": end_tokens(file, known), "pad_token_id": pad}
    return config | {name: value for name, value in ids.items() if value is not None} | {"torch_dtype": dtype}


def _write_card(folder: Path, imported: Imported, metadata: Mapping[str, Any]) -> None:
    """Write a README.md that says what the folder was made of and under which licence it stands."""
    title = str(metadata.get("general.name") or imported.source.stem)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(imported.kinds.items()))
    text = (
        f"# {title}\n\nMade by smidgen of the GGUF file `{imported.source.name}` "
        f"(sha256 `{imported.sha256}`).\n\n"
        f"- architecture: {imported.architecture}\n- tensors of the file: {kinds}\n"
        f"- weights here: {imported.dtype}; block types were dequantised, not restored\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    licence = {ours: str(metadata[theirs]) for theirs, ours in _LICENCE_KEYS.items() if metadata.get(theirs)}
    if licence:
        metadata_save(folder / "README.md", licence)
