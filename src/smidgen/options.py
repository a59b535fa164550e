"""The settings that several commands and library functions share, declared once.

    open_engine(EngineOptions("smidgen:nano", adapter="runs/nano-judge/best"))

Each group is a frozen dataclass. A command that takes one has its fields as options, whose names, types,
defaults and help are declared here. A field that only some commands offer has `parse=False`; such a command
extends the dataclass and declares the field again, with its own help.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter, Token
from cyclopts.types import NonNegativeFloat, NonNegativeInt, NormFloat, PositiveFloat, PositiveInt
from cyclopts.validators import Number

from smidgen.data.types import Sampling
from smidgen.errors import ConfigError, did_you_mean

EngineName = Literal["auto", "mlx", "llama", "http", "replay"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
KvBits = Literal[8, 4]
KV_BITS: tuple[KvBits, ...] = get_args(KvBits)


def whole(type_: type, tokens: Sequence[Token]) -> int:
    """Read a whole number; anything else is refused, not rounded."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value} is no whole number.") from None


Model = Annotated[
    str,
    Parameter(
        help="A folder, a .gguf file, a hub id (owner/repo or owner/repo:subfolder), smidgen:nano or "
        "smidgen:smollm2; to ask it something, also the URL of a server (http://host:port/v1)."
    ),
]

Adapter = Annotated[
    Path | None, Parameter(help="Folder of a LoRA adapter to put on the model: ours, mlx-lm's or PEFT's.")
]

KvCacheBits = Annotated[
    KvBits | None,
    Parameter(
        help="Hold keys and values in so few bits: more or longer rows in the same memory, a bit less exact. "
        "On a CPU this makes the engine mlx several times slower."
    ),
]

Seed = Annotated[
    NonNegativeInt, Parameter(converter=whole, help="Seed of everything that is drawn at random.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """A model, and what runs it; `smidgen.inference.open_engine` opens it.

    Attributes:
        model: a model as `smidgen.models.load.load` takes it, a `.gguf` file, the URL of a server, or the
            file of a recording.
        engine: `mlx` and `llama` (llama.cpp) run the model here, `http` asks a server, `replay` answers from
            a recording; `auto` goes by the model.
        model_name: what a server calls the model, if it has several.
        api_key_env: the environment variable of a server's key, if it is not `OPENAI_API_KEY`, which goes
            only to servers on this machine or behind https.
        timeout: seconds that one answer of a server may take before it is asked again; 600 if None.
        adapter: folder of a low-rank adapter to put on the model.
        kv_bits: how many bits `mlx` and `llama` hold a number of the keys and values in, 8 or 4: longer or
            more rows in the same memory, for a little precision. As the model computes if None.
        thinking: whether the chat template opens a thinking block.
        batch_size: rows decoded together, or requests under way, at most.

    Raises:
        ConfigError: a value is outside of its range, or the engine is unknown.
    """

    model: Model = "smidgen:nano"
    engine: Annotated[
        EngineName,
        Parameter(
            help="What runs the model: MLX, llama.cpp, a server, or replay, which reads recorded answers "
            "from the file given as --model. Told from the model, its size and this machine if not given."
        ),
    ] = "auto"
    model_name: Annotated[str | None, Parameter(help="What a server calls the model, if it has several.")] = (
        None
    )
    api_key_env: Annotated[
        str | None,
        Parameter(
            help="The environment variable of a server's key. If not given, the one in OPENAI_API_KEY is "
            "sent, but only over https and to this machine."
        ),
    ] = None
    timeout: Annotated[
        float | None,
        Parameter(
            validator=Number(gt=0, lt=math.inf),
            help="Seconds that a server's answer may take before it is asked again; 600 if not given.",
        ),
    ] = None
    adapter: Adapter = None
    kv_bits: KvCacheBits = None
    thinking: Annotated[
        bool, Parameter(show_default=False, help="Let the chat template open a thinking block.")
    ] = False
    batch_size: Annotated[PositiveInt, Parameter(parse=False)] = 64

    def __post_init__(self):
        """Refuse values that mean nothing."""
        if isinstance(self.adapter, str):
            object.__setattr__(self, "adapter", Path(self.adapter))
        if self.engine not in ENGINES:
            raise ConfigError(
                f"there is no engine '{self.engine}'; expected one of {', '.join(ENGINES)}."
                f"{did_you_mean(self.engine, ENGINES)}"
            )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; expected 1 or more")
        if self.kv_bits not in (None, *KV_BITS):
            raise ConfigError(f"kv_bits is {self.kv_bits}; expected 8 or 4")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ConfigError(f"timeout is {self.timeout}; expected seconds above 0")


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingOptions:
    """How long an answer may be, and how its tokens are drawn; see `smidgen.data.types.Sampling`."""

    max_tokens: Annotated[PositiveInt, Parameter(converter=whole, help="Longest answer in tokens.")] = (
        Sampling.max_tokens
    )
    temperature: Annotated[NonNegativeFloat, Parameter(help="Sampling temperature; 0 is greedy.")] = (
        Sampling.temperature
    )
    seed: Seed = Sampling.seed

    def sampling(self) -> Sampling:
        """What an engine takes."""
        return Sampling(**vars(self))


@Parameter(name="*")
@dataclass(frozen=True)
class DecodingOptions(SamplingOptions):
    """All that can be set of how tokens are drawn, and of what ends an answer."""

    top_p: Annotated[
        NormFloat, Parameter(help="Sample from the most probable tokens that add up to this probability.")
    ] = Sampling.top_p
    top_k: Annotated[
        NonNegativeInt,
        Parameter(converter=whole, help="Sample from so many most probable tokens; 0 from all."),
    ] = Sampling.top_k
    min_p: Annotated[
        NormFloat,
        Parameter(help="Leave out tokens below this share of the most probable one's probability."),
    ] = Sampling.min_p
    repetition_penalty: Annotated[
        PositiveFloat, Parameter(help="Divide the logits of tokens that occurred by this; 1 does nothing.")
    ] = Sampling.repetition_penalty
    frequency_penalty: Annotated[
        float,
        Parameter(help="Take this from a token's logit for every time that it occurred; 0 does nothing."),
    ] = Sampling.frequency_penalty
    stop: Annotated[
        tuple[str, ...], Parameter(help="End the answer before this text; may be given several times.")
    ] = Sampling.stop
    stop_at_boxed: Annotated[
        bool, Parameter(show_default=False, help="End the answer with the first \\boxed{…}, braces balanced.")
    ] = Sampling.stop_at_boxed


@Parameter(name="*")
@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is asked and read.

    Attributes:
        template: `rubric`, `scores`, `single`, `verdict`, `grade` or a TOML file; `rubric` if None.
        reference: whether rows hold a right answer, which is shown.
        rubric: what the template `grade` grades by: a question, and what each grade from 1 to 5 means; a
            general one if None.
        samples: judgements of each order, or of each answer; more than one needs a temperature.
    """

    template: Annotated[
        str | None,
        Parameter(
            help="How a judge is asked and read: rubric, unless scores, single, verdict, grade or a TOML "
            "file."
        ),
    ] = None
    reference: Annotated[
        bool, Parameter(show_default=False, help="Show the judge the right answer that each row holds.")
    ] = False
    rubric: Annotated[str | None, Parameter(parse=False)] = None
    samples: Annotated[PositiveInt, Parameter(parse=False)] = 1


@Parameter(name="*")
@dataclass(frozen=True)
class RowOptions:
    """Which rows of a file are used.

    Attributes:
        limit: at most so many items.
        skip_bad_rows: whether rows that cannot be read are left out and counted, rather than an error.
    """

    limit: Annotated[PositiveInt | None, Parameter(converter=whole, help="Use at most so many items.")] = None
    skip_bad_rows: Annotated[
        bool, Parameter(show_default=False, help="Leave out rows that cannot be read, and count them.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class WorkloadOptions:
    """What a benchmark gives an engine to do.

    Attributes:
        prompt_tokens: length of each prompt, reached to within a few tokens.
        max_tokens: longest answer.
        batch: numbers of requests at once.
        repeats: how often each thing is measured, after a warm-up.

    Raises:
        ConfigError: a value is outside of its range.
    """

    prompt_tokens: Annotated[
        PositiveInt, Parameter(converter=whole, help="Length of each prompt, reached to within a few tokens.")
    ] = 256
    max_tokens: Annotated[PositiveInt, Parameter(converter=whole, help="Longest answer in tokens.")] = 64
    batch: Annotated[
        tuple[PositiveInt, ...], Parameter(help="Requests at once; may be given several times.")
    ] = (1, 4, 16)
    repeats: Annotated[
        PositiveInt, Parameter(converter=whole, help="Times that each thing is measured, after a warm-up.")
    ] = 5

    def __post_init__(self):
        """Refuse values that mean nothing."""
        for name in ("prompt_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not self.batch or min(self.batch) < 1:
            raise ConfigError(f"batch is {self.batch}; expected numbers of requests, each 1 or more")
        if self.max_tokens < 2:
            raise ConfigError(
                f"--max-tokens is {self.max_tokens}, and decoding is measured after the first token; "
                "give 2 or more"
            )
