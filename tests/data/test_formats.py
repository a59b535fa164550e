import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.formats import Pair, Query, pairs, queries, read_rows, select_rows
from smidgen.errors import ConfigError, DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")

OWN = {"id": "p", "prompt": "Which?", "a": "this", "b": "that", "better": "b"}
LLMBAR = {"subset": "Natural", "index": 3, "input": "Which?", "output_1": "x", "output_2": "y", "label": 1}


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1))
def test_rows_survive_a_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    rows = [{**row, "id": str(number)} for number, row in enumerate(rows)]
    path = write(tmp_path_factory.mktemp("rows") / "rows.jsonl", *(json.dumps(row) for row in rows))
    assert read_rows(path) == [{"line": number, **row} for number, row in enumerate(rows, start=1)]


def test_rows_without_an_id_know_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a", "intent": "x"}', "", '{"text": "b", "intent": "y"}')
    rows = read_rows(path)
    assert [query.id for query in queries(rows)] == ["1", "3"]
    assert [query.id for query in queries(rows[1:])] == ["3"]


def test_separators_inside_strings_do_not_split_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"id": "1", "text": "a\u2028b\u0085c"}')
    assert read_rows(path) == [{"line": 1, "id": "1", "text": "a\u2028b\u0085c"}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1}', '{"id": '], r"rows\.jsonl: line 2 is not JSON"),
        (['{"id": 1}', "[1, 2]"], r"rows\.jsonl: line 2 is a JSON list, not an object"),
        (['{"id": "\\ud800"}'], r"line 1 holds half of a surrogate pair"),
        (["", "  "], r"rows\.jsonl is empty; expected one JSON object a line"),
        (["x"] * 9, r"line 5 is not JSON .*; and 4 more\. Expected: every line must be one JSON object"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path / "rows.jsonl", *lines))


def test_paired_surrogate_escapes_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"id": "\\ud83d\\ude00"}')
    assert read_rows(path) == [{"line": 1, "id": "😀"}]


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data file at .*none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl is not a readable UTF-8 file"):
        read_rows(tmp_path / "latin.jsonl")


def test_both_pair_formats_give_the_same_pairs() -> None:
    assert pairs([OWN | {"subset": "s"}]) == [Pair("p", "Which?", "this", "that", "b", "s")]
    assert pairs([LLMBAR]) == [Pair("Natural/3", "Which?", "x", "y", "a", "Natural")]
    assert pairs([LLMBAR | {"id": 7}])[0].id == "7"
    without_place = {key: LLMBAR[key] for key in ("input", "output_1", "output_2", "label")}
    assert [pair.id for pair in pairs([without_place, without_place])] == ["1", "2"]


def test_queries() -> None:
    assert queries([{"split": "val", "text": "hi", "intent": "greeting"}]) == [Query("1", "hi", "greeting")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"mine has no rows"),
        (
            [{"prompt": "x", "a": "y", "b": "z", "id": "1"}],
            r"mine: row 1 has the fields .* lacks 'better' of a pair row",
        ),
        (
            [{"line": 4, "input": "x"}],
            r"line 4 has the fields input, which fit no known format; it lacks 'output_1'",
        ),
        ([{}], r"row 1 has the fields none"),
        ([OWN, OWN | {"id": "q", "better": "c"}], r"""row 2: 'better' is "c", expected 'a' or 'b'"""),
        ([LLMBAR, LLMBAR | {"index": 4, "label": True}], r"row 2: 'label' is true, expected 1 or 2"),
        ([OWN, {"id": "q"}], r"row 2: 'prompt' is missing, expected text"),
        ([OWN | {"prompt": "  "}], r"row 1: 'prompt' is \"  \", expected text"),
        ([OWN | {"a": ["x" * 80]}], r"row 1: 'a' is \[\"x+\.\.\., expected text"),
        ([OWN | {"subset": 3}], r"row 1: 'subset' is 3, expected text"),
        ([OWN | {"id": None}], r"row 1: 'id' is null, expected text or a whole number"),
        (
            [OWN, OWN],
            r"row 2: its id 'p' is also that of row 1\. Expected: a pair row has the fields id, prompt",
        ),
    ],
)
def test_bad_pairs_name_the_row_and_the_field(rows: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(rows, source="mine")


def test_an_empty_answer_is_an_answer() -> None:
    assert pairs([OWN | {"a": ""}])[0].a == ""


@given(st.integers(1, 40), st.integers(1, 60))
def test_a_limit_takes_evenly_spaced_rows(number: int, limit: int) -> None:
    rows = [{"id": str(index)} for index in range(number)]
    kept = select_rows(rows, limit=limit)
    assert len(kept) == min(limit, number)
    places = [int(row["id"]) for row in kept]
    gaps = {b - a for a, b in itertools.pairwise(places)}
    assert places[0] == 0
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_splits() -> None:
    rows = [{"split": "train"}, {"split": "test"}, {"text": "no split"}]
    assert select_rows(rows, splits=("test",)) == rows[1:]
    assert select_rows(rows) == rows
    with pytest.raises(
        DataError, match=r"mine has no row of split tests\. Did you mean 'test'\? Known: test, train"
    ):
        select_rows(rows[:2], splits=("tests",), source="mine")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_of_nothing_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError, match=f"the limit of rows is {limit}; expected a number above 0"):
        select_rows([{}], limit=limit)


@real_data
def test_llmbar() -> None:
    items = pairs(read_rows(REAL / "judge" / "llmbar_a.jsonl"))
    assert len(items) == 211
    assert sum(pair.better == "a" for pair in items) == 101
    assert len({pair.subset for pair in items}) == 5


@real_data
def test_clinc() -> None:
    rows = read_rows(REAL / "memory" / "clinc150_train_val.jsonl")
    assert len({query.intent for query in queries(rows)}) == 151
    assert len(select_rows(rows, splits=("val", "oos_val"))) == 3100
    assert len({row["intent"] for row in select_rows(rows, splits=("val",), limit=300)}) == 150
