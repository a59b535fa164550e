"""`smidgen generate`: try a model on one prompt."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, say
from smidgen.cli.constraint import read_constraint
from smidgen.cli.options import (
    Adapter,
    Choice,
    FrequencyPenalty,
    Json,
    MaxTokens,
    MinP,
    Model,
    Regex,
    RepetitionPenalty,
    Schema,
    Seed,
    Stop,
    Temperature,
    Thinking,
    TopK,
    TopP,
)
from smidgen.errors import DataError

if TYPE_CHECKING:
    from smidgen.data.types import Completion, Timing


def generate(
    *,
    prompt: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="What the user says; - reads it from stdin.")
    ],
    model: Model = "smidgen:nano",
    adapter: Adapter = None,
    system: Annotated[str | None, Parameter(help="What the model is told first.")] = None,
    thinking: Thinking = False,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    stop: Stop = (),
    seed: Seed = 0,
    schema: Schema = None,
    regex: Regex = None,
    choice: Choice = (),
    json: Json = False,
) -> None:
    """Answer one prompt, on stdout and as it comes."""
    from smidgen.data.types import Message, Request, Sample, Sampling
    from smidgen.inference import open_engine
    from smidgen.inference.mlx import MlxEngine

    text = sys.stdin.read() if prompt == "-" else prompt
    try:
        (text + (system or "")).encode()
    except UnicodeEncodeError:
        raise DataError("the prompt is not UTF-8 text; convert it first, as with `iconv -t utf-8`") from None
    if not text.strip():
        raise DataError("the prompt is empty; give it text, as --prompt 'Which answer is better?'")
    messages = (*([Message("system", system)] if system else []), Message("user", text))
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        stop=stop,
        seed=seed,
    )
    constraint = read_constraint(schema, regex, choice)
    engine = open_engine(model, engine="mlx", adapter=adapter, thinking=thinking, batch_size=1)
    assert isinstance(engine, MlxEngine)
    stream = engine.stream(Request(Sample("prompt", messages), sampling, constraint))
    for piece in stream:
        if not json:
            print(piece, end="", flush=True)
    completion = stream.completion
    assert completion is not None and completion.timing is not None
    if json:
        print_json({"model": model, **facts_of(completion, completion.timing)})
        return
    print()
    rate = count(completion.timing.completion_tokens / completion.timing.seconds)
    cut = ", cut off at --max-tokens" if completion.finish_reason == "length" else ""
    say(f"{completion.timing.completion_tokens} tokens, {rate} tokens/s{cut}")


def facts_of(completion: "Completion", timing: "Timing") -> dict[str, Any]:
    """An answer with its token counts and times."""
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": timing.prompt_tokens,
        "completion_tokens": timing.completion_tokens,
        "time_to_first_token": timing.time_to_first_token,
        "tokens_per_second": timing.completion_tokens / timing.seconds,
    }
