"""`smidgen generate`: the answer of a model to one prompt."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from smidgen.cli.console import count, print_json, say
from smidgen.cli.constraint import ConstraintOptions, check_boxed, read_constraint
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError, DataError, ParseError, WorkError
from smidgen.options import DecodingOptions, EngineOptions

if TYPE_CHECKING:
    from smidgen.data.types import Completion, Message, Timing


@Parameter(name="*")
@dataclass(frozen=True)
class PromptOptions:
    """The prompt."""

    prompt: Annotated[str, Parameter(allow_leading_hyphen=True, help="User message; - reads it from stdin.")]
    system: Annotated[str | None, Parameter(help="System message.")] = None
    no_chat_template: Annotated[
        bool,
        Parameter(
            show_default=False,
            help="Continue the prompt as raw text; special tokens in it are parsed.",
        ),
    ] = False


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """The part of the answer to print."""

    final_only: Annotated[
        bool, Parameter(show_default=False, help="Print the answer without its thinking block.")
    ] = False
    extract_boxed: Annotated[
        bool, Parameter(show_default=False, help="Print only the content of the last \\boxed{…}.")
    ] = False

    @property
    def whole(self) -> bool:
        """Whether the whole answer is printed, as a stream."""
        return not self.final_only and not self.extract_boxed


def generate(
    *,
    prompting: PromptOptions,
    engine: EngineOptions = EngineOptions(),
    decoding: DecodingOptions = DecodingOptions(),
    constraint: ConstraintOptions = ConstraintOptions(),
    output: OutputOptions = OutputOptions(),
    json: Json = False,
) -> None:
    """Answer one prompt, streamed to stdout.

    With --final-only or --extract-boxed, the requested part is printed once the answer is complete.
    """
    from smidgen.data.types import Request, Sample
    from smidgen.inference import open_engine
    from smidgen.inference.constraints import check_constrained

    if prompting.no_chat_template and (prompting.system or engine.thinking):
        given = "--system" if prompting.system else "--thinking"
        raise ConfigError(f"{given} requires the chat template; remove it or --no-chat-template")
    messages = messages_of(prompting.prompt, prompting.system, prompting.no_chat_template)
    output_constraint = read_constraint(constraint)
    request = Request(Sample("prompt", messages), decoding.sampling(), output_constraint)
    check_constrained(request, thinking=engine.thinking)
    if output.extract_boxed:
        check_boxed(output_constraint)
    opened = open_engine(replace(engine, batch_size=1))
    stream = opened.stream(request)
    for piece in stream:
        if output.whole and not json:
            print(piece, end="", flush=True)
    completion = stream.completion
    opened.close()
    assert completion is not None
    _print_end(completion, engine, output, json=json)
    if output_constraint is not None and completion.finish_reason == "length":
        raise WorkError(
            "the answer was cut off at --max-tokens and may not match its constraint; "
            "raise --max-tokens, or ask for a shorter answer"
        )


def _print_end(completion: "Completion", engine: EngineOptions, output: OutputOptions, *, json: bool) -> None:
    """Print what was not streamed.

    Raises:
        WorkError: the answer does not contain the requested part.
    """
    boxed = output.extract_boxed
    answer = None if output.whole else answer_in(completion.text, thinking=engine.thinking, boxed=boxed)
    if json:
        facts = facts_of(completion, completion.timing)
        print_json({"model": engine.model, **facts, **({} if output.whole else {"answer": answer})})
    else:
        print(answer or "")
        say_speed(completion.timing, is_cut=completion.finish_reason == "length")
    if not output.whole and answer is None:
        part = "no closed \\boxed{…}" if boxed else "an unclosed thinking block"
        raise WorkError(f"the answer has {part}; raise --max-tokens, or print the whole answer")


def messages_of(prompt: str, system: str | None, is_raw: bool) -> "tuple[Message, ...]":
    """Return the messages of a prompt; `-` reads it from stdin.

    Raises:
        DataError: the prompt is empty or is not UTF-8 text.
    """
    from smidgen.data.types import Message

    # Some tools on Windows put a byte order mark before text that they pipe.
    text = sys.stdin.read().removeprefix("\ufeff") if prompt == "-" else prompt
    try:
        # Invalid bytes in arguments arrive as lone surrogates, which cannot be encoded.
        (text + (system or "")).encode()
    except UnicodeEncodeError:
        raise DataError(
            "the prompt is not UTF-8 text; convert it first, for example with `iconv -t utf-8`"
        ) from None
    if not text.strip():
        raise DataError("the prompt is empty; give it text, for example --prompt 'Which answer is better?'")
    if is_raw:
        return (Message("text", text),)
    return (*([Message("system", system)] if system else []), Message("user", text))


def answer_in(text: str, *, thinking: bool, boxed: bool) -> str | None:
    """Return the answer after the thinking block, or the content of its last box; None if absent.

    Args:
        text: the generated text.
        thinking: whether the prompt may have opened a thinking block.
        boxed: whether to return only the content of the box.
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
    """Print the number of tokens and the speed, if known."""
    if timing is None:
        return
    rate = count(timing.completion_tokens / timing.seconds)
    cut = ", cut off at --max-tokens" if is_cut else ""
    say(f"{timing.completion_tokens} tokens, {rate} tokens/s{cut}")


def facts_of(completion: "Completion", timing: "Timing | None") -> dict[str, Any]:
    """Return an answer with its token counts and times, if known."""
    answer = {"text": completion.text, "finish_reason": completion.finish_reason}
    if timing is None:
        return answer
    return answer | {
        "prompt_tokens": timing.prompt_tokens,
        "completion_tokens": timing.completion_tokens,
        "time_to_first_token": timing.time_to_first_token,
        "tokens_per_second": timing.completion_tokens / timing.seconds,
        **({"tokens_per_pass": completion.passes.tokens_per_pass} if completion.passes else {}),
    }
