"""`[quantize]`: how the model is stored in fewer bits."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section

Bits = Literal[2, 3, 4, 5, 6, 8]
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 4, 32


class QuantizeConfig(Section):
    """How the linear layers and the embedding are stored in fewer bits."""

    bits: Bits | None = None
    """Bits of a weight (`affine`); 4 when absent."""
    group_size: Literal[32, 64, 128] | None = None
    """Weights that share one scale and bias (`affine`); 32 when absent."""
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = "affine"
    """`affine` has integers with a scale and a bias a group; the others have floating-point numbers of 4 or 8
    bits with one scale of 8 bits for each 32 of them (`nvfp4`: 16)."""
    recipe: Literal["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"] | None = None
    """A fixed mix of two widths: the first for most layers, the second for the head and for the value and
    down projections of the first and last blocks and of every third between."""
    target_bits: float | None = Field(default=None, gt=0.0, lt=16.0)
    """Bits per weight of the whole model, scales and biases included: each layer gets the width that keeps
    the model's predictions nearest to what they were, as measured on the calibration texts."""
    candidate_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    """The widths that a layer may get (`target_bits`)."""
    calibration: str | None = None
    """`world` or a file of texts, conversations or pairs (`target_bits`); when absent, the rows that the
    recipe trains on, or `world` where there is no recipe."""
    calibration_tokens: int = Field(default=2048, gt=0)
    """Tokens of the calibration texts that are read (`target_bits`)."""
    embedding_bits: Bits | Literal["keep"] | None = None
    """Bits of the embedding, which may also be the head; `keep` leaves it as it is."""
    head_bits: Bits | Literal["keep"] | None = None
    """Bits of a head that is not the embedding; `keep` leaves it as it is."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ways = [name for name in ("bits", "recipe", "target_bits") if getattr(self, name) is not None]
        if len(ways) > 1:
            given = " and ".join(f"'{name}'" for name in ways)
            raise ValueError(f"{given} each decide the bits of every layer; leave one out")
        if self.mode != "affine":
            own = {self.embedding_bits, self.head_bits} - {None, "keep"}
            grouped = [] if own or self.group_size is None else ["group_size"]
            if given := [*ways, *grouped]:
                named = ", ".join(f"'{name}'" for name in given)
                fixed = "which has bits and groups of its own for every layer"
                raise ValueError(f"'mode' is {self.mode}, {fixed}; leave {named} out")
        if self.target_bits is None:
            unread = ("candidate_bits", "calibration", "calibration_tokens")
            if given := [name for name in unread if name in self.changed()]:
                named = ", ".join(f"'{name}'" for name in given)
                raise ValueError(f"{named} is read with 'target_bits' only; leave it out")
        known = Bits.__args__
        if not self.candidate_bits or any(bits not in known for bits in self.candidate_bits):
            expected = ", ".join(map(str, known))
            raise ValueError(f"'candidate_bits' is {list(self.candidate_bits)}; expected some of {expected}")
        return self

    @property
    def summary(self) -> str:
        """What it makes of most weights, in words: `4 bits`."""
        if self.mode != "affine":
            return self.mode
        if self.target_bits is not None:
            return f"{self.target_bits:g} bits per weight"
        return self.recipe or f"{self.bits or DEFAULT_BITS} bits"
