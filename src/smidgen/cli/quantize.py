"""`smidgen quantize`: a smaller copy of a model."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from smidgen.cli.console import follow, print_json, say
from smidgen.cli.parameters import Json, Out, naming_options
from smidgen.options import whole

Bits = Literal[2, 3, 4, 5, 6, 8]


@Parameter(name="*")
@dataclass(frozen=True)
class QuantizeOptions:
    """Format of the quantised copy; see `smidgen.config.QuantizeConfig`."""

    bits: Annotated[
        Bits | None,
        Parameter(help="Bits per weight; default: 4, without --recipe, --target-bits or another --mode."),
    ] = None
    group_size: Annotated[
        Literal[32, 64, 128] | None,
        Parameter(help="Number of weights that share a scale and a bias; default: 32."),
    ] = None
    mode: Annotated[
        Literal["affine", "mxfp4", "mxfp8", "nvfp4"],
        Parameter(help="Affine integers with a scale and a bias per group, or a floating-point format."),
    ] = "affine"
    recipe: Annotated[
        Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None,
        Parameter(help="Fixed mix of two bit widths, as in mlx-lm."),
    ] = None
    target_bits: Annotated[
        PositiveFloat | None,
        Parameter(help="Average bits per weight; each layer's width is chosen by its measured effect."),
    ] = None
    candidate_bits: Annotated[
        tuple[Bits, ...] | None, Parameter(help="Allowed bit widths of a layer, with --target-bits.")
    ] = None
    calibration: Annotated[
        str | None,
        Parameter(
            help="Calibration data: world (default), or a JSONL file of rows with text, messages or pairs of "
            "answers."
        ),
    ] = None
    calibration_tokens: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Number of calibration tokens; default: 2048.")
    ] = None
    embedding_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of the embedding and of a tied output head; keep leaves them unquantised."),
    ] = None
    head_bits: Annotated[
        Literal["2", "3", "4", "5", "6", "8", "keep"] | None,
        Parameter(help="Bits of an untied output head; keep leaves it unquantised."),
    ] = None

    def table(self) -> dict[str, Any]:
        """Return the options as a table of a recipe."""
        table = {name: value for name, value in vars(self).items() if value is not None}
        widths = {name: _number(table[name]) for name in ("embedding_bits", "head_bits") if name in table}
        return table | widths


def quantize(
    model: Annotated[
        str, Parameter(help="Model folder, .gguf file, hub id, smidgen:nano or smidgen:smollm2.")
    ],
    /,
    *,
    out: Out,
    options: QuantizeOptions = QuantizeOptions(),
    json: Json = False,
) -> None:
    """Write a copy of a model with its linear layers and embedding quantised.

    Evaluate the copy before you use it: the fewer the bits, the more quality it may lose. With --target-bits,
    the measured effect of every layer is written to sensitivity.json, .md and .html in the copy. Measurements
    are cached, so that another target needs no new ones.
    """
    from smidgen.config import QuantizeConfig, parse_table

    with naming_options(QuantizeConfig.model_fields):
        # fail before the slow imports
        settings = parse_table(QuantizeConfig, options.table(), "smidgen quantize")
        from smidgen.pipeline.quantized_copy import quantize_model

        copy = follow(quantize_model(model, out, settings))
    if json:
        print_json(copy.to_json())
    else:
        say(f"{out}: evaluate it with --model {out}")


def _number(bits: str | None) -> int | str | None:
    return int(bits) if bits and bits.isdigit() else bits
