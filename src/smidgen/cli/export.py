"""`smidgen export`: a model in the formats of other programs, one command a format."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from smidgen.cli.console import print_json, say, size
from smidgen.cli.export_options import FuseOptions, GgufOptions, Private, PublishOptions
from smidgen.cli.options import Json, Out, naming_options
from smidgen.errors import ConfigError
from smidgen.options import Adapter, Model

export = App(
    name="export",
    help="Write a model in the format of another program, and prove it there.",
    default_parameter=Parameter(negative=()),
)

AdapterFolder = Annotated[Path, Parameter(help="Folder of a LoRA adapter: ours, mlx-lm's or PEFT's.")]


def _new(_: object, path: Path) -> None:
    """Refuse a name that is taken, before any work is done for it."""
    if path.exists():
        raise ValueError("Something is there already; give another name or remove it first.")


@export.command
def gguf(
    *,
    model: Model,
    out: Annotated[
        Path,
        Parameter(
            validator=_new,
            help="The new file, FILE.gguf; any other name is that of a folder for it and a model card.",
        ),
    ],
    adapter: Adapter = None,
    options: GgufOptions = GgufOptions(),
    publish: PublishOptions = PublishOptions(),
    json: Json = False,
) -> None:
    """Write a GGUF file for llama.cpp, Ollama and LM Studio.

    An adapter is added to the weights in float32. The file is compared with the model before it appears:
    every number, the tokens of a text in many scripts, the end tokens and the next-token probabilities.
    """
    from smidgen.pipeline import shipping

    adapter_only = options.adapter_only
    if adapter_only and adapter is None:
        raise ConfigError("--adapter-only writes an adapter by itself; name one with --adapter")
    if adapter_only and options.modelfile:
        raise ConfigError("--modelfile is for a whole model; leave it out with --adapter-only")
    kind = options.dtype or ("F32" if adapter_only else "Q8_0")

    def make(file: Path) -> dict[str, Any]:
        return _make_gguf(file, model, adapter, kind, options)

    if out.suffix == ".gguf":
        if publish != PublishOptions():
            raise ConfigError(f"a model card needs a folder, and {out} is a file; name a folder as --out")
        facts = make(out)
    elif adapter_only:
        raise ConfigError(f"--adapter-only writes one file, and {out} does not end in .gguf; name a file")
    else:
        publication = publish.publication()
        source = shipping.card_source(model, adapter, publication)
        name = f"{out.resolve().name}-{kind.lower()}.gguf"
        shipped = shipping.publish(
            lambda folder: make(folder / name), out, source, f"gguf-{kind.lower()}", publication
        )
        facts = _placed(shipped, out / name)
    if json:
        print_json(facts)
        return
    if "out" in facts:
        show_export(facts, json)
    else:
        show_drift(facts)
    _say_gguf(facts)


def _make_gguf(
    out: Path, model: str, adapter: Path | None, dtype: str, options: GgufOptions
) -> dict[str, Any]:
    """Write a file, which appears when it was held against the model, and its Modelfile beside it."""
    from smidgen.export.gguf import verify_gguf, verify_gguf_adapter, write_gguf, write_gguf_adapter
    from smidgen.export.gguf.modelfile import modelfile as modelfile_text
    from smidgen.files import atomic_file, write_text
    from smidgen.models.load import resolve
    from smidgen.pipeline.exporting import gguf_drift

    verify = not options.no_verify
    recipe, text = out.with_suffix(".Modelfile"), None
    if options.modelfile and recipe.exists():
        raise ConfigError(f"{recipe} is there already; remove it, or name another file as --out")
    with atomic_file(out) as file:
        if options.adapter_only and adapter is not None:
            facts = write_gguf_adapter(model, adapter, file, dtype=dtype)
            facts["verified"] = verify_gguf_adapter(file, model, adapter) if verify else None
        else:
            facts = write_gguf(model, file, dtype=dtype, adapter=adapter)
            facts["verified"] = verify_gguf(file, model, adapter=adapter) if verify else None
            facts |= gguf_drift(facts["verified"], dtype)
        if options.modelfile:
            text = modelfile_text(out.name, resolve(model), facts["licence"])
    if text is not None:
        write_text(recipe, text)
        facts["modelfile"] = recipe
    return _placed(facts, out) | {"format": "gguf"}


def _placed(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """The facts of a file that now stands at `path`."""
    verified = facts["verified"] and {**facts["verified"], "path": path}
    beside = {"modelfile": path.with_suffix(".Modelfile")} if "modelfile" in facts else {}
    return {**facts, "path": path, "verified": verified, **beside}


def _say_gguf(facts: dict[str, Any]) -> None:
    """Say what was written and what was proven."""
    say(f"{facts['path']}: {size(facts['bytes'])}, {facts['tensors']} tensors, {facts['seconds']:.1f} s")
    if facts.get("licence"):
        say(f"licence of the model: {facts['licence']}")
    if facts.get("unblocked"):
        say(f"kept in F16, their rows being no whole blocks: {', '.join(facts['unblocked'])}")
    if verified := facts["verified"]:
        say(
            f"llama.cpp predicts from the file what our own graph does: logits differ by "
            f"{verified['logit_error']:.2g} of their spread, and its arithmetic explains "
            f"{verified['tolerance']:g}"
        )
    else:
        say("not verified")
    if file := facts.get("modelfile"):
        say(f"{file}: ollama create NAME -f {file}")


@export.command
def peft(
    *,
    model: Model,
    adapter: AdapterFolder,
    out: Out,
    publish: PublishOptions = PublishOptions(),
    json: Json = False,
) -> None:
    """Write an adapter for PEFT: for transformers, and for vLLM to put on its base.

    The adapter may be ours or mlx-lm's. Nothing is rounded. What vLLM would not take of it is told.
    """
    from smidgen.export.peft import export_peft

    _export(lambda folder: export_peft(adapter, model, folder), model, adapter, out, "peft", publish, json)


@export.command
def mlx(
    *,
    model: Model,
    adapter: AdapterFolder,
    out: Out,
    publish: PublishOptions = PublishOptions(),
    json: Json = False,
) -> None:
    """Write an adapter for mlx-lm; it may be PEFT's, or ours, which is mlx-lm's already."""
    from smidgen.export.peft import export_mlx_adapter

    def make(folder: Path) -> dict[str, Any]:
        return export_mlx_adapter(adapter, model, folder)

    _export(make, model, adapter, out, "mlx-adapter", publish, json)


@export.command
def fused(
    *,
    model: Model,
    out: Out,
    adapter: Adapter = None,
    options: FuseOptions = FuseOptions(),
    publish: PublishOptions = PublishOptions(),
    json: Json = False,
) -> None:
    """Write one model with the adapter in it, for mlx-lm, transformers and vLLM; for MLX alone with --bits.

    What was written is loaded again, and its next-token distributions are compared with those of the model
    and adapter it was made from. Without --prompts, those are rows that the --run validated on, or a dozen
    that smidgen has; the same model drifts by another figure on each. If they drift too far apart nothing is
    kept, and the exit code is 1.
    """
    from smidgen.data.prompts import read_prompts
    from smidgen.export.fused import export_fused
    from smidgen.pipeline.exporting import VALIDATED
    from smidgen.pipeline.shipping import check_quantization

    bits, prompts, run = options.bits, options.prompts, publish.run
    check_quantization(model, bits, options.dequantize)
    source = prompts or (run and run / "data/validation.jsonl")

    def make(folder: Path) -> dict[str, Any]:
        questions = read_prompts(source) if source else None
        return export_fused(
            model,
            adapter,
            folder,
            bits=bits,
            group_size=options.group_size,
            prompts=questions,
            asked=f"prompts of {prompts.name}" if prompts else VALIDATED,
            max_drift=options.max_drift,
            force=options.force,
        )

    with naming_options(("group_size",)):
        _export(make, model, adapter, out, f"mlx-{bits}bit" if bits else "fused", publish, json)


def _export(
    make: Callable[[Path], dict[str, Any]],
    model: str,
    adapter: Path | None,
    out: Path,
    artefact: str,
    publish: PublishOptions,
    json: bool,
) -> None:
    """Write an export with its card, upload it if asked to, and show what was made."""
    from smidgen.pipeline import shipping

    publication = publish.publication()
    source = shipping.card_source(model, adapter, publication)
    show_export(shipping.publish(make, out, source, artefact, publication), json)


def show_export(facts: dict[str, Any], json: bool) -> None:
    """Say what was made."""
    if json:
        print_json(facts)
        return
    say(f"{facts['out']}: {size(facts['bytes'])} of weights and a model card")
    show_drift(facts)
    if url := facts.get("url"):
        say(f"uploaded to {url}")


def show_drift(facts: dict[str, Any]) -> None:
    """Say how far an export is from what it was made of, and what to know of it."""
    from smidgen.export.drift import in_words

    for warning in facts.get("warnings", ()):
        say(f"warning: {warning}")
    if drift := facts.get("drift"):
        effect = facts.get("adapter_effect")
        beside = f"; the adapter itself changes it by {effect['mean_kl']:.3g}" if effect else ""
        say(f"drift from the model that it was made from, {in_words(drift)}{beside}")


@export.command
def push(
    folder: Annotated[Path, Parameter(help="A folder that was exported, such as one of a run.")],
    /,
    *,
    to: Annotated[str, Parameter(help="The repository of the Hugging Face hub, owner/name.")],
    private: Private = False,
    json: Json = False,
) -> None:
    """Upload a folder as it stands to the Hugging Face hub, or to the server that HF_ENDPOINT names."""
    from smidgen.export.push import push_folder

    url = push_folder(folder, to, private=private)
    if json:
        print_json({"folder": folder, "url": url})
    else:
        say(f"{folder} is at {url}")
