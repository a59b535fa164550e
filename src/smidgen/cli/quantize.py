"""`smidgen quantize`: a smaller copy of a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from smidgen.cli.console import Progress, print_json, say, size
from smidgen.cli.options import Json, Out, naming_options, whole
from smidgen.cli.shipping import begin, ship

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


class Shrunk(NamedTuple):
    """What quantising came to.

    Attributes:
        config: the content of the new `config.json`.
        settings: what was asked for.
        plan: how each layer is stored.
        before: the size of the weights in the dtype they are stored in.
        after: their size now.
        sensitivity: the table of measured effects, where there is one.
    """

    config: dict[str, Any]
    settings: "QuantizeConfig"
    plan: "Plan"
    before: "Size"
    after: "Size"
    sensitivity: dict[str, Any] | None

    def facts(self) -> dict[str, Any]:
        """Sizes and settings, for reports and `--json`."""
        widths = sorted({setting.bits for setting in self.plan.values() if setting is not None})
        return {
            "summary": self.settings.summary,
            "mode": self.settings.mode,
            "bits": widths[0] if len(widths) == 1 else widths,
            "group_size": self.config["quantization"]["group_size"],
            "bytes_before": self.before.num_bytes,
            "bytes": self.after.num_bytes,
            "bits_per_weight_before": self.before.bits_per_weight,
            "bits_per_weight": self.after.bits_per_weight,
        }


def shrink(
    loaded: "LoadedModel",
    settings: "QuantizeConfig",
    rows: Callable[[], Sequence[Sequence[int]]],
    *,
    dtype: "mx.Dtype",
    record: Path | None,
) -> Shrunk:
    """Quantise a loaded model in place, saying what it takes before and after.

    Args:
        loaded: unquantised, without adapter layers.
        settings: how.
        rows: makes the rows of tokens to measure layers on, where that is asked for.
        dtype: of what stays floating.
        record: keeps what was measured; None for a file in the cache, by the weights, rows and settings.
    """
    from smidgen.models.quantize import make_plan, quantize_as, size_of
    from smidgen.models.save import stored_dtype

    plan = make_plan(loaded.model, loaded.config, settings)
    before = size_of(loaded.model, stored_dtype(loaded.path))
    say(f"before: {before.num_bytes:,} bytes of weights, {before.bits_per_weight:.3f} bits per weight")
    table = None
    if settings.target_bits is not None:
        measured = rows()
        path = record or _cached_record(loaded, measured, settings)
        plan, table = _measured_plan(loaded, settings, plan, measured, dtype, path)
    after = size_of(loaded.model, dtype, plan)
    config = quantize_as(loaded.model, loaded.config, plan)
    share = f"{after.num_bytes / before.num_bytes:.1%} of it"
    say(f"after: {after.num_bytes:,} bytes ({size(after.num_bytes)}, {share}), "
        f"{after.bits_per_weight:.3f} bits per weight")  # fmt: skip
    return Shrunk(config, settings, plan, before, after, table)


def write_sensitivity(folder: Path, done: Shrunk) -> None:
    """Write the table of measured effects, where there is one, as JSON, Markdown and a page with a figure."""
    from smidgen.evaluation.sensitivity import markdown, page
    from smidgen.files import write_json, write_text

    if done.sensitivity is None:
        return
    write_json(folder / "sensitivity.json", done.sensitivity)
    write_text(folder / "sensitivity.md", markdown(done.sensitivity))
    write_text(folder / "sensitivity.html", page(done.sensitivity))


def _measured_plan(
    loaded: "LoadedModel",
    settings: "QuantizeConfig",
    fixed: "Plan",
    rows: Sequence[Sequence[int]],
    dtype: "mx.Dtype",
    record: Path,
) -> "tuple[Plan, dict[str, Any]]":
    """The plan that the measured effects ask for, and the table of them."""
    from smidgen.config import DEFAULT_GROUP_SIZE
    from smidgen.models.quantize import Setting, quantizable, size_of
    from smidgen.models.sensitivity import Effects, Predictions, affordable, choose, measure

    model, group_size = loaded.model, settings.group_size or DEFAULT_GROUP_SIZE
    layers = quantizable(model, loaded.config)
    free = [name for name in layers if name not in fixed]
    candidates = sorted(set(settings.candidate_bits))

    def alike(bits: int) -> "Plan":
        return {**dict.fromkeys(free, Setting(bits, group_size)), **fixed}

    costs, budget = affordable(model, settings, fixed, dtype, free)
    effects: Effects = {name: {} for name in free}
    predictions = Predictions(model, rows, dtype)
    with Progress("measure", total=len(free) * len(candidates)) as progress:
        for number, effect in enumerate(measure(predictions, free, candidates, group_size, record), start=1):
            effects[effect.name][effect.bits] = effect.divergence
            if effect.known:
                progress.begin_at(number)
            progress.update(number)
    chosen = choose(effects, costs, budget)
    plan: Plan = {**{name: Setting(bits, group_size) for name, bits in chosen.items()}, **fixed}
    whole_effect = predictions.divergence(plan)
    say(f"divergence on {sum(map(len, rows)):,} tokens: {whole_effect:.4g} nats a token")
    table = {
        "model": loaded.name,
        "target_bits": settings.target_bits,
        "group_size": group_size,
        "calibration": {"rows": len(rows), "tokens": sum(map(len, rows))},
        "chosen": {
            **_sized(size_of(model, dtype, plan)),
            "divergence": whole_effect,
            "sum_of_divergences": sum(effects[name][bits] for name, bits in chosen.items()),
        },
        "uniform": {
            str(bits): {
                **_sized(size_of(model, dtype, alike(bits))),
                "divergence": predictions.divergence(alike(bits)),
            }
            for bits in candidates
        },
        "layers": [
            {
                "name": name,
                "parameters": module.weight.size,
                "divergence": {str(bits): value for bits, value in effects.get(name, {}).items()},
                "bits": setting.bits if (setting := plan[name]) else None,
            }
            for name, module in layers.items()
        ],
    }
    return plan, table


def _sized(of: "Size") -> dict[str, Any]:
    return {"bytes": of.num_bytes, "bits_per_weight": of.bits_per_weight}


def _cached_record(loaded: "LoadedModel", rows: Sequence[Sequence[int]], settings: "QuantizeConfig") -> Path:
    """The file in the cache that keeps what was measured of these weights on these rows."""
    from smidgen.cache import cache_dir
    from smidgen.files import content_hash, sha256_json

    key = sha256_json([content_hash(loaded.path), rows, settings.group_size])
    return cache_dir() / "sensitivity" / f"{key}.jsonl"


def _number(bits: str | None) -> int | str | None:
    return int(bits) if bits and bits.isdigit() else bits
