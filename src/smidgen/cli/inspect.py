"""`smidgen inspect`: a model folder's contents, from its configuration and weight headers."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, print_table, say, size
from smidgen.cli.parameters import Json
from smidgen.errors import ModelError, WorkError

if TYPE_CHECKING:
    from smidgen.data.templates import Tokenizer
    from smidgen.models.check import Check

WIDE = 160
"""Width of the table of tensors in characters: wide, since a wrapped name cannot be searched for."""


def inspect(
    model: Annotated[str, Parameter(help="Model folder, hub id or smidgen:nano.")],
    /,
    *,
    check: Annotated[
        bool,
        Parameter(show_default=False, help="Check every tensor and the tokenizer against config.json."),
    ] = False,
    json: Json = False,
) -> None:
    """Show a model's architecture, parameters by part, precision, size and chat template.

    With --check, every tensor is read instead, one at a time, and shown with its name, shape, dtype and
    statistics. Missing, unexpected, damaged and ignored tensors are reported, as are the kind of feed-forward
    layers and whether the output head is tied. The tokenizer is checked too. The exit code is 1 if there are
    problems.
    """
    from smidgen.data.templates import load_tokenizer
    from smidgen.models.load import resolve

    path = resolve(model)
    if check:
        check_tensors(model, path, json)
        return
    facts = {"model": model, "path": path} | weight_facts(path) | tokenizer_facts(load_tokenizer(path))
    if json:
        print_json(facts)
    else:
        show(facts)


def check_tensors(model: str, path: Path, json: bool) -> None:
    """Check a model's tensors and its tokenizer against its configuration.

    Raises:
        ModelError: the configuration or the weights are missing or damaged.
        WorkError: the check found problems.
    """
    from smidgen.models.check import check_model
    from smidgen.models.load import read_config

    config = read_config(path)
    found = check_model(path, config)
    facts = {
        "model": model,
        "path": path,
        "architecture": config.get("model_type"),
        "licence": licence_name(path, config),
    }
    if json:
        print_json(facts | vars(found))
    else:
        show_check(facts, found)
    if number := len(found.faults):
        problems = "1 problem" if number == 1 else f"{number} problems"
        raise WorkError(f"{model} has {problems}; download or convert it again")


def licence_name(path: Path, config: dict[str, Any]) -> str | None:
    """Return the name of a model's licence, or None if unknown."""
    from smidgen.models.licence import licence_of

    licence = licence_of(path, config)
    return licence.name if licence else None


def show_check(facts: dict[str, Any], found: "Check") -> None:
    """Print the result of a check as two tables, with notes and problems on stderr."""
    head = {True: "tied to the embedding", False: "untied", None: "unknown"}[found.tied_head]
    print_table(
        [
            ("model", facts["model"]),
            ("folder", str(facts["path"])),
            ("licence", facts["licence"] or "not declared"),
            ("architecture", str(facts["architecture"])),
            ("feed-forward", f"{found.mlp} ({', '.join(found.mlp_parts)})"),
            ("head", head),
            ("ignored tensors", ", ".join(found.ignored) or "none"),
            ("ignored keys", ", ".join(found.ignored_keys) or "none"),
        ]
    )
    print()
    rows = []
    for tensor in found.tensors:
        *values, non_finite = vars(tensor.statistics).values()
        numbers = ["–" if value is None else f"{value:.4g}" for value in values]
        shape = " × ".join(map(str, tensor.shape))
        rows.append((tensor.name, shape, tensor.dtype, *numbers, count(non_finite)))
    headers = ("tensor", "shape", "dtype", "min", "max", "mean", "std", "non-finite")
    print_table(rows, headers=headers, width=WIDE)
    for kind, sentences in (("note", found.notes), ("problem", found.faults)):
        for sentence in sentences:
            say(f"{kind}: {sentence}")


def weight_facts(path: Path) -> dict[str, Any]:
    """Return the architecture, parameters, precision, size and context length of a model folder.

    Raises:
        ModelError: the configuration or the weights are missing or damaged.
    """
    from smidgen.models.load import fitting_graph, read_config
    from smidgen.models.parts import PARTS, parameters_of, part_of
    from smidgen.models.weights import read_weights, weight_files

    config, weights = read_config(path), read_weights(path)
    parameters, widths = Counter[str](dict.fromkeys(PARTS, 0)), Counter[int]()
    for name, num, width in parameters_of(weights, config):
        parameters[part_of(name)] += num
        widths[width] += num
    total, refused = parameters.total(), None
    try:
        fitting_graph(path, config)  # builds the graph without computing anything
    except ModelError as error:
        refused = str(error)
    return {
        "refused": refused,
        "licence": licence_name(path, config),
        "architecture": config.get("model_type"),
        "layers": config.get("num_hidden_layers"),
        "parameters": {**parameters, "total": total},
        "dtypes": sorted({str(value.dtype).removeprefix("mlx.core.") for value in weights.values()}),
        "bits": {str(width): num for width, num in sorted(widths.items())},
        "quantization": config.get("quantization"),
        "size_bytes": sum(file.stat().st_size for file in weight_files(path)),
        "context": config.get("max_position_embeddings"),
        "tied_head": not any(name.startswith("lm_head.") for name in weights),
    }


def tokenizer_facts(tokenizer: "Tokenizer") -> dict[str, Any]:
    """Return the vocabulary, template, thinking switch and end tokens of a tokenizer."""
    ends = sorted(tokenizer.eos_token_ids)
    return {
        "vocabulary": tokenizer.vocab_size,
        "chat_template": tokenizer.has_template,
        "thinking_switch": _has_thinking_switch(tokenizer),
        "end_tokens": [{"id": token, "text": tokenizer.decode([token], keep_special=True)} for token in ends],
    }


def _has_thinking_switch(tokenizer: "Tokenizer") -> bool:
    """Whether the chat template can open a thinking block."""
    from smidgen.data.types import Message

    try:
        tokenizer.render_prompt((Message("user", "?"),), thinking=True)
    except ModelError:
        return False
    return True


def show(facts: dict[str, Any]) -> None:
    """Print the facts of a model as two tables."""
    thinking = "yes, with a thinking switch" if facts["thinking_switch"] else "yes, without a thinking switch"
    widths = " and ".join(facts["bits"])
    print_table(
        [
            ("model", facts["model"]),
            ("folder", str(facts["path"])),
            ("licence", facts["licence"] or "not declared"),
            ("architecture", f"{facts['architecture']}, {facts['layers']} layers"),
            ("precision", f"{', '.join(facts['dtypes'])}; {widths} bits per weight"),
            ("size", size(facts["size_bytes"])),
            ("context", f"{facts['context']:,} tokens" if facts["context"] else "not declared"),
            ("vocabulary", f"{facts['vocabulary']:,} tokens"),
            ("chat template", thinking if facts["chat_template"] else "no"),
            ("end tokens", ", ".join(f"{end['text']} ({end['id']})" for end in facts["end_tokens"])),
            ("head", "tied to the embedding" if facts["tied_head"] else "untied"),
        ]
    )
    if facts["refused"]:
        say(f"this model cannot be run: {facts['refused']}")
    print()
    parameters = facts["parameters"]
    shares = [
        (name, count(num), f"{num / parameters['total']:.1%}") for name, num in parameters.items() if num
    ]
    print_table(shares, headers=("part", "parameters", "share"))
