"""`smidgen quantize`: a smaller copy of a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from smidgen.cli.console import Progress, print_json, say, size
from smidgen.cli.options import Json, Out, naming_options
from smidgen.cli.shipping import begin, ship
from smidgen.options import whole

if TYPE_CHECKING:
    from smidgen.backend import mx
    from smidgen.config import QuantizeConfig
    from smidgen.models.load import LoadedModel
    from smidgen.models.quantize import Plan, Size

Bits = Literal[2, 3, 4, 5, 6, 8]


def quantize(
    model: Annotated[str, Parameter(help="A folder, a hub id or smidgen:nano.")],
    /,
    *,
    out: Out,
    bits: Annotated[Bits | None, Parameter(help="Bits of a weight; 4 unless something else decides.")] = None,
    group_size: Annotated[
        Literal[32, 64, 128] | None, Parameter(help="Weights that share a scale and a bias; 32 unless given.")
    ] = None,
    mode: Annotated[
        Literal["affine", "mxfp4", "mxfp8", "nvfp4"],
        Parameter(help="Integers with a scale and a bias a group, or one of three floating-point formats."),
    ] = "affine",
    recipe: Annotated[
        Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None,
        Parameter(help="A fixed mix of two widths, as mlx-lm has them."),
    ] = None,
    target_bits: Annotated[
        PositiveFloat | None,
        Parameter(
            help="Bits per weight in all; each layer gets the width that its measured effect asks for."
        ),
    ] = None,
    candidate_bits: Annotated[
        tuple[Bits, ...] | None, Parameter(help="Widths that a layer may get, with --target-bits.")
    ] = None,
    calibration: Annotated[
        str | None,
        Parameter(
            help="What to measure on: world (unless given), or a JSONL file of rows with text, messages or "
            "pairs of answers."
        ),
    ] = None,
    calibration_tokens: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Tokens of it that are read; 2048 unless given.")
    ] = None,
    embedding_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of the embedding, and of a head that is tied to it; keep leaves it as it is."),
    ] = None,
    head_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of a head of its own; keep leaves it as it is."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a copy of a model whose linear layers and embedding take fewer bits.

    Evaluate the copy before you use it: the fewer the bits, the more it may have forgotten. With
    --target-bits the measured effect of every layer stands in the copy's sensitivity.json, .md and .html;
    what was measured is kept in the cache, so another target is chosen at once.
    """
    from smidgen.config import QuantizeConfig, parse_table

    given = {
        "bits": bits, "group_size": group_size, "mode": mode, "recipe": recipe, "target_bits": target_bits,
        "candidate_bits": candidate_bits, "calibration": calibration,
        "calibration_tokens": calibration_tokens, "embedding_bits": _number(embedding_bits),
        "head_bits": _number(head_bits),
    }  # fmt: skip
    table = {name: value for name, value in given.items() if value is not None}
    with naming_options(QuantizeConfig.model_fields):
        settings = parse_table(QuantizeConfig, table, "smidgen quantize")  # before what takes long to import
        facts = _write(model, out, settings)
    if json:
        print_json(facts)
    else:
        say(f"{out}: evaluate it with --model {out}")


def _write(model: str, out: Path, settings: "QuantizeConfig") -> dict[str, Any]:
    """Write the copy with its card; they appear together."""
    from smidgen.cli.calibration import calibration_rows
    from smidgen.cli.exports import quantized_name
    from smidgen.models.load import load
    from smidgen.models.save import save_model, stored_dtype

    loaded = load(model)

    def rows() -> list[list[int]]:
        source = settings.calibration or "world"
        return calibration_rows(source, loaded.tokenizer, settings.calibration_tokens)

    dtype = stored_dtype(loaded.path)
    done = shrink(loaded, settings, rows, dtype=dtype, record=None)

    def make(folder: Path) -> dict[str, Any]:
        save_model(folder, loaded.model, done.config, loaded.path, dtype=dtype)
        write_sensitivity(folder, done)
        return {"format": "mlx", **done.facts()}

    story = begin(model, None, None, None, False)
    return ship(make, out, story, quantized_name(settings), None, False)


def _number(bits: str | None) -> int | str | None:
    return int(bits) if bits and bits.isdigit() else bits
