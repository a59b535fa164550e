"""`smidgen quantize`: a smaller copy of a model."""

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
    from smidgen.models.load import build, read_config, resolve
    from smidgen.models.quantize import quantize as quantize_in_place
    from smidgen.models.save import save_model, stored_dtype
    from smidgen.models.weights import weight_files

    path = resolve(model)
    config = read_config(path)
    graph = build(path, config)
    smaller = quantize_in_place(graph, config, bits=bits, group_size=group_size)
    save_model(out, graph, smaller, path, dtype=stored_dtype(config))
    before, after = (sum(file.stat().st_size for file in weight_files(folder)) for folder in (path, out))
    if json:
        print_json(
            {"out": out, "bits": bits, "group_size": group_size, "bytes_before": before, "bytes": after}
        )
    else:
        say(f"{out}: {size(after)} of weights, from {size(before)}; evaluate it with --model {out}")
