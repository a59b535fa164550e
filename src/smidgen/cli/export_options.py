"""Options shared by the commands of `smidgen export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat

if TYPE_CHECKING:
    from smidgen.pipeline.shipping import Publication

Private = Annotated[bool, Parameter(show_default=False, help="Make the repository private, if it is new.")]


@Parameter(name="*")
@dataclass(frozen=True)
class PublishOptions:
    """Source of the model card's results, and upload of the folder."""

    run: Annotated[
        Path | None,
        Parameter(name="--run", help="Run folder of the model; the model card shows its results."),
    ] = None
    push: Annotated[
        str | None,
        Parameter(help="Upload the folder to this repository on the Hugging Face hub."),
    ] = None
    private: Private = False

    def publication(self) -> "Publication":
        """Return the options as the library takes them."""
        from smidgen.pipeline.shipping import Publication

        return Publication(self.run, self.push, self.private)


@Parameter(name="*")
@dataclass(frozen=True)
class GgufOptions:
    """Format and verification of a GGUF file."""

    adapter_only: Annotated[
        bool, Parameter(help="Write only the adapter, for use with the base model's GGUF file.")
    ] = False
    dtype: Annotated[
        Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] | None,
        Parameter(help="Data type of the matrices; default: Q8_0, or F32 with --adapter-only."),
    ] = None
    no_verify: Annotated[bool, Parameter(help="Skip the verification of the file in llama.cpp.")] = False
    modelfile: Annotated[bool, Parameter(help="Also write FILE.Modelfile for Ollama.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class FuseOptions:
    """Storage and verification of a model merged with its adapter."""

    bits: Annotated[
        Literal[2, 3, 4, 5, 6, 8] | None, Parameter(help="Quantise the merged weights to this many bits.")
    ] = None
    group_size: Annotated[
        Literal[32, 64, 128] | None,
        Parameter(help="Number of weights that share a scale, with --bits; default: 64."),
    ] = None
    dequantize: Annotated[
        bool, Parameter(show_default=False, help="Write unquantised weights even if the model is quantised.")
    ] = False
    prompts: Annotated[
        Path | None,
        Parameter(
            help="JSONL file of prompts to measure drift on: prompt or messages, and optionally target."
        ),
    ] = None
    max_drift: Annotated[
        NonNegativeFloat, Parameter(help="Maximum mean KL divergence from the unmerged model, in nats.")
    ] = 0.1
    force: Annotated[
        bool, Parameter(show_default=False, help="Keep the result even if it exceeds --max-drift.")
    ] = False
