"""Recipes: one TOML file holds the whole life of one specialist.

The models below are the only place where a default stands. The string under a field is its documentation and
becomes `docs/configuration.md`. Unknown keys are refused.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from smidgen.errors import ConfigError, did_you_mean

Table = TypeVar("Table", bound="Section")
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every table of a recipe: frozen, no unknown keys, documented fields."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def changed(self) -> set[str]:
        """Names of the fields that differ from their defaults."""
        fields = type(self).model_fields.items()
        return {name for name, field in fields if getattr(self, name) != field.default}


class ArchitectureConfig(Section):
    """The shape of a model that is made from nothing (`method = "pretrain"`)."""

    model_type: Literal["qwen3"] = "qwen3"
    """Architecture; `qwen3` is what every runtime loads."""
    hidden_size: int = Field(default=192, gt=0, multiple_of=32)
    """Width of the residual stream."""
    num_hidden_layers: int = Field(default=5, gt=0)
    """Transformer blocks."""
    num_attention_heads: int = Field(default=6, gt=0)
    """Query heads."""
    num_key_value_heads: int = Field(default=2, gt=0)
    """Key and value heads, shared by groups of query heads."""
    head_dim: int = Field(default=32, gt=0, multiple_of=2)
    """Width of one head."""
    intermediate_size: int = Field(default=448, gt=0, multiple_of=32)
    """Width of the SwiGLU."""
    vocab_size: int = Field(default=3072, gt=0)
    """Entries of the tokenizer that is trained with it."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary embedding."""
    initialization: Literal["normal", "induction"] = "normal"
    """Initial weights: random, or random with an induction circuit, which tiny models are slow to find."""
    max_position_embeddings: int = Field(default=2048, gt=0)
    """Context length the model declares."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.initialization == "induction":
            group = self.num_attention_heads // self.num_key_value_heads
            room = 1 + self.head_dim * (1 + group)
            if self.num_hidden_layers < 3 or self.head_dim < 16 or self.hidden_size < room:
                raise ValueError(
                    f'initialization = "induction" needs at least 3 layers, heads of 16 and a hidden_size of '
                    f"{room} for groups of {group} query heads of {self.head_dim}"
                )
        return self


class ModelConfig(Section):
    """The model a recipe starts from."""

    base: str = "smidgen:nano"
    """A folder, a hub id (`owner/repo` or `owner/repo:subfolder`) or `smidgen:nano`."""
    thinking: bool = False
    """Whether the chat template opens a thinking block; refused if the template has no such switch."""
    architecture: ArchitectureConfig | None = None
    """The shape to make when pretraining."""


class DataConfig(Section):
    """What the model learns from and is proven on."""

    train: str = "world"
    """`world` (generated) or a file of rows; its format is detected from the rows."""
    train_splits: tuple[str, ...] = ("train",)
    """Rows whose `split` is one of these are trained on; a file without `split` is used whole."""
    train_limit: int | None = Field(default=None, gt=0)
    """At most so many training rows."""
    validation_fraction: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Share of the training rows held back for the fixed validation set."""
    validation_limit: int = Field(default=200, gt=0)
    """At most so many validation rows."""
    test: str = "world"
    """`world` or a file of rows, for the evaluations before and after."""
    test_splits: tuple[str, ...] = ("test",)
    """Rows whose `split` is one of these are evaluated; a file without `split` is used whole."""
    test_limit: int | None = Field(default=None, gt=0)
    """At most so many test items."""
    seed: int = Field(default=0, ge=0)
    """Seed of generated rows and of splits."""


class LoraConfig(Section):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(default=16, gt=0)
    """Rank of the update."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the input of the update."""
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    """Names of the linear layers that get an update."""
    num_layers: int | None = Field(default=None, gt=0)
    """Only the last so many blocks; all when absent."""


class TrainConfig(Section):
    """One training run."""

    method: Literal["pretrain", "sft"] = "sft"
    """`pretrain` learns every token of a stream; `sft` learns the completions of samples."""
    lora: LoraConfig | None = None
    """Train a low-rank update; every weight is trained when absent."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows (`sft`)."""
    total_tokens: int = Field(default=0, ge=0)
    """Tokens to see (`pretrain`)."""
    batch_size: int = Field(default=16, gt=0)
    """Rows in one forward pass."""
    gradient_accumulation: int = Field(default=1, gt=0)
    """Forward passes in one optimiser step; the loss is weighted by tokens, so it equals the bigger batch."""
    max_length: int = Field(default=512, gt=8)
    """Longest row in tokens; longer rows lose context from the left of the prompt, never the answer."""
    mask: Literal["last", "all"] = "last"
    """Which assistant turns are learnt: the last, or every one."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the decay after the warm-up."""
    warmup: Rate = 0.03
    """Share of the steps in which the rate rises linearly from zero."""
    min_learning_rate_ratio: Rate = 0.0
    """The rate decays to this share of its peak."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decays of AdamW."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator of AdamW."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the output of every block when every weight is trained."""
    gradient_clip: float = Field(default=1.0, ge=0.0)
    """Largest global norm of the gradient; 0 never clips."""
    validate_every: int = Field(default=50, ge=0)
    """Steps between validations; 0 validates only at the end."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many validations without a new best; 0 never stops early."""
    checkpoint_every: int = Field(default=100, ge=0)
    """Steps between resumable checkpoints; 0 keeps none."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, data order and dropout."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        unread = ("lora", "epochs", "mask", "dropout") if self.method == "pretrain" else ("total_tokens",)
        if given := [name for name in unread if name in self.changed()]:
            raise ValueError(f'method = "{self.method}" does not read {", ".join(given)}; leave it out')
        if self.method == "pretrain" and not self.total_tokens:
            raise ValueError('method = "pretrain" needs total_tokens above 0')
        if self.lora is not None and self.dropout:
            raise ValueError("dropout is for training every weight; with lora, set lora.dropout")
        return self


class EvaluateConfig(Section):
    """How the specialist is proven."""

    max_tokens: int = Field(default=256, gt=0)
    """Longest answer in tokens."""
    batch_size: int = Field(default=64, gt=0)
    """Rows decoded together."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 is greedy."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling and of the bootstrap."""


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


class ExportConfig(Section):
    """What is made of the trained model for others to load; each is evaluated again, as what ships is."""

    formats: tuple[Literal["peft", "fused", "gguf"], ...] = ("peft", "fused", "gguf")
    """`peft` for PEFT and vLLM; `fused` for mlx-lm, transformers, vLLM; `gguf` for llama.cpp and Ollama."""
    gguf_dtype: Literal["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"] = "Q8_0"
    """Type of the matrices in the GGUF file."""


class Recipe(Section):
    """The whole life of one specialist."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the run folder."""
    description: str = ""
    """One sentence for the report."""
    task: Literal["judge", "intent", "none"] = "none"
    """What the model is to do; `none` only trains."""
    model: ModelConfig = ModelConfig()
    """The model it starts from."""
    data: DataConfig = DataConfig()
    """What it learns from and is proven on."""
    train: TrainConfig = TrainConfig()
    """How it learns."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How it is proven."""
    quantize: QuantizeConfig | None = None
    """How it is made smaller; skipped when absent."""
    export: ExportConfig | None = None
    """What others load; skipped when absent."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.train.method == "sft":
            if self.model.architecture is not None:
                raise ValueError('[model.architecture] is read by method = "pretrain" only; leave it out')
            if self.export is not None and "peft" in self.export.formats and self.train.lora is None:
                raise ValueError('export.formats has "peft", and without [train.lora] there is no adapter')
            return self
        if self.model.architecture is None:
            raise ValueError('method = "pretrain" needs the table [model.architecture]')
        if self.data.train != "world":
            raise ValueError(f"data.train is '{self.data.train}'; pretraining reads only 'world'")
        given = [name for name in ("task", "evaluate", "quantize", "export") if name in self.changed()]
        given += [f"model.{name}" for name in self.model.changed() - {"architecture"}]
        given += [f"data.{name}" for name in self.data.changed() - {"train", "validation_limit", "seed"}]
        if given:
            raise ValueError(f'method = "pretrain" does not read {", ".join(sorted(given))}; leave it out')
        if self.train.max_length > self.model.architecture.max_position_embeddings:
            raise ValueError(
                f"train.max_length is {self.train.max_length}, more than the "
                f"{self.model.architecture.max_position_embeddings} of max_position_embeddings"
            )
        return self


class ApiPrice(Section):
    """The list price of an API, for a judgement of as many tokens as were counted here."""

    name: str
    """What the report calls it."""
    input_per_million: float = Field(ge=0.0)
    """Price of a million tokens read."""
    output_per_million: float = Field(ge=0.0)
    """Price of a million tokens written."""


class Prices(Section):
    """What judgements cost, for the cost table of a report."""

    currency: str = "USD"
    """Unit of every price."""
    machine_per_hour: float = Field(default=0.1, ge=0.0)
    """What an hour of this machine costs: its rent, or its power and its share of the price."""
    api: tuple[ApiPrice, ...] = (
        ApiPrice(name="gpt-4o (list price, April 2026)", input_per_million=2.5, output_per_million=10.0),
        ApiPrice(name="gpt-4o-mini (list price, April 2026)", input_per_million=0.15, output_per_million=0.6),
    )
    """What as many tokens would cost elsewhere; gpt-4o and gpt-4o-mini at list price when absent."""


def read_recipe(path: Path) -> Recipe:
    """Read a recipe and refuse, in one message, everything in it that is wrong.

    Raises:
        ConfigError: the file is missing, is not TOML, or holds an unknown key or a bad value.
    """
    return parse_recipe(_read_toml(path, "recipe; see the folder recipes/ for examples"), source=str(path))


def parse_recipe(table: dict[str, Any], *, source: str) -> Recipe:
    """Turn a TOML table into a recipe; `source` names it in errors."""
    return parse_table(Recipe, table, source)


def read_prices(path: Path | None) -> Prices:
    """Read a file of prices; without one, the prices are the defaults. Raises as `read_recipe` does."""
    if path is None:
        return Prices()
    return parse_table(Prices, _read_toml(path, "file of prices; see docs/configuration.md"), str(path))


def _read_toml(path: Path, what: str) -> dict[str, Any]:
    name, _, hint = what.partition("; ")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {name} at {path}; {hint}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None


def parse_table(model: type[Table], table: dict[str, Any], source: str) -> Table:
    """Turn a TOML table into the settings that it stands for; raises as `read_recipe` does."""
    try:
        return model.model_validate(_tuples(table))
    except ValidationError as error:
        faults = "; ".join(_describe(fault, model) for fault in error.errors())
        raise ConfigError(f"{source}: {faults}") from None


def resolved_toml(recipe: Recipe) -> str:
    """The recipe with every default written out, as TOML."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _describe(fault: Any, model: type[Section]) -> str:
    """One validation fault as a clause: where, what was given, what was expected."""
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "value_error":
        place = f"[{where}]: " if where else ""
        return f"{place}{fault['ctx']['error']}"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, fault["loc"][:-1])
        return f"unknown key '{where}'.{did_you_mean(str(fault['loc'][-1]), known)} Known: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"'{where}' is missing"
    return f"'{where}' is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _fields_at(section: type[Section], location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known in the table at `location` under `section`."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", (annotation,))
        section = next(a for a in arguments if isinstance(a, type) and issubclass(a, Section))
    return list(section.model_fields)


def _tuples(value: Any) -> Any:
    """A TOML value with tuples for its lists, which is what the models hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
