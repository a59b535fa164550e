"""`smidgen generate`: try a model on one prompt."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, say
from smidgen.cli.constraint import check_boxed, read_constraint
from smidgen.cli.options import (
    Adapter,
    ApiKeyEnv,
    Choice,
    Engine,
    FrequencyPenalty,
    Json,
    KvBits,
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
    Timeout,
    TopK,
    TopP,
)
from smidgen.errors import ConfigError, DataError, ParseError, WorkError

if TYPE_CHECKING:
    from smidgen.data.types import Completion, Message, Timing


def generate(
    *,
    prompt: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="What the user says; - reads it from stdin.")
    ],
    model: Model = "smidgen:nano",
    engine: Engine = "auto",
    model_name: ModelName = None,
    api_key_env: ApiKeyEnv = None,
    timeout: Timeout = None,
    adapter: Adapter = None,
    kv_bits: KvBits = None,
    system: Annotated[str | None, Parameter(help="What the model is told first.")] = None,
    thinking: Thinking = False,
    no_chat_template: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Go on with the prompt as it stands, as a base model does; "
            "control tokens spelt in it count.",
        ),
    ] = False,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    stop: Stop = (),
    stop_at_boxed: Annotated[
        bool, Parameter(show_default=False, help="End the answer with the first \\boxed{…}, braces balanced.")
    ] = False,
    final_only: Annotated[
        bool, Parameter(show_default=False, help="Print the answer without what was thought.")
    ] = False,
    extract_boxed: Annotated[
        bool, Parameter(show_default=False, help="Print only what the answer's last \\boxed{…} holds.")
    ] = False,
    seed: Seed = 0,
    schema: Schema = None,
    regex: Regex = None,
    choice: Choice = (),
    json: Json = False,
) -> None:
    """Answer one prompt, on stdout and as it comes.

    With --final-only or --extract-boxed the wanted part comes when the answer is whole.
    """
    from smidgen.data.types import Request, Sample, Sampling
    from smidgen.inference import open_engine
    from smidgen.inference.constraints import check_constrained

    if no_chat_template and (system or thinking):
        given = "--system" if system else "--thinking"
        raise ConfigError(f"{given} goes through the chat template; leave it or --no-chat-template out")
    messages = messages_of(prompt, system, no_chat_template)
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        stop=stop,
        stop_at_boxed=stop_at_boxed,
        seed=seed,
    )
    constraint = read_constraint(schema, regex, choice)
    request = Request(Sample("prompt", messages), sampling, constraint)
    check_constrained(request, thinking=thinking)
    if extract_boxed:
        check_boxed(constraint)
    opened = open_engine(
        model,
        engine=engine,
        adapter=adapter,
        thinking=thinking,
        batch_size=1,
        model_name=model_name,
        api_key_env=api_key_env,
        timeout=timeout,
        kv_bits=kv_bits,
    )
    stream = opened.stream(request)
    whole = not final_only and not extract_boxed
    for piece in stream:
        if whole and not json:
            print(piece, end="", flush=True)
    completion = stream.completion
    opened.close()
    assert completion is not None
    answer = None if whole else answer_in(completion.text, thinking=thinking, boxed=extract_boxed)
    if json:
        facts = facts_of(completion, completion.timing)
        print_json({"model": model, **facts, **({} if whole else {"answer": answer})})
    else:
        print(answer or "")
        say_speed(completion.timing, is_cut=completion.finish_reason == "length")
    if not whole and answer is None:
        part = "no closed \\boxed{…}" if extract_boxed else "no end of what was thought"
        raise WorkError(f"the answer has {part}; raise --max-tokens, or look at all of it")
    if constraint is not None and completion.finish_reason == "length":
        raise WorkError(
            "the answer was cut off at --max-tokens, so that it need not keep to its constraint; "
            "raise --max-tokens, or ask for something shorter"
        )


def messages_of(prompt: str, system: str | None, as_it_stands: bool) -> "tuple[Message, ...]":
    """What the model is shown; `-` stands for what comes from stdin.

    Raises:
        DataError: the prompt is empty or no text.
    """
    from smidgen.data.types import Message

    text = sys.stdin.read().removeprefix("\ufeff") if prompt == "-" else prompt
    try:
        (text + (system or "")).encode()
    except UnicodeEncodeError:
        raise DataError("the prompt is not UTF-8 text; convert it first, as with `iconv -t utf-8`") from None
    if not text.strip():
        raise DataError("the prompt is empty; give it text, as --prompt 'Which answer is better?'")
    if as_it_stands:
        return (Message("text", text),)
    return (*([Message("system", system)] if system else []), Message("user", text))


def answer_in(text: str, *, thinking: bool, boxed: bool) -> str | None:
    """The answer behind what was thought, or what its last box holds; None if it never comes.

    Args:
        text: all that the model wrote.
        thinking: whether the prompt may have opened a thinking block.
        boxed: whether only the box is wanted.
    """
    from smidgen.data.boxed import last_boxed
    from smidgen.tasks.forms import without_thinking

    if thinking and "</think>" not in text:
        return None
    try:
        final = without_thinking(text).strip()
    except ParseError:
        return None
    return last_boxed(final) if boxed else final


def say_speed(timing: "Timing | None", *, is_cut: bool) -> None:
    """Say how many tokens came how fast, where that is known."""
    if timing is None:
        return
    rate = count(timing.completion_tokens / timing.seconds)
    cut = ", cut off at --max-tokens" if is_cut else ""
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
