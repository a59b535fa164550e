"""Options shared by several commands and library functions, each declared once.

    open_engine(EngineOptions("smidgen:nano", adapter="runs/nano-judge/best"))

Each group is a frozen dataclass. A command that takes a group gets its fields as options, with the names,
types, defaults and help texts declared here. A field that only some commands offer has `parse=False`; such a
command subclasses the dataclass and declares the field again with its own help text.
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
from smidgen.files import is_url

EngineName = Literal["auto", "mlx", "llama", "http", "replay"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
DecodeName = Literal["ar", "jacobi", "lookup", "draft"]
DECODES: tuple[DecodeName, ...] = get_args(DecodeName)
KvBits = Literal[8, 4]
KV_BITS: tuple[KvBits, ...] = get_args(KvBits)


def whole(type_: type, tokens: Sequence[Token]) -> int:
    """Convert a token to an integer; anything else is an error and is not rounded."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value} is not a whole number.") from None


Model = Annotated[
    str,
    Parameter(
        help="Model folder, .gguf file, hub id (owner/repo or owner/repo:subfolder), smidgen:nano or "
        "smidgen:smollm2; for inference also a server URL (http://host:port/v1)."
    ),
]

Adapter = Annotated[
    Path | None, Parameter(help="LoRA adapter folder to apply to the model: smidgen, mlx-lm or PEFT format.")
]

KvCacheBits = Annotated[
    KvBits | None,
    Parameter(
        help="KV cache precision in bits; saves memory, slightly less exact. On a CPU, the mlx engine runs "
        "several times slower with it."
    ),
]

Seed = Annotated[NonNegativeInt, Parameter(converter=whole, help="Random seed.")]


@dataclass(frozen=True)
class Workers:
    """Ray workers that share the requests of an engine; see `smidgen.inference.ray_engine`.

    Attributes:
        number: number of workers, each with an engine of its own; if None, one for each server, or two.
        endpoints: URLs of further servers of the same model, which take turns with the engine's own.
        address: address of a Ray cluster; Ray on this machine, started and stopped with the engine, if None.
        cpus: CPU cores that a worker is given; Ray starts it where they are free.
        gpus: GPUs that a worker is given.

    Raises:
        ConfigError: an endpoint is no URL, or there are more of them than workers.
    """

    number: int | None = None
    endpoints: tuple[str, ...] = ()
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self):
        """Validate the values."""
        if wrong := [url for url in self.endpoints if not is_url(url)]:
            raise ConfigError(
                f"the endpoint {wrong[0]} is not a URL; expected a server such as http://host:8000/v1"
            )
        if self.number is not None and self.number < (servers := 1 + len(self.endpoints)):
            raise ConfigError(
                f"{self.number} workers cannot ask {servers} servers; expected at least one worker for each"
            )


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """A model and the engine that runs it; see `smidgen.inference.open_engine`.

    Attributes:
        model: a model as `smidgen.models.load.load` takes it, a `.gguf` file, a server URL, or a file of
            recorded answers.
        engine: `mlx` and `llama` (llama.cpp) run the model in this process, `http` sends requests to a
            server, `replay` returns recorded answers; `auto` chooses by the model, and by
            measuring between `mlx` and `llama`.
        model_name: the model's name on a server that has several.
        api_key_env: the environment variable that contains the server's API key. By default
            `OPENAI_API_KEY`, which is sent only to this machine or over https.
        timeout: seconds to wait for an answer of a server before retrying; 600 if None.
        adapter: folder of a LoRA adapter to apply to the model.
        kv_bits: precision of the KV cache in bits, 8 or 4, for `mlx` and `llama`: less memory, slightly less
            exact. The model's own precision if None.
        decode: how many tokens a pass of the model gives: `ar` one; the others draft several, which one pass
            verifies, so that answers stay the same: `jacobi` from the model's own choices after a wrong
            guess, `lookup` from the prompt and the answer so far, `draft` from a smaller model. For `mlx`.
        draft_model: that smaller model, with the same tokenizer; `MODEL[:N]` is the first N blocks of one.
        thinking: whether the chat template opens a thinking block.
        batch_size: maximum number of rows decoded together, or of concurrent requests.
        dtype: file type that `llama` converts a folder to; the usual one, or that chosen by `auto`, if None.
        workers: Ray workers that share the requests, each with an engine of these options; if None, one
            engine in this process.

    Raises:
        ConfigError: a value is out of range or unknown, or `decode` and the draft model do not fit.
    """

    model: Model = "smidgen:nano"
    engine: Annotated[
        EngineName,
        Parameter(
            help="Engine that runs the model: MLX, llama.cpp, a server (http), or replay, which reads "
            "recorded answers from the file, or the folder of an evaluation, given as --model. By default "
            "chosen by the model; between MLX and llama.cpp on a CPU by a short measurement, kept in the "
            "cache folder."
        ),
    ] = "auto"
    model_name: Annotated[
        str | None, Parameter(help="Name of the model on the server, if it has several.")
    ] = None
    api_key_env: Annotated[
        str | None,
        Parameter(
            help="Environment variable that contains the server's API key. By default OPENAI_API_KEY, sent "
            "only over https or to this machine."
        ),
    ] = None
    timeout: Annotated[
        float | None,
        Parameter(
            validator=Number(gt=0, lt=math.inf),
            help="Seconds to wait for an answer of a server before retrying; default: 600.",
        ),
    ] = None
    adapter: Adapter = None
    kv_bits: KvCacheBits = None
    decode: Annotated[
        DecodeName,
        Parameter(
            help="Tokens per pass of the model: one (ar), or several that are drafted and verified, with the "
            "same answers: jacobi (its own choices after a wrong guess), lookup (the prompt and the answer "
            "so far), or draft (--draft-model). Runs in the mlx engine."
        ),
    ] = "ar"
    draft_model: Annotated[
        str | None,
        Parameter(
            help="Smaller model with the same tokenizer that drafts for --decode draft; 'MODEL[:N]' is the "
            "first N blocks of a model."
        ),
    ] = None
    thinking: Annotated[
        bool, Parameter(show_default=False, help="Let the chat template open a thinking block.")
    ] = False
    batch_size: Annotated[PositiveInt, Parameter(parse=False)] = 64
    dtype: Annotated[str | None, Parameter(parse=False)] = None
    workers: Annotated[Workers | None, Parameter(parse=False)] = None

    def __post_init__(self):
        """Validate the values."""
        if isinstance(self.adapter, str):
            object.__setattr__(self, "adapter", Path(self.adapter))
        if self.engine not in ENGINES:
            raise ConfigError(
                f"there is no engine '{self.engine}'; expected one of {', '.join(ENGINES)}."
                f"{did_you_mean(self.engine, ENGINES)}"
            )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; expected 1 or more")
        if self.decode not in DECODES:
            raise ConfigError(
                f"decode is '{self.decode}'; expected one of {', '.join(DECODES)}."
                f"{did_you_mean(self.decode, DECODES)}"
            )
        if self.decode == "draft" and self.draft_model is None:
            raise ConfigError("decode is draft, but no draft model is given; name one with --draft-model")
        if self.decode != "draft" and self.draft_model is not None:
            raise ConfigError(
                f"a draft model is given, but decode is {self.decode}; leave the model out, or use "
                "--decode draft"
            )
        if self.kv_bits not in (None, *KV_BITS):
            raise ConfigError(f"kv_bits is {self.kv_bits}; expected 8 or 4")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ConfigError(f"timeout is {self.timeout}; expected seconds above 0")
        if self.workers is not None and self.workers.endpoints and not is_url(self.model):
            raise ConfigError(
                f"further endpoints are given, but the model {self.model} is not a URL; give the first "
                "server as the model, or leave the endpoints out"
            )


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingOptions:
    """Basic sampling options; see `smidgen.data.types.Sampling`."""

    max_tokens: Annotated[
        PositiveInt, Parameter(converter=whole, help="Maximum answer length in tokens.")
    ] = Sampling.max_tokens
    temperature: Annotated[NonNegativeFloat, Parameter(help="Sampling temperature; 0 is greedy.")] = (
        Sampling.temperature
    )
    seed: Seed = Sampling.seed

    def sampling(self) -> Sampling:
        """Return the sampling parameters that an engine takes."""
        return Sampling(**vars(self))


@Parameter(name="*")
@dataclass(frozen=True)
class DecodingOptions(SamplingOptions):
    """All sampling options and stop conditions."""

    top_p: Annotated[
        NormFloat,
        Parameter(help="Nucleus sampling: keep the most probable tokens up to this total probability."),
    ] = Sampling.top_p
    top_k: Annotated[
        NonNegativeInt,
        Parameter(converter=whole, help="Sample from the K most probable tokens; 0 disables it."),
    ] = Sampling.top_k
    min_p: Annotated[
        NormFloat,
        Parameter(help="Drop tokens below this fraction of the highest token probability."),
    ] = Sampling.min_p
    repetition_penalty: Annotated[
        PositiveFloat, Parameter(help="Penalty for tokens that occurred before; 1 disables it.")
    ] = Sampling.repetition_penalty
    frequency_penalty: Annotated[
        float,
        Parameter(help="Amount subtracted from a token's logit per occurrence; 0 disables it."),
    ] = Sampling.frequency_penalty
    stop: Annotated[tuple[str, ...], Parameter(help="Stop the answer before this text; repeatable.")] = (
        Sampling.stop
    )
    stop_at_boxed: Annotated[
        bool, Parameter(show_default=False, help="Stop after the first \\boxed{…} with balanced braces.")
    ] = Sampling.stop_at_boxed


@Parameter(name="*")
@dataclass(frozen=True)
class JudgeOptions:
    """How a judge is prompted and parsed.

    Attributes:
        template: `rubric`, `scores`, `single`, `verdict`, `grade` or a TOML file; `rubric` if None.
        reference: whether to show the judge the reference answer of each row.
        rubric: grading criteria for the template `grade`: a question, and the meaning of each grade from 1
            to 5; a general rubric if None.
        samples: judgements per order, or per answer; more than one requires a temperature above 0.
    """

    template: Annotated[
        str | None,
        Parameter(
            help="Prompt and parser of the judge: rubric (default), scores, single, verdict, grade, or a "
            "TOML file."
        ),
    ] = None
    reference: Annotated[
        bool, Parameter(show_default=False, help="Show the judge the reference answer of each row.")
    ] = False
    rubric: Annotated[str | None, Parameter(parse=False)] = None
    samples: Annotated[PositiveInt, Parameter(parse=False)] = 1


@Parameter(name="*")
@dataclass(frozen=True)
class RowOptions:
    """Selection of the rows of a file.

    Attributes:
        limit: maximum number of items; all if None.
        skip_bad_rows: whether to skip and count malformed rows, instead of raising an error.
    """

    limit: Annotated[
        PositiveInt | None, Parameter(converter=whole, help="Maximum number of items to use.")
    ] = None
    skip_bad_rows: Annotated[
        bool, Parameter(show_default=False, help="Skip and count malformed rows instead of failing.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class WorkloadOptions:
    """The workload of a benchmark.

    Attributes:
        prompt_tokens: length of each prompt, to within a few tokens.
        max_tokens: maximum answer length in tokens.
        batch: batch sizes, as numbers of concurrent requests.
        repeats: repetitions of each measurement, after a warm-up.

    Raises:
        ConfigError: a value is out of range.
    """

    prompt_tokens: Annotated[
        PositiveInt, Parameter(converter=whole, help="Prompt length in tokens, to within a few.")
    ] = 256
    max_tokens: Annotated[
        PositiveInt, Parameter(converter=whole, help="Maximum answer length in tokens.")
    ] = 64
    batch: Annotated[
        tuple[PositiveInt, ...], Parameter(help="Number of concurrent requests; repeatable.")
    ] = (1, 4, 16)
    repeats: Annotated[
        PositiveInt, Parameter(converter=whole, help="Repetitions of each measurement, after a warm-up.")
    ] = 5

    def __post_init__(self):
        """Validate the values."""
        for name in ("prompt_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not self.batch or min(self.batch) < 1:
            raise ConfigError(f"batch is {self.batch}; expected one or more batch sizes, each 1 or more")
        if self.max_tokens < 2:
            raise ConfigError(
                f"--max-tokens is {self.max_tokens}; expected 2 or more, since decoding is measured from the "
                "second token on"
            )
