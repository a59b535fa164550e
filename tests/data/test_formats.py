import itertools
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.formats import PAIR_FORMATS, Pair, Query, pairs, queries
from smidgen.data.rows import FileRow, read_rows, select_rows
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
    found = read_rows(path)
    assert found == rows and [row.number for row in found] == list(range(1, len(rows) + 1))


def test_rows_without_an_id_know_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a", "intent": "x"}', "", '{"text": "b", "intent": "y"}')
    rows = read_rows(path)
    assert [query.id for query in queries(rows)] == ["1", "3"]
    assert [query.id for query in queries(rows[1:])] == ["3"]


def test_separators_inside_strings_do_not_split_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"id": "1", "text": "a\u2028b\u0085c"}')
    assert read_rows(path) == [{"id": "1", "text": "a\u2028b\u0085c"}]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1}', '{"id": '], r"rows\.jsonl: line 2 is not JSON"),
        (['{"id": 1}', "[1, 2]"], r"rows\.jsonl: line 2 is a JSON list, not an object"),
        (['{"id": "\\ud800"}'], r"line 1 contains half of a surrogate pair"),
        (["", "  "], r"rows\.jsonl is empty; expected one JSON object a line"),
        (["x"] * 9, r"line 5 is not JSON .*; and 4 more\. Expected: every line must be one JSON object"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path / "rows.jsonl", *lines))


def test_paired_surrogate_escapes_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"id": "\\ud83d\\ude00"}')
    assert read_rows(path) == [{"id": "😀"}]


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data file at .*none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"is a folder; name a file of one JSON object a line"):
        read_rows(tmp_path)
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
            r"mine has no labels \('better'\), so no metric can be .* get verdicts with `smidgen judge`",
        ),
        (
            [FileRow({"input": "x"}, 4, "line")],
            r"line 4 has the fields input, which match no known format; it lacks 'output_1'",
        ),
        ([{}], r"row 1 has the fields none"),
        (
            [OWN, OWN | {"id": "q", "better": "c"}],
            r"""row 2: 'better' is "c", expected 'a' or 'b' or 'tie'""",
        ),
        ([LLMBAR, LLMBAR | {"index": 4, "label": True}], r"row 2: 'label' is true, expected 1 or 2"),
        ([OWN, {"id": "q"}], r"row 2: 'prompt' is missing"),
        ([OWN | {"prompt": "  "}], r"row 1: 'prompt' is \"  \", expected text"),
        ([OWN | {"a": ["x" * 80]}], r"row 1: 'a' is \[\"x+\.\.\., expected text"),
        ([OWN | {"subset": []}], r"row 1: 'subset' is \[\], expected text"),
        ([OWN | {"id": []}], r"row 1: 'id' is \[\], expected text or a whole number"),
        (
            [OWN, OWN],
            r"row 2: its id 'p' is also that of row 1\. Expected: a pair row has the fields prompt, a, b",
        ),
    ],
)
def test_bad_pairs_name_the_row_and_the_field(rows: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(rows, source="mine")


CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "2?"},
]
SAID = [{"role": "assistant", "content": "two"}]
OTHER = [{"role": "assistant", "content": "three"}]
TALK = "User: Hi\n\nAssistant: Yes?\n\nUser: 2?"
JUDGELM = {"question_id": 3, "question_body": "q", "answer1_body": "x", "answer2_body": "y"}
VOTE = {"conversation_a": CHAT[:1] + SAID, "conversation_b": CHAT[:1] + OTHER, "winner": "tie", "turn": 1}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"prompt": "q", "chosen": "x", "rejected": "y", "subset": "hep-cpp", "id": 9},
            Pair("9", "q", "x", "y", "a", "hep-cpp"),
        ),
        ({"prompt": CHAT, "chosen": SAID, "rejected": OTHER}, Pair("1", TALK, "two", "three", "a")),
        ({"chosen": CHAT + SAID, "rejected": CHAT + OTHER}, Pair("1", TALK, "two", "three", "a")),
        (
            {"prompt": "Hi", "chosen": CHAT[:1] + SAID, "rejected": CHAT[:1] + OTHER},
            Pair("1", "Hi", "two", "three", "a"),
        ),
        (JUDGELM | {"score": [3, 9]}, Pair("1", "q", "x", "y", "b", scores=(3, 9))),
        (JUDGELM | {"text": "7 7\nBoth.", "score": [{}, {}]}, Pair("1", "q", "x", "y", "tie", scores=(7, 7))),
        (
            JUDGELM | {"score": [9, 3], "reference": {"text": "r"}},
            Pair("1", "q", "x", "y", "a", reference="r", scores=(9, 3)),
        ),
        (
            {"prompt": "q", "response 1": "x", "response 2": "y", "label": 1, "scenario": "chat"},
            Pair("1", "q", "x", "y", "b", "chat"),
        ),
        (VOTE, Pair("1", "Hi", "two", "three", "tie")),
        (
            VOTE
            | {name: CHAT + SAID for name in ("conversation_a", "conversation_b")}
            | {"winner": "model_b"},
            Pair("1", "[Turn 1]\nHi\n\n[Turn 2]\n2?", *["[Turn 1]\nYes?\n\n[Turn 2]\ntwo"] * 2, "b"),
        ),
        (
            {"question": "q", "response_A": "x", "response_B": "y", "label": "B>A", "source": "mmlu"},
            Pair("1", "q", "x", "y", "b", "mmlu"),
        ),
        (
            {"instruction": "q", "input": "i", "response1": "x", "response2": "y"}
            | {"annotator1": 2, "annotator2": 0, "annotator3": 2},
            Pair("1", "q\n\ni", "x", "y", "b", annotators=("b", "tie", "b")),
        ),
        ({"prompt": "q", "a": "x", "b": "y", "better": "tie"}, Pair("1", "q", "x", "y", "tie")),
    ],
)
def test_formats_of_benchmarks(row: dict, expected: Pair) -> None:
    assert pairs([row]) == [expected]


UNLABELLED = [
    {"input": "q", "output_1": "x", "output_2": "y"},
    {"instruction": "q", "input": "", "response1": "x", "response2": "y"},
    {"prompt": "q", "response 1": "x", "response 2": "y"},
    {"question": "q", "response_A": "x", "response_B": "y"},
    {name: VOTE[name] for name in ("conversation_a", "conversation_b")},
    {"question_body": "q", "answer1_body": "x", "answer2_body": "y"},
    {"prompt": "q", "a": "x", "b": "y"},
]


@pytest.mark.parametrize("row", UNLABELLED)
def test_rows_of_benchmarks_may_lack_labels(row: dict) -> None:
    (pair,) = pairs([row], labelled=False)
    assert pair.better is None and pair.annotators == ()
    for rejected in (None, []):
        with pytest.raises(DataError, match=r"mine has no labels \('\w+'\), .* with `smidgen judge`"):
            pairs([row], source="mine", rejected=rejected)


@pytest.mark.parametrize(
    ("row", "alone", "beside"),
    [
        ({"score": [9, 3], "score_w_reference": [2, 8]}, "a", "b"),
        ({"text": "9 3\nA.", "text_w_reference": "5 5\nBoth."}, "a", "tie"),
        ({"score": [9, 3], "text": "2 8"}, "a", "a"),
        ({"text": "nan 3"}, None, None),
        ({"score": [{}, None], "text": "4 3 2"}, None, None),
    ],
)
def test_judgelm_has_a_label_for_each_way_of_asking(row: dict, alone: str | None, beside: str | None) -> None:
    row = JUDGELM | {"reference": {"text": "r"}} | row
    assert pairs([row], labelled=False)[0].better == alone
    assert pairs([row], labelled=False, with_reference=True)[0].better == beside


@pytest.mark.parametrize("score", [[float("nan"), 3], [True, False], [1], "9 3", [1, "2"], [1, 10**400]])
@pytest.mark.parametrize("field", ["score", "score_w_reference"])
def test_scores_that_are_no_numbers_are_no_labels(field: str, score: object) -> None:
    with pytest.raises(DataError, match=rf"row 1: '{field}' is .*, expected two finite numbers"):
        pairs([JUDGELM | {field: score}], labelled=False)


def test_without_a_reference_a_row_is_refused_or_left_out() -> None:
    rows = [OWN | {"reference": "r"}, OWN | {"id": "q"}]
    fault = "row 2: 'q' has no reference answer"
    with pytest.raises(DataError, match=rf"{fault}\. Expected: .*a reference answer, or judge without"):
        pairs(rows, with_reference=True)
    rejected: list[str] = []
    assert [pair.id for pair in pairs(rows, with_reference=True, rejected=rejected)] == ["p"]
    assert rejected == [fault]


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"none of 2 rows can be judged: row 1: 'a' is \[\], .*; row 2"):
        pairs([OWN | {"a": []}] * 2, source="mine", rejected=[])
    with pytest.raises(DataError, match="mine: none of 1 rows can be judged: they contain no pair"):
        pairs([{"question": "q", "ground_truth": "g"}], source="mine")
    with pytest.raises(DataError, match=r"mine: none of 1 rows can be used: row 1: 'text' is null, expected"):
        queries([{"text": None, "intent": "x"}], source="mine", rejected=[])


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"subset": None, "index": 9}, "4"),
        ({"subset": "s", "index": None}, "4"),
        ({"id": None, "subset": "s", "index": 9}, "s/9"),
        ({"id": None, "line": 7}, "4"),
        ({"id": 0, "subset": "s", "index": 9}, "0"),
    ],
)
def test_the_id_of_a_row(row: dict, name: str) -> None:
    fields = {"prompt": "q", "a": "x", "b": "y", "better": "a"} | row
    assert [pair.id for pair in pairs([FileRow(fields, 4, "line")])] == [name]
    with pytest.raises(DataError, match=r"'index' is \{\}, expected text or a whole number"):
        pairs([OWN | {"id": None, "subset": "s", "index": {}}])


def test_a_field_called_line_is_a_field(tmp_path: Path) -> None:
    row = {name: OWN[name] for name in ("prompt", "a", "b", "better")} | {"line": 7}
    rows = read_rows(write(tmp_path / "rows.jsonl", *[json.dumps(row)] * 2))
    assert rows == [row, row] and [pair.id for pair in pairs(rows)] == ["1", "2"]


def test_an_array_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([LLMBAR, 3, LLMBAR | {"label": 9, "index": 4}], indent=2))
    with pytest.raises(DataError, match=r"json: row 2 is a JSON int, not an object\. Expected: every row"):
        read_rows(path)
    rejected: list[str] = []
    found = read_rows(path, rejected=rejected)
    assert found[0] == LLMBAR and [(row.unit, row.number) for row in found] == [("row", 1), ("row", 3)]
    with pytest.raises(DataError, match="row 3: 'label' is 9"):
        pairs(found)
    path.write_text(json.dumps([LLMBAR])[:-1])
    with pytest.raises(DataError, match=r"dataset\.json is not a JSON array of rows"):
        read_rows(path)
    path.write_text("[]")
    with pytest.raises(DataError, match=r"dataset\.json is empty"):
        read_rows(path)
    assert read_rows(write(path, json.dumps(LLMBAR))) == [LLMBAR]


def test_three_annotators_who_all_differ_make_a_tie() -> None:
    row = {"instruction": "q", "input": "", "response1": "x", "response2": "y"}
    row |= {"annotator1": 2, "annotator2": 0, "annotator3": 1}
    assert pairs([row])[0].better == "tie"


def test_one_row_may_hold_several_pairs() -> None:
    row = {"id": "r", "prompt": "q", "chosen": ["c0", "c1"], "rejected": ["r0", "r1"], "subset": "chat"}
    found = pairs([row])
    assert [(pair.id, pair.a, pair.b) for pair in found] == [
        ("r/0-0", "c0", "r0"), ("r/0-1", "c0", "r1"), ("r/1-0", "c1", "r0"), ("r/1-1", "c1", "r1"),
    ]  # fmt: skip
    assert found[1].facts == {"row": "r", "chosen": 0, "rejected": 1}
    solutions = {"question": "q", "ground_truth": "A: 3"} | {
        f"m{n}": {"is_correct": n == 1, "solution": f"s{n}"} for n in range(3)
    }
    assert [(pair.id, pair.a, pair.b) for pair in pairs([solutions])] == [
        ("1/m1>m0", "s1", "s0"), ("1/m1>m2", "s1", "s2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "x", "rejected": "y"}, "row 1: 'prompt' is missing; only lists of messages may omit it"),
        ({"chosen": CHAT + SAID, "rejected": "y"}, "must both be text or both be lists"),
        ({"chosen": [{"role": "user"}], "rejected": CHAT}, "message 1 of 'chosen' needs a 'role' and"),
        ({"prompt": "q", "chosen": ["x"], "rejected": "y"}, r"'rejected' is \"y\", expected a list of texts"),
        (VOTE | {"conversation_a": CHAT + SAID}, "ask different questions"),
        (VOTE | {"winner": "c"}, "'winner' is \"c\", expected 'model_a' or"),
        ({"question": "q", "ground_truth": "g", "m": {"solution": "s"}}, "'m' needs 'is_correct'"),
        (JUDGELM | {"score": [1, 2], "reference": [3]}, r"'reference' is \[3\], expected text"),
    ],
)
def test_bad_rows_of_benchmarks_name_the_field(row: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs([row], source="mine")


def test_bad_rows_can_be_left_out_and_counted() -> None:
    rejected: list[str] = []
    bad = [{}, OWN | {"id": "q", "a": []}, OWN, OWN | {"id": "r", "better": None}]
    assert [pair.id for pair in pairs([*bad[:1], OWN, *bad[1:]], rejected=rejected)] == ["p"]
    assert [fault.partition(":")[0] for fault in rejected] == ["row 1", "row 3", "row 4", "row 5"]
    assert rejected[-1] == "row 5: it has no label ('better')"
    assert [pair.better for pair in pairs([OWN | {"better": None}], labelled=False)] == [None]


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KNOWN = sorted({field for known in PAIR_FORMATS for field in known.fields} | {"subset", "id", "reference"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a row contains numbers or booleans")
@settings(max_examples=150)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(KNOWN), any_json, min_size=2, max_size=9), min_size=1, max_size=3
    )
)
def test_any_rows_are_pairs_or_a_clear_error(rows: list[dict]) -> None:
    try:
        found = pairs(rows, source="mine")
    except DataError as error:
        assert str(error).startswith("mine")
    else:
        assert all(pair.prompt and pair.better for pair in found)


@real_data
@pytest.mark.parametrize(
    ("name", "number", "ties"),
    [("llmbar_a", 211, 0), ("mtbench_human", 196, 0), ("pandalm_a", 485, 55), ("rmbench_chat_a", 585, 0)],
)
def test_real_files(name: str, number: int, ties: int) -> None:
    found = pairs(read_rows(REAL / "judge" / f"{name}.jsonl"))
    assert len(found) == number
    assert sum(pair.better == "tie" for pair in found) == ties


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
    with pytest.raises(ConfigError, match=f"the row limit is {limit}; expected a number above 0"):
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


def test_parquet_is_read_as_lines_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "pairs.parquet"
    rows = [OWN | {"id": "p"}, OWN | {"id": "q", "reference": None}]
    datasets.Dataset.from_list(rows).to_parquet(path)
    found = read_rows(path)
    assert [(row.unit, row.number) for row in found] == [("row", 1), ("row", 2)]
    assert pairs(found) == pairs(rows)


def test_what_is_no_file_may_be_a_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.Dataset.from_list([OWN])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train", "test"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {"test": loaded}[split])
    assert pairs(read_rows(Path("owner/name:test"))) == pairs([OWN])
    with pytest.raises(
        DataError, match="owner/name has the splits train, test; select one, such as owner/name:train"
    ):
        read_rows(Path("owner/name"))

    def missing(name: str, split: str) -> None:
        raise FileNotFoundError("no such repository")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(DataError, match="the hub has no such dataset: no such repository"):
        read_rows(Path("owner/name:test"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"needs the package datasets; install it with `pip install 'smidgen\[hub\]'`"
    ):
        read_rows(Path("owner/name:test"))
    with pytest.raises(DataError, match="there is no data file at"):
        read_rows(tmp_path / "none.jsonl")
