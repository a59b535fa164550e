import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.cli.app import exit_code
from smidgen.data.formats import pairs, queries, questions
from smidgen.data.prompts import read_prompts
from smidgen.data.row_files import STDIN, FileRow, fingerprint, read_rows
from smidgen.data.rows import select_rows
from smidgen.data.types import Message, Request, Sample
from smidgen.errors import DataError
from smidgen.files import sha256_file
from smidgen.inference.replay import ReplayEngine
from smidgen.tasks import find_task

ROWS = [
    {"id": "1", "prompt": 'Say "hi",\nplease', "a": "hi; there", "b": "\t[1, 2]", "better": "a"},
    {"id": "2", "prompt": "2 + 2?", "a": "é 🙂", "b": "5", "better": "b"},
]
cell = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00\ufeff"), max_size=12)


def table(rows: list[dict[str, str]], separator: str, newline: str = "\n") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().replace("\n", newline)


FORMS = {
    "rows.jsonl": "\n".join(map(json.dumps, ROWS)),
    "rows.json": json.dumps(ROWS, indent=1),
    "rows.csv": table(ROWS, ","),
    "rows.tsv": table(ROWS, "\t"),
}
ENCODINGS = {
    "plain": lambda text: text.encode(),
    "a byte order mark and CRLF": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "gzip": lambda text: gzip.compress(text.encode("utf-8-sig")),
}


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_in_every_form(
    name: str, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = ENCODINGS[encoding](FORMS[name])
    path = tmp_path / (f"{name}.gz" if encoding == "gzip" else name)
    path.write_bytes(content)
    found = read_rows(path)
    assert found == ROWS and pairs(found) == pairs(ROWS)
    feed(monkeypatch, content)
    said = read_rows(Path(STDIN))
    assert said == found and [row.number for row in said] == [row.number for row in found]
    assert fingerprint(STDIN) == sha256_file(path) == fingerprint(path)


@given(st.lists(st.fixed_dictionaries({"id": cell, "x y": cell, "z": cell}), min_size=1, max_size=4))
@pytest.mark.parametrize("separator", [",", "\t"])
def test_tables_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, separator: str, rows: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / ("rows.csv" if separator == "," else "rows.tsv")
    path.write_text(table(rows, separator), encoding="utf-8", newline="")
    found = read_rows(path)
    assert [row.filled(row.blank) for row in found] == rows
    assert all(row.keys().isdisjoint(row.blank) for row in found)


def test_rows_of_a_table_are_known_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,intent\n"one\ntwo",x\n\nthree,y\n', encoding="utf-8")
    assert [query.id for query in queries(read_rows(path))] == ["2", "5"]
    path.write_text("text,intent\n,x\nb,y\nc,y,z\n", encoding="utf-8")
    rejected: list[str] = []
    rows = read_rows(path, rejected=rejected)
    assert rejected == ["line 4 has 3 cells, but the header has 2"]
    with pytest.raises(DataError, match="mine: line 2: 'text' is \"\", expected text"):
        queries(rows, source="mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a,b\n1\n",
            r"rows\.csv: line 2 has 1 cells, but the header has 2\. Expected: every line must have as many",
        ),
        (
            "a,b,a\n1,2,3\n",
            r"rows\.csv: the header names 'a' twice; expected a different name for each column",
        ),
        ("a,,b\n1,2,3\n", r"rows\.csv: the header has a column without a name; expected a different name"),
        (
            'a,b\n1,2\n"3,4\n',
            r"rows\.csv: line 3 cannot be split into cells \(unexpected end of data\); fix its quo",
        ),
        ("", r"rows\.csv is empty; expected"),
        ("a,b\n", r"rows\.csv is empty; expected"),
    ],
)
def test_bad_tables_name_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_rows(path)


def test_a_cell_may_be_longer_than_the_module_csv_allows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,intent\n{'x' * 200_000},y\n", encoding="utf-8")
    assert len(read_rows(path)[0]["text"]) == 200_000


def test_an_empty_cell_is_an_empty_answer_or_a_field_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,a,b,better,reference,subset,split\nq,,y,,,,\nr,x,,b,z,s,test\n", encoding="utf-8")
    rows = read_rows(path)
    first, second = pairs(rows, labelled=False)
    assert (first.a, first.better, first.reference, first.subset) == ("", None, None, None)
    assert (second.b, second.better, second.reference, second.subset) == ("", "b", "z", "s")
    assert select_rows(rows, splits=["test"]) == rows  # a row without a split is kept
    path.write_text("prompt,chosen,rejected\nq,x,\nr,,y\n", encoding="utf-8")
    assert [(pair.a, pair.b) for pair in pairs(read_rows(path))] == [("x", ""), ("", "y")]
    path.write_text("prompt,target\nq,\nr,yes\n", encoding="utf-8")
    assert read_prompts(path) == [
        (Message("user", "q"),),
        (Message("user", "r"), Message("assistant", "yes")),
    ]
    path.write_text("id,order,text\n1,ab,\n2,,yes\n", encoding="utf-8")
    asked = [Request(Sample(name, (Message("user", "?"),))) for name in ("1#ab", "2")]
    assert [found.text for _, found in ReplayEngine(path).complete(asked)] == ["", "yes"]


def test_cells_that_stand_for_numbers_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("input,output_1,output_2,label\nq,x,y,2\n", encoding="utf-8")
    assert pairs(read_rows(path))[0].better == "b"
    path.write_text("input,output_1,output_2,label\nq,x,y,3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: 'label' is \"3\", expected '1' or '2'"):
        pairs(read_rows(path))
    path.write_text(
        'question_body,answer1_body,answer2_body,score\nq,x,y,"[8, 9]"\nq,x,y,8\n', encoding="utf-8"
    )
    rows = read_rows(path)
    assert pairs(rows[:1])[0].better == "b"
    with pytest.raises(DataError, match=r"line 3: 'score' is \"8\", expected two finite numbers"):
        pairs(rows)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]
    rows = [{"conversation_a": json.dumps(turns), "conversation_b": json.dumps(turns), "winner": "model_b"}]
    path.write_text(table(rows, ","), encoding="utf-8")
    assert pairs(read_rows(path))[0].better == "b"
    path.write_text(table([{"messages": json.dumps(turns)}], ","), encoding="utf-8")
    assert read_prompts(path)[0][1] == Message("assistant", "x")


def test_a_table_trains_a_judge(tmp_path: Path) -> None:
    gold = {"criteria": ["right"], "analysis": {"ab": "A is.", "ba": "B is."}, "scores": [9, 2]}
    row = {"id": "p", "prompt": "q", "a": "x", "b": "y", "better": "a"}
    path = tmp_path / "rows.csv"
    path.write_text(table([row | {name: json.dumps(value) for name, value in gold.items()}], ","))
    judge = find_task("judge")
    assert judge.training_samples(read_rows(path)) == judge.training_samples([row | gold])
    path.write_text(
        table([row | {name: json.dumps(v) for name, v in gold.items()} | {"criteria": "right"}], ",")
    )
    with pytest.raises(DataError, match="'criteria' is 'right'; training needs a list of texts"):
        judge.training_samples(read_rows(path))


def test_standard_input_is_read_once_and_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b'{"text": "a", "intent": "x"}\n{"text": 1\n')
    for _ in range(2):
        with pytest.raises(DataError, match="standard input: line 2 is not JSON"):
            read_rows(Path(STDIN))
    feed(monkeypatch, b"hello\n")
    with pytest.raises(DataError, match="standard input: line 1 is not JSON"):
        read_rows(Path(STDIN))
    feed(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input is empty"):
        read_rows(Path(STDIN))
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"text": "a"}'))
    assert read_rows(Path(STDIN)) == [{"text": "a"}]


def test_a_broken_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(FORMS["rows.jsonl"].encode())[:-12])
    with pytest.raises(
        DataError, match=r"rows\.jsonl\.gz is not a complete gzip file .*; create or fetch it again"
    ):
        read_rows(path)
    with pytest.raises(DataError, match=r"there is no data file at data/rows\.csv\.gz"):
        read_rows(Path("data/rows.csv.gz"))


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("true", "true"),
        ("42", "42"),
        ("1e5", "1e5"),
        ("42.50", "42.50"),
        ("-0", "0"),
        ("123456789012345678901",) * 2,
    ],
)
def test_numbers_and_booleans_are_read_as_their_json_text(tmp_path: Path, written: str, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    line = f'{{"prompt": "q", "a": {written}, "b": {written}, "reference": {written}, "subset": {written}}}\n'
    path.write_text(line * 2, encoding="utf-8")
    with pytest.warns(UserWarning, match=r"rows\.jsonl contains numbers or booleans where text") as said:
        pair = pairs(read_rows(path), labelled=False)[0]
    assert (pair.a, pair.b, pair.reference, pair.subset) == (text,) * 4 and len(said) == 1


@pytest.mark.filterwarnings("ignore:a row contains numbers or booleans")
def test_numbers_are_texts_wherever_texts_are_expected(tmp_path: Path) -> None:
    assert pairs([{"prompt": 1, "chosen": [2, "x"], "rejected": [True]}])[1].b == "true"
    chat = [{"role": "user", "content": 5}]
    assert pairs([{"prompt": "q", "chosen": chat, "rejected": chat}])[0].a == "5"
    assert queries([{"text": 1, "intent": False}])[0].intent == "false"
    assert questions([{"prompt": "q", "answer": 42, "sentence": 1.5}])[0].accepted == ("42", "1.5")


@pytest.mark.parametrize("value", [None, [], {}, float("nan"), float("inf")])
def test_what_is_neither_text_nor_a_number_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"row 1: 'a' is .*, expected text"):
        pairs([{"prompt": "q", "a": value, "b": "y", "better": "a"}])


def test_ids_are_unique_within_a_file_only(tmp_path: Path) -> None:
    files = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    for file in files:
        file.write_text('{"text": "a", "intent": "x"}\n{"text": "b", "intent": "y"}\n', encoding="utf-8")
    rows = [row for file in files for row in read_rows(file)]
    assert [query.id for query in queries(rows)] == ["1", "2", "1", "2"]
    assert find_task("intent").prepare(rows).labels
    with pytest.raises(DataError, match="line 1: its id '1' is also that of line 1"):
        queries([*rows, rows[0]])
    with pytest.raises(DataError, match="row 2: its id '7' is also that of row 1"):
        queries([{"id": 7, "text": "a", "intent": "x"}] * 2)


def test_a_row_that_is_filled_keeps_its_place() -> None:
    row = FileRow({"a": "x"}, 3, "line", blank=frozenset({"b"}))
    assert row.filled(["b", "c"]) == {"a": "x", "b": ""} and row.filled(["b"]).number == 3
    assert row.filled(["c"]) is row


@pytest.mark.parametrize("name", FORMS)
def test_the_commands_read_standard_input(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [{"id": str(i), "order": order, "text": "[[A]]"} for i in (1, 2) for order in ("ab", "ba")]
    recording = tmp_path / "said.jsonl"
    recording.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    replayed = ["--engine", "replay", "--model", str(recording), "--template", "verdict", "--json"]
    for command in (["judge", "-", "--out", str(tmp_path / "o.jsonl")], ["evaluate", "judge", "--data", "-"]):
        feed(monkeypatch, FORMS[name].encode())
        assert exit_code([*command, *replayed]) == 0
        assert json.loads(capsys.readouterr().out)
    verdicts = (tmp_path / "o.pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in verdicts] == ["1", "2"]


@pytest.mark.slow
def test_a_pipe_is_standard_input() -> None:
    command = [sys.executable, "-m", "smidgen", "judge", "-", "--out", "o.jsonl"]
    result = subprocess.run(
        command, input=b"{}", capture_output=True, check=False, env={**os.environ, "COLUMNS": "80"}
    )
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"standard input: line 1" in result.stderr
