"""The options that commands of `smidgen export` take together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat

if TYPE_CHECKING:
    from smidgen.pipeline.shipping import Publication

Private = Annotated[
    bool, Parameter(show_default=False, help="Make the repository private if it is made now.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class PublishOptions:
    """What the model card shows, and where the folder is uploaded."""

    run: Annotated[
        Path | None,
        Parameter(name="--run", help="The run folder that it came from, whose figures the model card shows."),
    ] = None
    push: Annotated[
        str | None,
        Parameter(help="Upload the folder to this repository of the Hugging Face hub."),
    ] = None
    private: Private = False

    def publication(self) -> "Publication":
        """What the library takes."""
        from smidgen.pipeline.shipping import Publication

        return Publication(self.run, self.push, self.private)


@Parameter(name="*")
@dataclass(frozen=True)
class GgufOptions:
    """How a GGUF file is written."""

    adapter_only: Annotated[
        bool, Parameter(help="Write the adapter by itself, to be put on the base model's GGUF file.")
    ] = False
    dtype: Annotated[
        Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] | None,
        Parameter(help="How matrices are stored: Q8_0 if nothing is said, F32 for an adapter by itself."),
    ] = None
    no_verify: Annotated[bool, Parameter(help="Do not compare the file with the model in llama.cpp.")] = False
    modelfile: Annotated[bool, Parameter(help="Write FILE.Modelfile for Ollama beside it.")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class FuseOptions:
    """How the sum of a model and its adapter is stored and checked."""

    bits: Annotated[
        Literal[2, 3, 4, 5, 6, 8] | None, Parameter(help="Quantise the sum: bits of a weight.")
    ] = None
    group_size: Annotated[
        Literal[32, 64, 128] | None,
        Parameter(help="Weights that share a scale, with --bits; else 64."),
    ] = None
    dequantize: Annotated[
        bool, Parameter(show_default=False, help="Write plain weights though the model's are quantised.")
    ] = False
    prompts: Annotated[
        Path | None,
        Parameter(help="JSONL with prompt or messages, and target where there is one, for the drift."),
    ] = None
    max_drift: Annotated[
        NonNegativeFloat, Parameter(help="Greatest mean KL divergence from the unfused model, in nats.")
    ] = 0.1
    force: Annotated[bool, Parameter(show_default=False, help="Keep the folder however far it drifts.")] = (
        False
    )
