"""`smidgen export`: models in the formats of other programs, one command per format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from smidgen.cli.console import print_json, say, size
from smidgen.cli.export_options import FuseOptions, GgufOptions, Private, PublishOptions
from smidgen.cli.parameters import Json, Out, naming_options
from smidgen.errors import ConfigError
from smidgen.options import Adapter, Model

if TYPE_CHECKING:
    from smidgen.export.facts import Export
    from smidgen.export.gguf.gguf_facts import GgufExport
    from smidgen.pipeline.shipping import Published

export = App(
    name="export",
    help="Export a model to the format of another program, and verify the result.",
    default_parameter=Parameter(negative=()),
)

AdapterFolder = Annotated[Path, Parameter(help="LoRA adapter folder: smidgen, mlx-lm or PEFT format.")]


def _check_new_path(_: object, path: Path) -> None:
    """Check that nothing exists at the path, before any work is done."""
    if path.exists():
        raise ValueError("It already exists; give another name or remove it first.")


@export.command
def gguf(
    *,
    model: Model,
    out: Annotated[
        Path,
        Parameter(
            validator=_check_new_path,
            help="New file, FILE.gguf; any other name is a new folder for the file and a model card.",
        ),
    ],
    adapter: Adapter = None,
    options: GgufOptions = GgufOptions(),
    publish: PublishOptions = PublishOptions(),
    json: Json = False,
) -> None:
    """Write a GGUF file for llama.cpp, Ollama and LM Studio.

    An adapter is merged into the weights in float32. The file is verified against the model before it is put
    in place: every weight, the tokens of a text in many scripts, the end tokens and next-token probabilities.
    """
    from smidgen.pipeline import shipping

    adapter_only = options.adapter_only
    if adapter_only and adapter is None:
        raise ConfigError(
            "--adapter-only exports an adapter without its model; give the adapter with --adapter"
        )
    if adapter_only and options.modelfile:
        raise ConfigError(
            "--modelfile requires a whole model and does not apply to --adapter-only; remove one of the two"
        )
    kind = options.dtype or ("F32" if adapter_only else "Q8_0")

    def make(file: Path) -> "GgufExport":
        return _make_gguf(file, model, adapter, kind, options)

    published = None
    if out.suffix == ".gguf":
        if publish != PublishOptions():
            raise ConfigError(f"a model card needs a folder, and {out} is a file; give a folder as --out")
        made = make(out)
    elif adapter_only:
        raise ConfigError(
            f"--adapter-only writes one file, and {out} does not end in .gguf; give FILE.gguf as --out"
        )
    else:
        publication = publish.publication()
        source = shipping.card_source(model, adapter, publication)
        name = f"{out.resolve().name}-{kind.lower()}.gguf"
        published = shipping.publish(
            lambda folder: make(folder / name), out, source, f"gguf-{kind.lower()}", publication
        )
        made = published.export.at(out / name)
        published = replace(published, export=made)
    if json:
        print_json((published or made).to_json())
        return
    if published is not None:
        show_published(published)
    else:
        show_drift(made)
    _say_gguf(made)


def _make_gguf(out: Path, model: str, adapter: Path | None, dtype: str, options: GgufOptions) -> "GgufExport":
    """Write a GGUF file and its Modelfile; they are put in place only after verification."""
    from smidgen.export.gguf import verify_gguf, verify_gguf_adapter, write_gguf, write_gguf_adapter
    from smidgen.export.gguf.gguf_facts import GgufExport
    from smidgen.export.gguf.modelfile import modelfile as modelfile_text
    from smidgen.files import atomic_file, write_text
    from smidgen.models.load import resolve
    from smidgen.pipeline.exporting import gguf_drift

    verify = not options.no_verify
    recipe, text = out.with_suffix(".Modelfile"), None
    if options.modelfile and recipe.exists():
        raise ConfigError(f"{recipe} already exists; remove it, or give another file as --out")
    with atomic_file(out) as file:
        if options.adapter_only and adapter is not None:
            written = write_gguf_adapter(model, adapter, file, dtype=dtype)
            verified = verify_gguf_adapter(file, model, adapter) if verify else None
            made = GgufExport(written=written, verified=verified)
        else:
            written = write_gguf(model, file, dtype=dtype, adapter=adapter)
            verified = verify_gguf(file, model, adapter=adapter) if verify else None
            measured = gguf_drift(verified, dtype)
            made = GgufExport(
                written=written, verified=verified, drift=measured.drift, warnings=measured.warnings or []
            )
            if options.modelfile:
                text = modelfile_text(out.name, resolve(model), written.licence)
    if text is not None:
        write_text(recipe, text)
        made = replace(made, modelfile=recipe)
    return made.at(out)


def _say_gguf(made: "GgufExport") -> None:
    """Print what was written and verified."""
    from smidgen.export.gguf.gguf_facts import WrittenModel

    written = made.written
    say(f"{written.path}: {size(written.bytes)}, {written.tensors} tensors, {written.seconds:.1f} s")
    if isinstance(written, WrittenModel) and written.licence:
        say(f"model licence: {written.licence}")
    if isinstance(written, WrittenModel) and written.unblocked:
        names = ", ".join(written.unblocked)
        say(f"kept in F16, since their row lengths are not multiples of the block size: {names}")
    if verified := made.verified:
        say(
            f"verified: the logits of llama.cpp differ from the model's by {verified.logit_error:.2g} of "
            f"their standard deviation (tolerance: {verified.tolerance:g})"
        )
    else:
        say("not verified")
    if file := made.modelfile:
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
    """Write an adapter in PEFT format, for transformers and vLLM.

    The source may be a smidgen or mlx-lm adapter. Nothing is rounded. Parts that vLLM does not support are
    reported.
    """
    from smidgen.export.peft_adapter import export_peft

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
    """Write an adapter for mlx-lm, from a PEFT or smidgen adapter."""
    from smidgen.export.peft_adapter import AdapterExport, export_mlx_adapter

    def make(folder: Path) -> AdapterExport:
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
    """Merge an adapter into its model, for mlx-lm, transformers and vLLM; with --bits for MLX only.

    The result is loaded again, and its next-token distributions are compared with those of the original model
    and adapter. Without --prompts, the comparison uses the validation rows of --run, or a dozen built-in
    prompts; the drift depends on the prompts. If it exceeds --max-drift, nothing is kept and the exit code
    is 1.
    """
    from smidgen.data.prompts import read_prompts
    from smidgen.export.fused import FusedExport, export_fused
    from smidgen.pipeline.exporting import VALIDATED
    from smidgen.pipeline.shipping import check_quantization

    bits, prompts, run = options.bits, options.prompts, publish.run
    check_quantization(model, bits, options.dequantize)
    source = prompts or (run and run / "data/validation.jsonl")

    def make(folder: Path) -> FusedExport:
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
    make: "Callable[[Path], Export]",
    model: str,
    adapter: Path | None,
    out: Path,
    artefact: str,
    publish: PublishOptions,
    json: bool,
) -> None:
    """Write an export with its model card, upload it if requested, and print a summary."""
    from smidgen.pipeline import shipping

    publication = publish.publication()
    source = shipping.card_source(model, adapter, publication)
    published = shipping.publish(make, out, source, artefact, publication)
    if json:
        print_json(published.to_json())
    else:
        show_published(published)


def show_published(published: "Published[Export]") -> None:
    """Print a summary of an export."""
    say(f"{published.out}: {size(published.export.bytes)} of weights and a model card")
    show_drift(published.export)
    if published.url is not None:
        say(f"uploaded to {published.url}")


def show_drift(export: "Export") -> None:
    """Print the warnings of an export and its drift from the original model."""
    from smidgen.export.drift import in_words

    for warning in export.warnings:
        say(f"warning: {warning}")
    if drift := export.drift:
        effect = export.adapter_effect
        beside = f"; effect of the adapter itself: {effect.mean_kl:.3g}" if effect else ""
        say(f"drift from the original model, {in_words(drift.to_json())}{beside}")


@export.command
def push(
    folder: Annotated[Path, Parameter(help="Exported folder, such as one in a run folder.")],
    /,
    *,
    to: Annotated[str, Parameter(help="Repository on the Hugging Face hub, owner/name.")],
    private: Private = False,
    json: Json = False,
) -> None:
    """Upload a folder unchanged to the Hugging Face hub, or to the server given by HF_ENDPOINT."""
    from smidgen.export.push import push_folder

    url = push_folder(folder, to, private=private)
    if json:
        print_json({"folder": folder, "url": url})
    else:
        say(f"uploaded {folder} to {url}")
