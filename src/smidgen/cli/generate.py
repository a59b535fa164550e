"""`smidgen generate`: try a model on one prompt."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, say
from smidgen.cli.constraint import read_constraint
from smidgen.cli.options import (
    Adapter,
    ApiKeyEnv,
    Choice,
    Engine,
    FrequencyPenalty,
    Json,
    MaxTokens,
    MinP,
    Model,
    ModelName,
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
    engine: Engine = "auto",
    model_name: ModelName = None,
    api_key_env: ApiKeyEnv = None,
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
    opened = open_engine(
        model,
        engine=engine,
        adapter=adapter,
        thinking=thinking,
        batch_size=1,
        model_name=model_name,
        api_key_env=api_key_env,
    )
    stream = opened.stream(Request(Sample("prompt", messages), sampling, constraint))
    for piece in stream:
        if not json:
            print(piece, end="", flush=True)
    completion = stream.completion
    opened.close()
    assert completion is not None
    if json:
        print_json({"model": model, **facts_of(completion, completion.timing)})
        return
    print()
    cut = ", cut off at --max-tokens" if completion.finish_reason == "length" else ""
    if timing := completion.timing:
        rate = count(timing.completion_tokens / timing.seconds)
        say(f"{timing.completion_tokens} tokens, {rate} tokens/s{cut}")


def facts_of(completion: "Completion", timing: "Timing | None") -> dict[str, Any]:
    """An answer with its token counts and times, where they are known."""
    answer = {"text": completion.text, "finish_reason": completion.finish_reason}
    if timing is None:
        return answer
    return answer | {
        "prompt_tokens": timing.prompt_tokens,
        "completion_tokens": timing.completion_tokens,
        "time_to_first_token": timing.time_to_first_token,
        "tokens_per_second": timing.completion_tokens / timing.seconds,
    }
