"""`smidgen import`: a model from the format of another program, one command a format."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from smidgen.cli.console import print_json, say, size
from smidgen.cli.parameters import Json, Out

if TYPE_CHECKING:
    from smidgen.export.gguf import VerifiedImport
    from smidgen.gguf import Imported

importing = App(
    name="import",
    help="Make a model folder of a file of another program, and prove it there.",
    default_parameter=Parameter(negative=()),
)


@importing.command
def gguf(
    file: Annotated[Path, Parameter(help="The GGUF file.")],
    /,
    *,
    out: Out,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        Parameter(
            help="What the weights are stored in; as the file has them unless given, and float16 where it "
            "has blocks of few bits."
        ),
    ] = None,
    no_verify: Annotated[
        bool, Parameter(help="Do not run the file in llama.cpp to compare what it computes.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a model folder of a GGUF file, for smidgen, mlx-lm, transformers and vLLM.

    Weights, configuration, tokenizer and chat template all come from the file. The folder is compared with
    the file before it appears: every number, the tokens of texts in many scripts, the end tokens and the
    next-token probabilities of llama.cpp.
    """
    from smidgen.export.gguf import verify_import
    from smidgen.files import atomic_folder
    from smidgen.gguf import import_gguf

    with atomic_folder(out) as folder:
        imported = import_gguf(file, folder, dtype=dtype)
        verified = None if no_verify else verify_import(file, folder)
    imported = replace(imported, path=out)
    if json:
        print_json(asdict(imported) | {"verified": verified and asdict(verified)})
    else:
        _show(imported, verified)


def _show(imported: "Imported", verified: "VerifiedImport | None") -> None:
    """Say what was made and what was proven."""
    say(
        f"{imported.path}: {imported.architecture}, {size(imported.bytes)} of {imported.dtype}, "
        f"{imported.tensors} tensors, {imported.seconds:.1f} s"
    )
    if imported.licence:
        say(f"licence of the model: {imported.licence}")
    if verified is None:
        say("not verified")
        return
    say(
        f"llama.cpp splits {verified.texts} texts into the same {verified.tokens} tokens and predicts from "
        f"the file what our own graph does: logits differ by {verified.logit_error:.2g} of their spread, and "
        f"its arithmetic explains {verified.tolerance:g}"
    )
