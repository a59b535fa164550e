"""`smidgen quantize`: a smaller copy of a model."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from smidgen.cli.console import follow, print_json, say
from smidgen.cli.options import Json, Out, naming_options
from smidgen.options import whole

Bits = Literal[2, 3, 4, 5, 6, 8]


@Parameter(name="*")
@dataclass(frozen=True)
class QuantizeOptions:
    """How the copy is stored; see `smidgen.config.QuantizeConfig`."""

    bits: Annotated[Bits | None, Parameter(help="Bits of a weight; 4 unless something else decides.")] = None
    group_size: Annotated[
        Literal[32, 64, 128] | None, Parameter(help="Weights that share a scale and a bias; 32 unless given.")
    ] = None
    mode: Annotated[
        Literal["affine", "mxfp4", "mxfp8", "nvfp4"],
        Parameter(help="Integers with a scale and a bias a group, or one of three floating-point formats."),
    ] = "affine"
    recipe: Annotated[
        Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None,
        Parameter(help="A fixed mix of two widths, as mlx-lm has them."),
    ] = None
    target_bits: Annotated[
        PositiveFloat | None,
        Parameter(
            help="Bits per weight in all; each layer gets the width that its measured effect asks for."
        ),
    ] = None
    candidate_bits: Annotated[
        tuple[Bits, ...] | None, Parameter(help="Widths that a layer may get, with --target-bits.")
    ] = None
    calibration: Annotated[
        str | None,
        Parameter(
            help="What to measure on: world (unless given), or a JSONL file of rows with text, messages or "
            "pairs of answers."
        ),
    ] = None
    calibration_tokens: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Tokens of it that are read; 2048 unless given.")
    ] = None
    embedding_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of the embedding, and of a head that is tied to it; keep leaves it as it is."),
    ] = None
    head_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of a head of its own; keep leaves it as it is."),
    ] = None

    def table(self) -> dict[str, Any]:
        """The table of a recipe that the options stand for."""
        table = {name: value for name, value in vars(self).items() if value is not None}
        widths = {name: _number(table[name]) for name in ("embedding_bits", "head_bits") if name in table}
        return table | widths


def quantize(
    model: Annotated[
        str, Parameter(help="A folder, a .gguf file, a hub id, smidgen:nano or smidgen:smollm2.")
    ],
    /,
    *,
    out: Out,
    options: QuantizeOptions = QuantizeOptions(),
    json: Json = False,
) -> None:
    """Write a copy of a model whose linear layers and embedding take fewer bits.

    Evaluate the copy before you use it: the fewer the bits, the more it may have forgotten. With
    --target-bits the measured effect of every layer stands in the copy's sensitivity.json, .md and .html;
    what was measured is kept in the cache, so another target is chosen at once.
    """
    from smidgen.config import QuantizeConfig, parse_table

    with naming_options(QuantizeConfig.model_fields):
        # before what takes long to import
        settings = parse_table(QuantizeConfig, options.table(), "smidgen quantize")
        from smidgen.pipeline.quantizing import quantize_model

        facts = follow(quantize_model(model, out, settings))
    if json:
        print_json(facts)
    else:
        say(f"{out}: evaluate it with --model {out}")


def _number(bits: str | None) -> int | str | None:
    return int(bits) if bits and bits.isdigit() else bits
