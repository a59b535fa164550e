"""`smidgen quantize`: a smaller copy of a model."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from smidgen.cli.console import print_json, say, size
from smidgen.cli.options import Json, Out


def quantize(
    model: Annotated[str, Parameter(help="A folder, a hub id or smidgen:nano.")],
    /,
    *,
    out: Out,
    bits: Annotated[Literal[2, 3, 4, 5, 6, 8], Parameter(help="Bits of a weight.")] = 4,
    group_size: Annotated[
        Literal[32, 64, 128], Parameter(help="Weights that share a scale and a bias.")
    ] = 32,
    json: Json = False,
) -> None:
    """Write a copy of a model whose linear layers and embedding take fewer bits.

    Evaluate the copy before you use it: the fewer the bits, the more it may have forgotten.
    """
    from smidgen.models.load import load
    from smidgen.models.quantize import quantize as quantize_in_place
    from smidgen.models.save import save_model

    loaded = load(model)
    config = quantize_in_place(loaded.model, loaded.config, bits, group_size)
    save_model(out, loaded.model, config, loaded.path)
    before, after = weights_bytes(loaded.path), weights_bytes(out)
    if json:
        print_json(
            {"out": out, "bits": bits, "group_size": group_size, "bytes_before": before, "bytes": after}
        )
    else:
        say(f"{out}: {size(after)} of weights, from {size(before)}; evaluate it with --model {out}")


def weights_bytes(path: Path) -> int:
    """Size of the weights of a model folder."""
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))
