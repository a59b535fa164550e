"""`smidgen route`: decisions of a memory router on lines of JSON, with a store applied to it."""

import json as json_module
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt

from smidgen.cli.console import print_json, say
from smidgen.cli.parameters import file_or_stdin
from smidgen.errors import ConfigError, DataError, WorkError, counted
from smidgen.options import EngineOptions, whole

if TYPE_CHECKING:
    from smidgen.router.stream import Routed

STDIN = Path("-")
SHOWN_TEXT = 60


@Parameter(name="*")
@dataclass(frozen=True)
class RouteInput:
    """What to route."""

    text: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="One text to remember or not, instead of lines."),
    ] = None
    intents: Annotated[
        Path | None,
        Parameter(
            help="JSON file of intents, a list or descriptions by name, for lines of the task classify that "
            "give none."
        ),
    ] = None
    classifier: Annotated[
        Path | None,
        Parameter(
            help="Folder of a run of the task intent on the same base: its adapter and labels, instead of "
            "--intents."
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class RouteTiming:
    """Time and order of decisions."""

    budget: Annotated[
        PositiveFloat,
        Parameter(
            help="Seconds after which a question is deferred; it is tried again when nothing else is to do."
        ),
    ] = 0.5
    places: Annotated[
        PositiveInt,
        Parameter(converter=whole, help="Number of questions of one task that the model works on at a time."),
    ] = 2
    as_finished: Annotated[
        bool, Parameter(show_default=False, help="Print results as they come, not in the order of the lines.")
    ] = False
    latency: Annotated[
        bool,
        Parameter(
            show_default=False, help="Print percentiles of the time to an outcome, cold start included."
        ),
    ] = False


def route(
    file: Annotated[
        Path | None,
        Parameter(
            allow_leading_hyphen=True,
            converter=file_or_stdin,
            help='File of JSON lines, or - for standard input: {"text"}, {"text", "intents"} or {"fact", '
            '"candidates"}, each with an id of its own.',
        ),
    ] = None,
    /,
    *,
    given: RouteInput = RouteInput(),
    store: Annotated[
        Path | None,
        Parameter(
            help="Memory store (SQLite), made if there is none: texts to save are compared with it and "
            "applied. Inputs are journaled first, so that none is lost."
        ),
    ] = None,
    engine: EngineOptions = EngineOptions(),
    timing: RouteTiming = RouteTiming(),
    json: Annotated[
        bool, Parameter(name="--json", help="Print one JSON object per result to stdout.")
    ] = False,
) -> None:
    """Decide what is worth remembering, what becomes of what is stored, and what is meant."""
    from smidgen import __version__
    from smidgen.memory import Store
    from smidgen.router import Router
    from smidgen.router.lines import read_intents, read_lines
    from smidgen.router.stream import route as routed

    if (file is None) == (given.text is None):
        raise ConfigError("give a file of JSON lines, - for standard input, or --text, and only one of them")
    intents = read_intents(given.intents) if given.intents is not None else ()
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        data = stack.enter_context(_open(file, given.text))
        opened = stack.enter_context(Store.open(store)) if store is not None else None
        router = stack.enter_context(
            Router(
                engine,
                budget=timing.budget,
                intents=intents,
                classifier=given.classifier,
                places=timing.places,
            )
        )
        name = None if file in (None, STDIN) else str(file)
        lines = read_lines(data, name=name, intents=router.intents)
        for result in routed(router, lines, opened, version=__version__, in_order=not timing.as_finished):
            counts[result.status] += 1
            counts["settled"] += result.is_again
            _show(result, json=json)
        summary = router.latencies.to_json()
    _say_summary(counts, summary if timing.latency else None)
    if json and timing.latency:
        print_json({"latency": summary}, on_one_line=True)
    _raise_faults(counts)


@contextmanager
def _open(file: Path | None, text: str | None) -> Iterator[Iterable[bytes]]:
    if file is None:
        yield [json_module.dumps({"text": text}).encode()]
    elif file == STDIN:
        # A file of its own: Python cannot end while another thread waits in the buffer of sys.stdin.
        with open(sys.stdin.fileno(), "rb", closefd=False) as opened:
            yield opened
    else:
        try:
            opened = file.open("rb")
        except FileNotFoundError:
            raise DataError(f"there is no file {file}; expected lines of JSON") from None
        except IsADirectoryError:
            raise DataError(f"{file} is a folder; expected a file of lines of JSON") from None
        with opened:
            yield opened


def _show(result: "Routed", *, json: bool) -> None:
    if result.line.fault:
        say(f"error: {result.line.fault}")
    if json:
        print_json(result.to_json(), on_one_line=True)
        return
    if result.line.fault:
        return
    outcome, question = result.outcome, result.line.question
    told = [" ".join(filter(None, (d.action, d.category, d.target, d.kind))) for d in result.decisions]
    stored = f", {result.stored.state}" if result.stored is not None else ""
    decision = (", ".join(told) or result.status) + stored
    seconds = f"{outcome.seconds * 1e3:7.0f} ms" if outcome else " " * 10
    text = "".join(c if c.isprintable() else " " for c in (question.texts[0] if question else ""))
    text = text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…"
    why = outcome.reason if outcome and outcome.status != "decided" else outcome.note if outcome else ""
    print(
        f"{result.line.id[:12]:12}  {decision:32}{seconds}  {text}{f'  ({why})' if why else ''}", flush=True
    )


def _say_summary(counts: Counter[str], latency: dict[str, Any] | None) -> None:
    from smidgen.router.latency import SHARES

    parts = [f"{counts[status]:,} {status}" for status in ("decided", "deferred", "failed", "bad", "known")]
    say(f"{', '.join(parts)}; {counts['settled']:,} of those deferred came to an end")
    if latency is None:
        return
    say(f"cold start {latency['cold_start']:.1f} s, before the first question")
    rows = {**latency["tasks"], "all": latency["all"]}
    if including := latency["all"].get("with_cold_start"):
        rows["all, with cold start"] = including
    for name, found in rows.items():
        if "p50" in found:
            told = ", ".join(f"{share} {found[share] * 1e3:,.0f} ms" for share in SHARES)
            say(f"{name}: {told}; {found.get('deferred', 0):,} deferred")


def _raise_faults(counts: Counter[str]) -> None:
    """Say by the exit status that not all went well.

    Raises:
        DataError: lines were bad.
        WorkError: questions failed.
    """
    if counts["bad"]:
        raise DataError(f"{counted(counts['bad'], 'bad line')}, as said above; the others were routed")
    if counts["failed"]:
        raise WorkError(
            f"{counts['failed']:,} questions failed, as their results say; the others were decided"
        )
