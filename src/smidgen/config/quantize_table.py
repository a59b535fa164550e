"""`[quantize]`: quantization of the weights."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section

Bits = Literal[2, 3, 4, 5, 6, 8]
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 4, 32


class QuantizeConfig(Section):
    """Quantization of the linear layers and the embedding."""

    bits: Bits | None = None
    """Bits per weight (`affine`); default: 4."""
    group_size: Literal[32, 64, 128] | None = None
    """Number of weights that share one scale and bias (`affine`); default: 32."""
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = "affine"
    """`affine` stores integers with a scale and a bias per group; the others store 4- or 8-bit floating-point
    numbers with one 8-bit scale per 32 of them (`nvfp4`: 16)."""
    recipe: Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None = None
    """A fixed mix of two bit widths: the first for most layers, the second for the head and for the value and
    down projections of the first and last blocks and of every third block between them."""
    target_bits: float | None = Field(default=None, gt=0.0, lt=16.0)
    """Bits per weight of the whole model, scales and biases included: each layer gets the bit width that
    changes the model's predictions on the calibration texts least."""
    candidate_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    """Bit widths to choose from for each layer (`target_bits`)."""
    calibration: str | None = None
    """`world` or a file of texts, conversations or pairs (`target_bits`); default: the training rows of the
    recipe, or `world` without a recipe."""
    calibration_tokens: int = Field(default=2048, gt=0)
    """Number of calibration tokens (`target_bits`)."""
    embedding_bits: Bits | Literal["keep"] | None = None
    """Bits of the embedding, including a tied head; `keep` leaves it unquantized."""
    head_bits: Bits | Literal["keep"] | None = None
    """Bits of an untied head; `keep` leaves it unquantized."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ways = [name for name in ("bits", "recipe", "target_bits") if getattr(self, name) is not None]
        if len(ways) > 1:
            given = " and ".join(f"'{name}'" for name in ways)
            raise ValueError(f"{given} each set the bits of every layer; keep only one of them")
        if self.mode != "affine":
            own = {self.embedding_bits, self.head_bits} - {None, "keep"}
            grouped = [] if own or self.group_size is None else ["group_size"]
            if given := [*ways, *grouped]:
                named = ", ".join(f"'{name}'" for name in given)
                fixed = "which fixes the bits and the group size of every layer"
                raise ValueError(f"'mode' is {self.mode}, {fixed}; leave {named} out")
        if self.target_bits is None:
            unread = ("candidate_bits", "calibration", "calibration_tokens")
            if given := [name for name in unread if name in self.changed()]:
                named = ", ".join(f"'{name}'" for name in given)
                raise ValueError(f"{named} is only used with 'target_bits'; leave it out")
        known = Bits.__args__
        if not self.candidate_bits or any(bits not in known for bits in self.candidate_bits):
            expected = ", ".join(map(str, known))
            raise ValueError(f"'candidate_bits' is {list(self.candidate_bits)}; expected some of {expected}")
        return self

    @property
    def summary(self) -> str:
        """The format of most weights in words, such as `4 bits`."""
        if self.mode != "affine":
            return self.mode
        if self.target_bits is not None:
            return f"{self.target_bits:g} bits per weight"
        return self.recipe or f"{self.bits or DEFAULT_BITS} bits"
