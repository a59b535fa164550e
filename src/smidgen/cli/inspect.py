"""`smidgen inspect`: what a model folder holds, read from its configuration and the headers of its weights."""

import json as jsonlib
import math
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, print_table, size
from smidgen.cli.options import Json
from smidgen.errors import ModelError
from smidgen.files import read_json

if TYPE_CHECKING:
    from smidgen.data.templates import Tokenizer

# A header longer than this is not one: the format's own limit.
_LONGEST_HEADER = 100_000_000
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8}
_PARTS = ("embedding", "attention", "mlp", "norms", "head", "other")


class Tensor(NamedTuple):
    """What the header of a weights file says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def inspect(
    model: Annotated[str, Parameter(help="A folder, a hub id or smidgen:nano.")], /, *, json: Json = False
) -> None:
    """Show a model's architecture, parameters by part, precision, size and template, without loading its weights."""
    from smidgen.data.templates import load_tokenizer
    from smidgen.models.load import resolve

    path = resolve(model)
    facts = {"model": model, "path": path} | weights_facts(path) | tokenizer_facts(load_tokenizer(path))
    if json:
        print_json(facts)
    else:
        show(facts)


def weights_facts(path: Path) -> dict[str, Any]:
    """Architecture, parameters, precision and size of a model folder.

    Raises:
        ModelError: there is no config.json, there are no weights, or a header is damaged.
    """
    config = read_config(path)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path} holds no *.safetensors; expected a model folder with weights in that format"
        )
    tensors = {name: tensor for file in files for name, tensor in read_header(file).items()}
    parameters, bits = Counter(dict.fromkeys(_PARTS, 0)), Counter[int]()
    for module, num, width in _modules(tensors, config):
        parameters[part(module)] += num
        bits[width] += num
    total = parameters.total()
    text = config.get("text_config", config)
    return {
        "architecture": config.get("model_type"),
        "layers": text.get("num_hidden_layers"),
        "parameters": {**parameters, "total": total},
        "bits": {str(width): num for width, num in sorted(bits.items())},
        "bits_per_weight": round(sum(width * num for width, num in bits.items()) / max(total, 1), 2),
        "dtypes": sorted({tensor.dtype for tensor in tensors.values()}),
        "quantization": config.get("quantization"),
        "size_bytes": sum(file.stat().st_size for file in files),
        "context": text.get("max_position_embeddings"),
        "tied_head": not any(name.startswith("lm_head.") for name in tensors),
    }


def tokenizer_facts(tokenizer: "Tokenizer") -> dict[str, Any]:
    """Vocabulary, template, thinking switch and end tokens of a tokenizer."""
    return {
        "vocabulary": tokenizer.vocab_size,
        "chat_template": tokenizer.has_template,
        "thinking_switch": _has_thinking_switch(tokenizer),
        "eos_tokens": {str(token): tokenizer.decode([token]) for token in sorted(tokenizer.eos_token_ids)},
    }


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a model folder."""
    file = path / "config.json"
    if not file.exists():
        raise ModelError(f"{path} holds no config.json; expected a model folder in Hugging Face's layout")
    return read_json(file)


def read_header(file: Path) -> dict[str, Tensor]:
    """Names, types and shapes of a safetensors file: eight bytes of length, then that much JSON."""
    damaged = ModelError(f"{file} is not a whole safetensors file; copy or download it again")
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST_HEADER
        header = stream.read(length) if length < _LONGEST_HEADER else b""
    try:
        entries = jsonlib.loads(header)
    except ValueError:
        raise damaged from None
    entries.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if file.stat().st_size < 8 + length + end:
        raise damaged
    return {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def part(module: str) -> str:
    """Which part of a transformer a module belongs to, by the names that every checkpoint uses."""
    if "embed_tokens" in module:
        return "embedding"
    if module.startswith("lm_head"):
        return "head"
    if "norm" in module:
        return "norms"
    if "attn" in module or "attention" in module:
        return "attention"
    return "mlp" if "mlp" in module or "feed_forward" in module else "other"


def _modules(tensors: dict[str, Tensor], config: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Name, number of parameters and bits of every tensor; scales and biases count with what they scale."""
    found = []
    for name, (dtype, shape) in tensors.items():
        module, _, leaf = name.rpartition(".")
        scales = tensors.get(f"{module}.scales")
        if scales is None:
            found.append((name, math.prod(shape), _BITS.get(dtype, 32)))
        elif leaf == "weight":
            num = math.prod(scales.shape) * _group_size(module, config)
            found.append((name, num, 32 * math.prod(shape) // num))
    return found


def _group_size(module: str, config: dict[str, Any]) -> int:
    """How many weights of a quantised module share a scale."""
    quantization = config.get("quantization", {})
    own = quantization.get(module)
    group_size = own.get("group_size") if isinstance(own, dict) else quantization.get("group_size")
    if not group_size:
        raise ModelError(
            f"{module} is quantised but config.json names no group_size; convert the model again"
        )
    return group_size


def _has_thinking_switch(tokenizer: "Tokenizer") -> bool:
    """Whether the template can be asked to let the model think: it says so by not refusing."""
    from smidgen.data.types import Message

    try:
        tokenizer.render_prompt((Message("user", "?"),), thinking=True)
    except ModelError:
        return False
    return True


def show(facts: dict[str, Any]) -> None:
    """Print what `inspect` found as two tables."""
    context = f"{facts['context']:,} tokens" if facts["context"] else "not declared"
    template = "no"
    if facts["chat_template"]:
        template = "yes, with a thinking switch" if facts["thinking_switch"] else "yes"
    print_table(
        [
            ("model", facts["model"]),
            ("folder", str(facts["path"])),
            ("architecture", f"{facts['architecture']}, {facts['layers']} layers"),
            ("precision", f"{', '.join(facts['dtypes'])}; {facts['bits_per_weight']:g} bits a weight"),
            ("size", size(facts["size_bytes"])),
            ("context", context),
            ("vocabulary", f"{facts['vocabulary']:,}"),
            ("chat template", template),
            ("end tokens", ", ".join(f"{text} ({token})" for token, text in facts["eos_tokens"].items())),
            ("head", "tied to the embedding" if facts["tied_head"] else "its own"),
        ]
    )
    print()
    total = facts["parameters"]["total"]
    print_table(
        [(name, count(num), f"{num / total:.1%}") for name, num in facts["parameters"].items() if num],
        headers=("part", "parameters", "share"),
    )
