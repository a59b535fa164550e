"""A store under two writers, killed at random moments, on a full disk and with damaged pages: is all there?

    python tests/tools/store_faults.py FOLDER [--inputs 10000] [--kills 50] [--pages 30] [--disk FOLDER]

The writers decide as a router would, without a model. Before each goes on, it notes on a log of its own what
the store has promised: the input is received, or the decision is entry n. At the end every promise must be in
the journal, every input decided once, and `verify` must find nothing. `--disk` names a folder on a disk of a
few MB, which is filled; a limit on the size of files is met in any case.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from smidgen.data.memories import Candidate, Decision
from smidgen.errors import WorkError
from smidgen.memory import Store, restore, verify
from smidgen.memory.journal import journal_path, read_lines

PAGE = 4096
PLACES = "Graz Wien Paris Oslo Lima 北京 上海 München Zürich Porto".split()
SUBJECTS = "My sister|Der Vermieter|我妹妹|The landlord|Anna's dentist|Die Krankenkasse".split("|")
VERBS = "moved to|wohnt jetzt in|搬到了|no longer works in|opened an office in".split("|")


def text_of(name: str, number: int) -> str:
    """The text of an input; many are near each other, and some the same."""
    random = Random(f"{name}-{number}")
    subject, verb, place = random.choice(SUBJECTS), random.choice(VERBS), random.choice(PLACES)
    return f"{subject} {verb} {place} {random.randrange(2000)}."


def decide(text: str, candidates: list[Candidate]) -> list[Decision]:
    """A decision of every kind in turn, the same for the same text and candidates."""
    number = int(sha256("|".join([text, *(c.id for c in candidates)]).encode()).hexdigest()[:8], 16)
    if number % 8 == 0:
        return [Decision("SKIP")]
    save, actions = Decision("SAVE", "fact"), ("ADD", "ADD", "ADD", "UPDATE", "DELETE", "NONE")
    action = actions[number // 8 % len(actions)] if candidates else "ADD"
    target = None if action == "ADD" else candidates[number // 64 % len(candidates)].id
    return [save, Decision(action, target=target, kind="new")]


def work(path: Path, name: str, inputs: int, log: Path, *, max_bytes: int = 0) -> None:
    """Receive and decide on inputs, going on from where an earlier writer of this name was killed."""
    if max_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, resource.RLIM_INFINITY))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def promise(**facts: Any) -> None:
        os.write(descriptor, (json.dumps(facts) + "\n").encode())

    with Store.open(path, timeout=60) as store:
        mine = {entry.input for entry in store.entries() if entry.kind == "received"}
        todo = [f"{name}-{i}" for i in range(inputs)]
        left = [found.id for found in store.pending() if found.id.partition("-")[0] == name]
        for input_id in left + [one for one in todo if one not in mine]:
            text = text_of(name, int(input_id.partition("-")[2]))
            store.received(input_id, text)
            promise(received=input_id)
            if Random(input_id).random() < 0.05:
                store.defer(input_id, "no decision in 500 ms")
            state = "stale"
            while state == "stale":
                candidates = store.candidates(text)
                applied = store.apply(
                    input_id, decide(text, candidates), candidates=candidates, model="rules", version="1"
                )
                state = applied.state
            promise(decided=input_id, entry=applied.entry)
    os.close(descriptor)


def run_writers(path: Path, *, inputs: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Let two writers work on a store, killing one or the other, until all inputs are decided."""
    random = Random(seed)
    names = {"a": inputs // 2, "b": inputs - inputs // 2}
    logs = path.parent
    running = {name: _start(path, name, number, logs) for name, number in names.items()}
    done, killed = set[str](), 0
    while len(done) < len(names):
        name = random.choice([name for name in names if name not in done])
        if killed < kills:
            _wait_for_promise(_log(logs, name), running[name])
            time.sleep(random.uniform(0, 0.4))
        else:
            running[name].wait()
        if running[name].poll() is None:
            os.kill(running[name].pid, signal.SIGKILL)
            running[name].wait()
            killed += 1
            running[name] = _start(path, name, names[name], logs)
        elif running[name].returncode == 0:
            done.add(name)
        else:
            raise AssertionError(f"writer {name} ended with exit code {running[name].returncode}")
    return {"killed": killed} | check(path, inputs, logs)


def check(path: Path, inputs: int, logs: Path) -> dict[str, Any]:
    """Compare what was promised with the journal, and prove the store; return what was counted."""
    report = verify(path)
    assert report.faults == (), report.faults
    assert (report.inputs, report.decided, report.pending) == (inputs, inputs, 0), report
    with Store.open(path, readonly=True) as store:
        entries = store.entries()
    received = {entry.input: entry for entry in entries if entry.kind == "received"}
    decided = {entry.input: entry.number for entry in entries if entry.kind == "decided"}
    promises = 0
    for log in sorted(logs.glob("*.promises")):
        for line in log.read_bytes().splitlines():
            promised = json.loads(line)
            promises += 1
            if "received" in promised:
                assert promised["received"] in received, promised
            else:
                assert decided[promised["decided"]] == promised["entry"], promised
    for input_id, entry in received.items():
        name, number = str(input_id).split("-")
        assert entry.body["text"] == text_of(name, int(number))
    stale = sum(entry.kind == "stale" for entry in entries)
    return asdict(report) | {"promises": promises, "stale": stale}


def fill_disk(path: Path, logs: Path, *, inputs: int, disk: bool) -> dict[str, Any]:
    """Let a writer meet a full disk, or a limit on the size of files, and go on when there is space again.

    The writer's log is in another folder, which is not full.
    """
    filler = path.with_name("filler")
    logs.mkdir(parents=True)
    first = min(50, inputs)
    assert _start(path, "a", first, logs).wait() == 0
    limit = 0
    if disk:
        free = shutil.disk_usage(path.parent).free
        with filler.open("wb") as file:
            file.write(b"x" * max(free - 1_000_000, 0))
    else:
        limit = journal_path(path).stat().st_size + 20_000
    full = _start(path, "a", inputs, logs, max_bytes=limit, stderr=subprocess.PIPE)
    sentence = full.communicate()[1]
    assert full.returncode == 1 and "could not be" in sentence, (full.returncode, sentence)
    filler.unlink(missing_ok=True)
    met = verify(path)
    assert met.faults == (), met.faults
    assert met.inputs < inputs, "the disk was never full"
    assert _start(path, "a", inputs, logs).wait() == 0
    return {"sentence": sentence.strip(), "inputs_then": met.inputs} | check(path, inputs, logs)


def damage(path: Path, folder: Path, *, pages: int, seed: int = 0) -> dict[str, int]:
    """Overwrite pages of copies of a store, one each; what `verify` sees is restored and compared.

    What it does not see must not matter: the store must still give the same memories, inputs and journal.
    """
    random = Random(seed)
    with Store.open(path) as store:
        expected = store.memories(), store.entries(), store.pending()
    size = path.stat().st_size // PAGE
    counts = {"pages": 0, "found": 0, "restored": 0, "unused": 0}
    chosen = [0, *random.sample(range(1, size), min(pages, size) - 1)]
    for page in chosen:
        copy = _copy(path, folder / f"page-{page}")
        with copy.open("r+b") as file:
            file.seek(page * PAGE)
            old = file.read(PAGE)
            file.seek(page * PAGE)
            shifted = old[:512] + old[:512] + old[1024:]
            file.write(random.choice([bytes(PAGE), random.randbytes(PAGE), shifted]))
        counts["pages"] += 1
        if verify(copy).faults:
            counts["found"] += 1
            restored = copy.with_name("restored.db")
            assert restore(copy, restored).lost == 0
            copy = restored
            counts["restored"] += 1
        else:
            counts["unused"] += 1
        with Store.open(copy) as store:
            assert (store.memories(), store.entries(), store.pending()) == expected, page
        shutil.rmtree(copy.parent)
    return counts


def damage_both(path: Path, folder: Path, *, times: int, seed: int = 0) -> int:
    """Damage a page and a line of the journal's file: each copy restores what the other lacks.

    Returns how often the line's entry was on the page, and was lost.
    """
    random, lost = Random(seed), 0
    whole = len(list(read_lines(journal_path(path))))
    for time_ in range(times):
        copy = _copy(path, folder / f"both-{time_}")
        lines = journal_path(copy).read_bytes().splitlines(keepends=True)
        line = random.randrange(len(lines))
        lines[line] = lines[line][:20] + b"#" + lines[line][21:]
        journal_path(copy).write_bytes(b"".join(lines))
        with copy.open("r+b") as file:
            file.seek(random.randrange(1, path.stat().st_size // PAGE) * PAGE)
            file.write(bytes(PAGE))
        assert verify(copy).faults
        restored = restore(copy, copy.with_name("restored.db"))
        assert restored.entries + restored.lost == whole
        lost += restored.lost > 0
        assert verify(restored.path).faults == ()
        shutil.rmtree(copy.parent)
    return lost


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in (path, journal_path(path)):
        shutil.copy(file, folder / file.name)
    return folder / path.name


def _log(logs: Path, name: str) -> Path:
    return logs / f"{name}.promises"


def _start(
    path: Path, name: str, inputs: int, logs: Path, *, max_bytes: int = 0, stderr: int | None = None
) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--work", path, name, inputs, _log(logs, name), max_bytes]
    return subprocess.Popen([str(part) for part in command], stderr=stderr, text=True)


def _wait_for_promise(log: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until a writer has begun its work, or has ended."""
    before = log.stat().st_size if log.exists() else 0
    while process.poll() is None and (log.stat().st_size if log.exists() else 0) == before:
        time.sleep(0.005)


def main() -> None:
    """Run everything and print what was counted."""
    if sys.argv[1:2] == ["--work"]:
        path, name, inputs, log, max_bytes = sys.argv[2:]
        try:
            work(Path(path), name, int(inputs), Path(log), max_bytes=int(max_bytes))
        except WorkError as error:
            sys.exit(f"error: {error}")
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pages", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", type=Path)
    given = parser.parse_args()
    path = given.folder / "memory.db"
    given.folder.mkdir(parents=True)
    began = time.monotonic()
    _say("writers", run_writers(path, inputs=given.inputs, kills=given.kills, seed=given.seed))
    _say("seconds", {"seconds": round(time.monotonic() - began, 1)})
    limited = given.folder / "limited"
    _say("file limit", fill_disk(limited / "memory.db", limited, inputs=300, disk=False))
    if given.disk:
        full = fill_disk(given.disk / "memory.db", given.folder / "full", inputs=1_000, disk=True)
        _say("full disk", full)
    _say("damaged pages", damage(path, given.folder, pages=given.pages, seed=given.seed))
    lost = damage_both(path, given.folder, times=given.pages, seed=given.seed)
    _say("page and line damaged", {"times": given.pages, "same_entry_in_both": lost})


def _say(what: str, facts: dict[str, Any]) -> None:
    print(json.dumps({what: facts}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
