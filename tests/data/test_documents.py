"""Documents of files: the same from every place, without the whole file in memory, or one sentence."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from smidgen.data import documents
from smidgen.data.documents import DocumentFile, Survey, key_of
from smidgen.errors import ConfigError, DataError

TEXTS = [f"document {number}\nwith a ü in it" for number in range(40)]
KINDS = ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt", "a.txt.gz"]


def write(path: Path, texts: list[str] = TEXTS) -> Path:
    if path.suffix == ".parquet":
        table = pyarrow.table({"other": range(len(texts)), "text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=7)
        return path
    parts = texts if ".txt" in path.name else [json.dumps({"text": text}) for text in texts]
    data = b"\xef\xbb\xbf" + ("\n\n \n" if ".txt" in path.name else "\r\n").join(parts).encode() + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def survey(file: DocumentFile, fraction: float = 0.1) -> Survey:
    counts = file.survey(fraction)
    while True:
        try:
            next(counts)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("name", KINDS)
def test_reading_goes_on_from_every_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PARQUET_ROWS", 3)
    file = DocumentFile(write(tmp_path / name))
    file.check()
    found = list(file.read(0))
    assert [text for _, text in found] == TEXTS
    for number, (place, _) in enumerate(found):
        assert list(file.read(place)) == found[number:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_a_file_is_not_held_in_memory(name: str, tmp_path: Path):
    texts = [f"{number} {'word ' * 400}".strip() for number in range(4000)]  # 8 MB
    file = DocumentFile(write(tmp_path / name, texts))
    tracemalloc.start()
    assert sum(1 for _ in file.read(0)) == len(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_template_makes_a_document_of_a_row(suffix: str, tmp_path: Path):
    path = tmp_path / f"a.{suffix}"
    rows = [{"turns": [{"q": "1?", "a": "2"}, {"q": "3?", "a": "4"}], "unused": 1}]
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows[0]))
    file = DocumentFile(path, "{% for turn in turns %}{{ turn.q }} {{ turn.a }}\n{% endfor %}")
    assert [text for _, text in file.read(0)] == ["1? 2\n3? 4\n"]


def test_the_first_field_of_text_is_read_and_blank_documents_are_left_out(tmp_path: Path):
    rows = [{"content": "a", "raw_content": "x"}, {"raw_content": "b"}, {"text": " \n"}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    assert [text for _, text in DocumentFile(tmp_path / "a.jsonl").read(0)] == ["a", "b", "c"]


def test_a_survey_holds_out_the_share_that_was_asked_for(tmp_path: Path):
    texts = [str(number) for number in range(300)] + ["17"] * 5
    file = DocumentFile(write(tmp_path / "a.jsonl", texts))
    found = survey(file)
    held_out = [text for text in texts if key_of(text) <= found.threshold]
    assert (found.documents, found.characters) == (305, sum(map(len, texts)))
    assert len(set(held_out)) == 30  # of 305, a tenth
    assert found.held_out == len(held_out)
    assert survey(file, 1e-9).held_out in (1, 6)  # at least one document, in all of its copies


def test_no_more_is_held_out_than_a_validation_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "MOST_HELD_OUT", 7)
    texts = [str(number) for number in range(300)]
    found = survey(DocumentFile(write(tmp_path / "a.jsonl", texts)))
    assert found.held_out == 7
    assert found.threshold == sorted(map(key_of, texts))[6]
    tiny = survey(DocumentFile(write(tmp_path / "b.jsonl", ["a", "b"])), 0.9)
    assert tiny.held_out == 1


def test_a_survey_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "REPORTED", 10)
    assert list(islice(DocumentFile(write(tmp_path / "a.txt")).survey(0.1), 3)) == [10, 20, 30]


def jsonl(*lines: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (folder / "a.jsonl").write_text(text)
        return folder / "a.jsonl"

    return make


def raw(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "template", "message"),
    [
        (lambda folder: folder / "none.jsonl", None, r"there is no data file at .*none\.jsonl; expected one"),
        (raw("a.csv", b"text\na\n"), None, r"a\.csv is not a file of documents; expected one of \.jsonl"),
        (raw("a.jsonl", b""), None, r"a\.jsonl has no documents; expected at least one"),
        (raw("a.txt", b"a"), "{{ b }}", r"a\.txt is plain text, which has no fields; leave the template"),
        (raw("a.parquet", b"PAR1 no"), None, r"a\.parquet is not a readable Parquet file: "),
        (raw("a.jsonl", gzip.compress(b"{}" * 99)[:20]), None, r"a\.jsonl is not a complete gzip file"),
        (raw("a.txt", b"\xff\xfe\x00"), None, r"a\.txt is not UTF-8 text: "),
        (jsonl("{"), None, r"a\.jsonl: line 1 is not JSON "),
        (jsonl("[1]"), None, r"a\.jsonl: line 1 is a JSON list, not an object"),
        (
            jsonl({"question": "a", "answer": "b"}),
            None,
            r"line 1: there is no field text or content or raw_content; its fields are question, answer",
        ),
        (jsonl({"text": 3}), None, r"line 1: 'text' is 3, expected text"),
        (
            jsonl({"question": "a"}),
            "{{ answer }}",
            r"line 1: the template 'text' cannot be rendered \('answer' is undefined\); its fields",
        ),
    ],
)
def test_what_is_no_document_is_one_sentence(
    make: Callable[[Path], Path], template: str | None, message: str, tmp_path: Path
):
    with pytest.raises(DataError, match=message):
        DocumentFile(make(tmp_path), template).check()


def test_an_invalid_template_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"'text' is not a Jinja template: "):
        DocumentFile(write(tmp_path / "a.jsonl"), "{{ a").check()


def test_every_fault_of_a_file_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = DocumentFile(jsonl({"text": "a"}, "{", {"txt": "b"})(tmp_path))
    with pytest.raises(
        DataError, match=r"line 2 is not JSON .*; line 3: there is no field .* every row is a"
    ):
        survey(file)
    with pytest.raises(DataError, match=r"the line at byte 14 is not JSON"):
        list(file.read(14))
    monkeypatch.setattr(documents, "MOST_FAULTS", 1)
    with pytest.raises(DataError, match=r"line 2 .*; line 3"):  # seen with the document after them
        survey(DocumentFile(jsonl("{", "{", "{", {"text": "a"}, "{")(tmp_path)))


def test_one_document_cannot_be_trained_on_and_held_out(tmp_path: Path):
    with pytest.raises(DataError, match=r"has 1 different documents; expected at least 2, one of them for"):
        survey(DocumentFile(write(tmp_path / "a.jsonl", ["a", "a"])))


def test_a_file_that_went_away_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no data file at .*gone\.jsonl"):
        next(DocumentFile(tmp_path / "gone.jsonl").read(0))
