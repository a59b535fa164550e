"""`smidgen export`: a model in the formats of other programs, one command a format."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from smidgen.cli.console import print_json, say, size
from smidgen.cli.options import Adapter, Json, Model
from smidgen.errors import ConfigError

export = App(name="export", help="Write a model in the format of another program, and prove it there.")


def _new_gguf(_: object, path: Path) -> None:
    """Refuse a name that is taken or misleading, before any work is done for it."""
    if path.exists():
        raise ValueError("Something is there already; name another file or remove it first.")
    if path.suffix != ".gguf":
        raise ValueError(f"{path.name} does not end in .gguf, by which programs know such a file.")


@export.command
def gguf(
    *,
    model: Model,
    out: Annotated[Path, Parameter(validator=_new_gguf, help="The new file to write, FILE.gguf.")],
    adapter: Adapter = None,
    adapter_only: Annotated[
        bool, Parameter(help="Write the adapter by itself, to be put on the base model's GGUF file.")
    ] = False,
    dtype: Annotated[
        Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] | None,
        Parameter(help="How matrices are stored: Q8_0 if nothing is said, F32 for an adapter by itself."),
    ] = None,
    no_verify: Annotated[
        bool, Parameter(help="Do not compare the file with the model in llama.cpp.")
    ] = False,
    modelfile: Annotated[bool, Parameter(help="Write FILE.Modelfile for Ollama beside it.")] = False,
    json: Json = False,
) -> None:
    """Write a GGUF file for llama.cpp, Ollama and LM Studio.

    An adapter is added to the weights in float32. The file is compared with the model before it appears:
    every number, the tokens of a text in many scripts, the end tokens and the next-token probabilities.
    """
    from smidgen.export.gguf import (
        verify_gguf,
        verify_gguf_adapter,
        write_gguf,
        write_gguf_adapter,
    )
    from smidgen.export.gguf.modelfile import modelfile as modelfile_text
    from smidgen.files import atomic_file, write_text
    from smidgen.models.load import resolve

    if adapter_only and adapter is None:
        raise ConfigError("--adapter-only writes an adapter by itself; name one with --adapter")
    if adapter_only and modelfile:
        raise ConfigError("--modelfile is for a whole model; leave it out with --adapter-only")
    verified: dict[str, Any] | None = None
    with atomic_file(out) as partial:
        if adapter_only and adapter is not None:
            written = write_gguf_adapter(model, adapter, partial, dtype=dtype or "F32")
            if not no_verify:
                verified = verify_gguf_adapter(partial, model, adapter)
        else:
            written = write_gguf(model, partial, dtype=dtype or "Q8_0", adapter=adapter)
            if not no_verify:
                verified = verify_gguf(partial, model, adapter=adapter)
    facts = {**written, "path": out, "verified": verified and {**verified, "path": out}}
    if modelfile:
        facts["modelfile"] = out.with_suffix(".Modelfile")
        write_text(facts["modelfile"], modelfile_text(out.name, resolve(model), written["license"]))
    if json:
        print_json(facts)
    else:
        _say_gguf(facts)


def _say_gguf(facts: dict[str, Any]) -> None:
    """Say what was written and what was proven."""
    say(f"{facts['path']}: {size(facts['bytes'])}, {facts['tensors']} tensors, {facts['seconds']:.1f} s")
    if facts.get("license"):
        say(f"licence of the model: {facts['license']}")
    if facts.get("unblocked"):
        say(f"kept in F16, their rows being no whole blocks: {', '.join(facts['unblocked'])}")
    if verified := facts["verified"]:
        say(
            f"llama.cpp predicts the same as our own graph: logits differ by {verified['logit_error']:.2g} "
            f"of their spread, and its arithmetic explains {verified['tolerance']:g}"
        )
    else:
        say("not verified")
    if file := facts.get("modelfile"):
        say(f"{file}: ollama create NAME -f {file}")
