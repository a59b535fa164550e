"""The facts about GGUF files that were written and verified."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from smidgen.export.facts import DriftFacts


@dataclass(frozen=True, kw_only=True)
class WrittenGguf:
    """A GGUF file that was written.

    Attributes:
        path: the file.
        bytes: its size.
        tensors: number of tensors.
        seconds: time taken to write it.
        peak_memory_bytes: peak memory of this process so far.
        dtype: how matrices are stored.
    """

    path: str
    bytes: int
    tensors: int
    seconds: float
    peak_memory_bytes: int
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class WrittenModel(WrittenGguf):
    """A model's GGUF file.

    Attributes:
        unblocked: names of the matrices that stay F16 because their rows are not whole blocks.
        licence: name of the model's licence, if known.
    """

    unblocked: list[str]
    licence: str | None


@dataclass(frozen=True, kw_only=True)
class WrittenAdapter(WrittenGguf):
    """An adapter's GGUF file.

    Attributes:
        alpha: llama.cpp multiplies the update by alpha / rank.
    """

    alpha: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of running a model's GGUF file in llama.cpp and comparing it with its source.

    Attributes:
        path: the file.
        tensors: number of tensors compared.
        numbers: number of weights compared.
        largest_error: largest absolute error of a weight.
        rms_error: root mean square error of the weights.
        tokens: number of tokens compared.
        end_tokens: the ids that end a completion.
        prompts: number of prompts whose next-token logits were compared.
        logit_error: standard deviation of the logits' difference as a share of the logits' own.
        tolerance: the largest `logit_error` that llama.cpp's arithmetic explains.
        kl_from_source: KL divergence in nats that this weight type causes, averaged over the prompts.
        seconds: time taken.
    """

    path: str
    tensors: int
    numbers: int
    largest_error: float
    rms_error: float
    tokens: int
    end_tokens: list[int]
    prompts: int
    logit_error: float
    tolerance: float
    kl_from_source: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class AdapterVerification:
    """The result of running an adapter's GGUF file in llama.cpp on its base; fields as in `Verification`."""

    path: str
    prompts: int
    logit_error: float
    tolerance: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields in their order."""
        return dict(vars(self))


class TensorComparison(NamedTuple):
    """The weights of a file compared with the source's; see `Verification`."""

    tensors: int
    numbers: int
    largest_error: float
    rms_error: float


class TokenComparison(NamedTuple):
    """The tokens of llama.cpp compared with the tokenizer's; see `Verification`."""

    tokens: int
    end_tokens: list[int]


class LogitComparison(NamedTuple):
    """The next-token logits of llama.cpp compared with MLX's; see `Verification`."""

    prompts: int
    logit_error: float
    tolerance: float
    kl_from_source: float


@dataclass(frozen=True, kw_only=True)
class GgufExport:
    """A GGUF file with what is beside it.

    Attributes:
        written: the file.
        verified: how it compares with its source; None if it was not verified.
        drift: what storing the weights in this type changed; None if it was not measured.
        warnings: what a user should know before relying on it.
        modelfile: the Modelfile for Ollama, if one was written.
    """

    written: WrittenModel | WrittenAdapter
    verified: Verification | AdapterVerification | None
    drift: DriftFacts | None = None
    warnings: list[str] = field(default_factory=list[str])
    modelfile: Path | None = None
    format: str = field(default="gguf", init=False)
    adapter_effect: DriftFacts | None = field(default=None, init=False)

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.written.bytes

    def at(self, path: Path) -> Self:
        """Return the facts of the same file after it was moved to `path`, its Modelfile with it."""
        return replace(
            self,
            written=replace(self.written, path=str(path)),
            verified=self.verified and replace(self.verified, path=str(path)),
            modelfile=self.modelfile and path.with_suffix(".Modelfile"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the file, and what is known beyond them."""
        drift = {} if self.drift is None else {"drift": self.drift.to_json(), "warnings": self.warnings}
        modelfile = {} if self.modelfile is None else {"modelfile": self.modelfile}
        verified = self.verified and self.verified.to_json()
        return {
            **self.written.to_json(), "verified": verified, **drift, **modelfile, "format": self.format,
        }  # fmt: skip
