"""`smidgen generate`: try a model on one prompt."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, say
from smidgen.cli.constraint import ConstraintOptions, check_boxed, read_constraint
from smidgen.cli.options import Json
from smidgen.errors import ConfigError, DataError, ParseError, WorkError
from smidgen.options import DecodingOptions, EngineOptions

if TYPE_CHECKING:
    from smidgen.data.types import Completion, Message, Timing


@Parameter(name="*")
@dataclass(frozen=True)
class PromptOptions:
    """What the model is shown."""

    prompt: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="What the user says; - reads it from stdin.")
    ]
    system: Annotated[str | None, Parameter(help="What the model is told first.")] = None
    no_chat_template: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Continue the prompt literally, as a base model does; control tokens spelt in it count.",
        ),
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ShownOptions:
    """What is printed of an answer."""

    final_only: Annotated[
        bool, Parameter(show_default=False, help="Print the answer without what was thought.")
    ] = False
    extract_boxed: Annotated[
        bool, Parameter(show_default=False, help="Print only what the answer's last \\boxed{…} holds.")
    ] = False

    @property
    def whole(self) -> bool:
        """Whether that is all of it, as it comes."""
        return not self.final_only and not self.extract_boxed


def generate(
    *,
    shown: PromptOptions,
    engine: EngineOptions = EngineOptions(),
    decoding: DecodingOptions = DecodingOptions(),
    constraint: ConstraintOptions = ConstraintOptions(),
    printed: ShownOptions = ShownOptions(),
    json: Json = False,
) -> None:
    """Answer one prompt, on stdout and as it comes.

    With --final-only or --extract-boxed the wanted part comes when the answer is whole.
    """
    from smidgen.data.types import Request, Sample
    from smidgen.inference import open_engine
    from smidgen.inference.constraints import check_constrained

    if shown.no_chat_template and (shown.system or engine.thinking):
        given = "--system" if shown.system else "--thinking"
        raise ConfigError(f"{given} goes through the chat template; leave it or --no-chat-template out")
    messages = messages_of(shown.prompt, shown.system, shown.no_chat_template)
    kept_to = read_constraint(constraint)
    request = Request(Sample("prompt", messages), decoding.sampling(), kept_to)
    check_constrained(request, thinking=engine.thinking)
    if printed.extract_boxed:
        check_boxed(kept_to)
    opened = open_engine(replace(engine, batch_size=1))
    stream = opened.stream(request)
    for piece in stream:
        if printed.whole and not json:
            print(piece, end="", flush=True)
    completion = stream.completion
    opened.close()
    assert completion is not None
    _print_end(completion, engine, printed, json=json)
    if kept_to is not None and completion.finish_reason == "length":
        raise WorkError(
            "the answer was cut off at --max-tokens, so that it need not keep to its constraint; "
            "raise --max-tokens, or ask for something shorter"
        )


def _print_end(completion: "Completion", engine: EngineOptions, printed: ShownOptions, *, json: bool) -> None:
    """Print what did not come before the answer was whole.

    Raises:
        WorkError: the answer lacks the part that was asked for.
    """
    boxed = printed.extract_boxed
    answer = None if printed.whole else answer_in(completion.text, thinking=engine.thinking, boxed=boxed)
    if json:
        facts = facts_of(completion, completion.timing)
        print_json({"model": engine.model, **facts, **({} if printed.whole else {"answer": answer})})
    else:
        print(answer or "")
        say_speed(completion.timing, is_cut=completion.finish_reason == "length")
    if not printed.whole and answer is None:
        part = "no closed \\boxed{…}" if boxed else "no end of what was thought"
        raise WorkError(f"the answer has {part}; raise --max-tokens, or look at all of it")


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
    from smidgen.tasks.thinking import without_thinking

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
