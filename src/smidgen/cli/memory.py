"""`smidgen memory`: what a memory router stored, one command for what is done with it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt

from smidgen.cli.console import print_json, print_table, say
from smidgen.cli.parameters import Json
from smidgen.errors import ConfigError, WorkError
from smidgen.options import whole

if TYPE_CHECKING:
    from smidgen.memory import Entry, Memory

SHOWN_FAULTS = 10

memory = App(
    name="memory",
    help="List, search, undo, export and verify what a memory router stored.",
    default_parameter=Parameter(negative=()),
)

StoreFile = Annotated[Path, Parameter(help="The store, such as memory.db; its journal lies beside it.")]


@memory.command(name="list")
def list_(
    store: StoreFile,
    /,
    *,
    journal: Annotated[
        bool, Parameter(help="List the entries of the journal instead, whose numbers `undo` takes.")
    ] = False,
    pending: Annotated[
        bool, Parameter(help="List the inputs that were received and are not decided instead.")
    ] = False,
    json: Json = False,
) -> None:
    """List the memories of a store, its journal, or its pending inputs."""
    from smidgen.memory import Store

    if journal and pending:
        raise ConfigError("--journal and --pending list two things; give one of them")
    with Store.open(store, readonly=True) as opened:
        if journal:
            entries = opened.entries()
            if json:
                print_json({"entries": [asdict(entry) for entry in entries]})
            else:
                _show(entries, [_entry_cells(entry) for entry in entries], ("entry", "time", "what"))
        elif pending:
            inputs = opened.pending()
            if json:
                print_json({"pending": [asdict(found) for found in inputs]})
            else:
                cells = [(found.id, found.text, found.reason or "not asked yet") for found in inputs]
                _show(inputs, cells, ("input", "text", "why"))
        else:
            _show_memories(opened.memories(), json=json)


@memory.command
def search(
    store: StoreFile,
    query: Annotated[str, Parameter(help="Words, a name or a whole sentence, in any language.")],
    /,
    *,
    limit: Annotated[PositiveInt, Parameter(converter=whole, help="Maximum number of memories.")] = 20,
    json: Json = False,
) -> None:
    """List the memories that are most like a text, best first."""
    from smidgen.memory import Store

    with Store.open(store, readonly=True) as opened:
        _show_memories(opened.search(query, limit), json=json)


@memory.command
def undo(
    store: StoreFile,
    entry: Annotated[PositiveInt, Parameter(help="Number of the entry; `list --journal` shows them.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Restore the memories that an entry of the journal changed as they were before it.

    The undo is an entry too, and can be undone.
    """
    from smidgen.memory import Store

    with Store.open(store, create=False) as opened:
        undone = opened.undo(entry)
    if json:
        print_json({"undone": entry, "entry": undone.entry, "memory": undone.memory})
    else:
        say(f"{store}: entry {undone.entry} undoes entry {entry}, memory {undone.memory}")


@memory.command
def export(
    store: StoreFile,
    /,
    *,
    out: Annotated[Path, Parameter(help="The JSONL file to write; an existing one is replaced.")],
    json: Json = False,
) -> None:
    """Write the memories of a store as rows with `id`, `text`, `category`, `created` and `updated`."""
    from smidgen.files import write_jsonl
    from smidgen.memory import Store

    with Store.open(store, readonly=True) as opened:
        memories = opened.memories()
    write_jsonl(out, (asdict(found) for found in memories))
    if json:
        print_json({"out": str(out), "memories": len(memories)})
    else:
        say(f"{out}: {len(memories):,} memories")


@memory.command
def verify(
    store: StoreFile,
    /,
    *,
    restore: Annotated[
        Path | None,
        Parameter(help="Database to make anew from the journal, with every memory, whatever was found."),
    ] = None,
    json: Json = False,
) -> None:
    """Prove that a store is whole: replay its journal and compare, check every page and the chain of entries.

    Every input was applied exactly once or is pending. The exit code is 1 if something is wrong; with
    `--restore` it is 1 only if something could not be restored.
    """
    from smidgen.memory import verify as verify_store
    from smidgen.memory.verify import restore as restore_store

    report = verify_store(store)
    restored = restore_store(store, restore) if restore else None
    if json:
        print_json(asdict(report) | {"restored": restored and asdict(restored)})
    else:
        print_table([(name, f"{n:,}") for name, n in asdict(report).items() if isinstance(n, int)])
        for fault in report.faults[:SHOWN_FAULTS]:
            print(fault)
        if len(report.faults) > SHOWN_FAULTS:
            print(f"and {len(report.faults) - SHOWN_FAULTS:,} more")
    if restored:
        say(f"{restored.path}: {restored.entries:,} entries restored, {restored.memories:,} memories")
        if restored.lost:
            raise WorkError(
                f"{restored.lost:,} entries of {store} could not be restored: every copy of the journal is "
                f"damaged before them; {restored.path} holds what is proved"
            )
    elif report.faults:
        raise WorkError(
            f"{store} is not whole, for the reasons above; `smidgen memory verify {store} --restore NEW.db` "
            "makes it anew from its journal"
        )


def _show_memories(memories: "list[Memory]", *, json: bool) -> None:
    if json:
        print_json({"memories": [asdict(found) for found in memories]})
    else:
        cells = [(found.id, found.category or "–", found.text) for found in memories]
        _show(memories, cells, ("id", "category", "text"))


def _show(found: Sequence[object], cells: list[tuple[str, ...]], headers: tuple[str, ...]) -> None:
    """Print a table, or say that there is nothing to print."""
    if found:
        print_table([tuple(map(_visible, row)) for row in cells], headers=headers, is_text=True)
    else:
        say("nothing found")


def _visible(text: str) -> str:
    """A text without what a terminal would obey or could not encode."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _entry_cells(entry: "Entry") -> tuple[str, str, str]:
    """The number, time and content of an entry, in a line."""
    body = entry.body
    match entry.kind:
        case "received":
            about = f"{entry.input} received: {body['text']}"
        case "decided":
            about = f"{entry.input} decided: {_decisions(body)}"
        case "deferred":
            about = f"{entry.input} deferred: {body['reason']}"
        case "stale":
            about = f"{entry.input} asked again: {body['reason']}"
        case "undone":
            about = f"entry {body['entry']} undone"
        case _:
            about = "store made"
    return str(entry.number), entry.time, about


def _decisions(body: Mapping[str, Any]) -> str:
    words = [
        " ".join(filter(None, (found["action"], found["target"], found["category"], found["kind"])))
        for found in body["decisions"]
    ]
    return f"{', '.join(words)} ({body['model']})"
