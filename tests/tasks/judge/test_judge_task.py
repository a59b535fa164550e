import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.rows import read_rows
from smidgen.data.types import Completion, Record, Sample
from smidgen.errors import DataError, ParseError
from smidgen.evaluation.metrics import measure
from smidgen.tasks.judge.forms import Fault, JudgeParseError
from smidgen.tasks.judge.gold import gold_completion
from smidgen.tasks.judge.judge_task import JudgeTask
from smidgen.tasks.judge.quotations import is_quoted
from smidgen.tasks.judge.rubric import SYSTEM, Rubric
from smidgen.tasks.measures import Measure

LLMBAR = Path(__file__).parents[4] / "shared" / "data" / "judge" / "llmbar_a.jsonl"
GOLD = {
    "criteria": ["Right number", "Clear words"],
    "analysis": {"ab": "Response A is right.", "ba": "Response B is right."},
    "scores": [9, 2],
}
ROW = {"id": "p", "prompt": "1 + 1?", "a": "2", "b": "It is three.", "better": "a", "subset": "sum", **GOLD}


def read_scores(text: str) -> tuple[float | None, float | None]:
    return Rubric().parse(text)[1:]


def read_scores_leniently(text: str) -> tuple[float | None, float | None]:
    return Rubric().parse_leniently(text)[1:]


prose = st.text(max_size=60).filter(lambda text: "<" not in text and text.strip())
unquoted = prose.filter(lambda text: not is_quoted(text, len(text)))
grades = st.integers(1, 10)


def rows(number: int) -> list[dict]:
    return [ROW | {"id": f"p{n}", "prompt": f"{n} + 1?", "better": "ab"[n % 2]} for n in range(number)]


def verdict(first: float, second: float) -> str:
    return f"<scores>\\boxed{{{first}, {second}}}</scores>"


def judged(samples: list[Sample], text) -> list[Record]:
    """Records of a judge that writes `text(sample)`."""
    completions = [Completion(text(sample)) for sample in samples]
    return [
        Record(sample, completion, JudgeTask().score(sample, completion))
        for sample, completion in zip(samples, completions, strict=True)
    ]


def right(sample: Sample) -> str:
    return verdict(9, 2) if sample.metadata["better"] == "first" else verdict(2, 9)


def wrong(sample: Sample) -> str:
    return verdict(2, 9) if sample.metadata["better"] == "first" else verdict(9, 2)


def values(records: list[Record]) -> dict[str, float | None]:
    return {name: measure(metric).value for name, metric in JudgeTask().measures(records).items()}


# --- the text ---


@given(st.lists(unquoted, min_size=1, max_size=1), unquoted, grades, grades)
def test_gold_is_read_back(criteria: list[str], analysis: str, a: int, b: int) -> None:
    assert read_scores(gold_completion(criteria, analysis, (a, b))) == (a, b)


PIECES = ["<think>", "</think>", "<scores>", "</scores>", "\\boxed{", "}", "8", "11", ", ", ".5", " ", "x"]


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_any_text_gives_scores_or_a_parse_error(text: str) -> None:
    for read in (read_scores, read_scores_leniently):
        try:
            scores = read(text)
        except ParseError as error:
            assert isinstance(error, JudgeParseError) and str(error) == error.fault
        else:
            assert all(score is not None and 1 <= score <= 10 for score in scores)


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_whatever_parses_strictly_parses_leniently_the_same(text: str) -> None:
    try:
        scores = read_scores(text)
    except JudgeParseError:
        return
    assert read_scores_leniently(text) == scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("<scores>\\boxed{8, 3}</scores>", (8, 3)),
        ("<scores>\n \\boxed { 8.5 ,3 }\n</scores> trailing", (8.5, 3)),
        ("<scores>\\boxed{{8, 3}}</scores>", (8, 3)),
        ("<scores>\\boxed{3, 4} yes, \\boxed{3, 4}</scores>", (3, 4)),
        ("<scores>\\boxed{1, 2}</scores> <scores>\\boxed{3,", (1, 2)),
        ("<scores> as in <scores>\\boxed{5, 6}</scores>", (5, 6)),
        ("<think><scores>\\boxed{1, 2}</scores></think><scores>\\boxed{3, 4}</scores>", (3, 4)),
        (
            "opened by the template <scores>\\boxed{1, 2}</scores></think><scores>\\boxed{3, 4}</scores>",
            (3, 4),
        ),
    ],
)
def test_the_whole_block_outside_of_thinking_counts(text: str, scores: tuple[float, float]) -> None:
    assert read_scores(text) == scores


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", Fault.NO_BLOCK),
        ("\\boxed{8, 3}", Fault.NO_BLOCK),
        ("</scores>\\boxed{8, 3}", Fault.NO_BLOCK),
        ("<scores>\\boxed{8, 3}", Fault.TRUNCATED),
        ("<scores>8, 3</scores>", Fault.NO_PAIR),
        ("<scores>\\boxed{8}</scores>", Fault.NO_PAIR),
        ("<scores>\\boxed{1.2.3, 4}</scores>", Fault.NO_PAIR),
        ("<scores>\\boxed{0, 4}</scores>", Fault.OUT_OF_RANGE),
        ("<scores>\\boxed{-3, 4}</scores>", Fault.OUT_OF_RANGE),
        (f"<scores>\\boxed{{{'9' * 400}, 4}}</scores>", Fault.OUT_OF_RANGE),
        ("<think><scores>\\boxed{8, 3}</scores>", Fault.ENDLESS_THINKING),
        ("<scores>\\boxed{1, 2} no, \\boxed{3, 4}</scores>", Fault.CONTRADICTION),
        ("<scores>\\boxed{1, 2}</scores> Wait. <scores>\\boxed{3, 4}</scores>", Fault.CONTRADICTION),
        ("<scores>\\boxed{3, 4}</scores><think>or <scores>\\boxed{1, 2}</scores>", Fault.CONTRADICTION),
    ],
)
def test_why_there_are_no_scores(text: str, fault: Fault) -> None:
    with pytest.raises(JudgeParseError, match=re.escape(fault.value)) as caught:
        read_scores(text)
    assert caught.value.fault is fault


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("Final: \\boxed{8, 3}", (8, 3)),
        ("A then B: 8/10, 3/10", (8, 3)),
        ("<scores>8, 3</scores>", (8, 3)),
        ("\\boxed{8, 3} out of 10, 10", (8, 3)),
    ],
)
def test_leniently_the_form_is_forgiven(text: str, scores: tuple[float, float]) -> None:
    assert read_scores_leniently(text) == scores


def test_the_system_message_is_short_and_shows_the_form() -> None:
    assert len(SYSTEM.split()) <= 60
    blocks = re.findall(r"<(\w+)>.*?</\1>", SYSTEM)
    assert blocks == ["specific_criteria", "analysis", "scores"]
    assert r"\boxed{a, b}" in SYSTEM


# --- samples ---


def test_a_pair_is_asked_in_both_orders() -> None:
    ab, ba = JudgeTask().samples([ROW])
    assert (ab.id, ba.id) == ("p#ab", "p#ba")
    assert (ab.metadata["better"], ba.metadata["better"]) == ("first", "second")
    assert ab.messages[0] == ba.messages[0]
    assert ab.messages[1].content == (
        "#### Conversation Context ####\n1 + 1?\n#### Responses to be Scored ####\n"
        "[The Begin of Response A]\n2\n[The End of Response A]\n"
        "[The Begin of Response B]\nIt is three.\n[The End of Response B]"
    )
    swapped = ROW | {"a": ROW["b"], "b": ROW["a"], "better": "b"}
    assert ba.messages == JudgeTask().samples([swapped])[0].messages


@given(prose, prose)
def test_responses_are_shown_as_they_are(a: str, b: str) -> None:
    content = JudgeTask().samples([ROW | {"a": a + "{b}", "b": b}])[0].messages[1].content
    assert f"A]\n{a}{{b}}\n[" in content and f"B]\n{b}\n[" in content


def test_pairs_with_one_prompt_share_a_cluster() -> None:
    samples = JudgeTask().samples([ROW, ROW | {"id": "q"}, ROW | {"id": "r", "prompt": "other"}])
    assert [sample.metadata["cluster"] for sample in samples] == ["p"] * 4 + ["r"] * 2


def test_training_targets_follow_the_order() -> None:
    ab, ba = JudgeTask().training_samples([ROW])
    assert ab.target == (
        "<specific_criteria>Right number; Clear words</specific_criteria>\n"
        "<analysis>Response A is right.</analysis>\n<scores>\n\\boxed{9, 2}\n</scores>"
    )
    assert ba.target and "Response B is right." in ba.target
    for sample in (ab, ba):
        assert JudgeTask().score(sample, Completion(sample.target or "")).value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": None}, r"mine: row 1: 'criteria' is None; training needs a list of texts"),
        ({"analysis": {"ab": "x"}}, r"'analysis' has no text for 'ba'; training needs one per order"),
        ({"scores": [9.5, 2]}, r"'scores' is \[9\.5, 2\]; training needs two integers"),
        ({"scores": [2, 9]}, r"'scores' is \[2, 9\] but 'better' is 'a'; they must agree"),
        ({"scores": [5, 5]}, r"they must agree"),
        ({"scores": [11, 2]}, r"row 1: .*scores \(11, 2\) would not parse: a score is out of range"),
        ({"analysis": {"ab": " ", "ba": " "}}, r"needs at least one criterion and an analysis"),
        (
            {"analysis": {"ab": "<analysis>", "ba": "<analysis>"}},
            r"would not parse: the verdict is only quoted",
        ),
    ],
)
def test_gold_that_cannot_be_learnt_is_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        JudgeTask().training_samples([ROW | change], source="mine")


def test_plain_rows_keep_what_the_rubric_is_trained_on() -> None:
    named = [row for _, row in JudgeTask().plain_rows(rows(1))]
    assert named == rows(1)
    assert JudgeTask().training_samples(named)[0].target == JudgeTask().training_samples(rows(1))[0].target
    plain = {name: value for name, value in ROW.items() if name not in GOLD}
    assert not any(name in row for _, row in JudgeTask().plain_rows([plain]) for name in GOLD)


def test_gold_of_rows_with_several_pairs_is_refused() -> None:
    several = {"prompt": "1 + 1?", "chosen": ["2", "two"], "rejected": ["3"]}
    with pytest.raises(
        DataError, match=r"mine: 1 rows contain 2 pairs, so it is unknown which pairs the gold"
    ):
        JudgeTask().plain_rows([several | GOLD], source="mine")
    assert len(JudgeTask().plain_rows([several])) == 2


# --- measures on judges whose worth is known ---


def test_a_perfect_judge() -> None:
    found = values(judged(JudgeTask().samples(rows(20)), right))
    assert found["accuracy"] == found["accuracy_both_orders"] == found["consistency"] == 1.0
    assert found["accuracy_lenient"] == 1.0 and found["prefer_first_rate"] == 0.5
    assert found["tie_rate"] == found["unparsed_rate"] == 0.0


def test_a_judge_that_always_prefers_the_first() -> None:
    found = values(judged(JudgeTask().samples(rows(20)), lambda s: verdict(9, 2)))
    assert found["accuracy"] == 0.5 and found["prefer_first_rate"] == 1.0
    assert found["consistency"] == found["accuracy_both_orders"] == 0.0


def test_a_judge_that_is_consistently_wrong_is_consistent() -> None:
    found = values(judged(JudgeTask().samples(rows(20)), wrong))
    assert found["accuracy"] == 0.0 and found["consistency"] == 1.0


@pytest.mark.parametrize(
    ("text", "rate", "consistency"), [("no idea", "unparsed_rate", 0.0), (verdict(5, 5), "tie_rate", 1.0)]
)
def test_tying_twice_is_the_same_answer_and_failing_twice_is_none(text: str, rate: str, consistency: float):
    found = values(judged(JudgeTask().samples(rows(6)), lambda s: text))
    assert found[rate] == 1.0
    assert found["accuracy"] == found["accuracy_both_orders"] == 0.0
    assert found["consistency"] == consistency
    assert found["prefer_first_rate"] is None


def test_what_does_not_parse_is_wrong_and_counted_by_reason() -> None:
    cut = "<scores>\\boxed{9"
    records = judged(JudgeTask().samples(rows(3)), lambda s: cut if s.metadata["order"] == "ab" else right(s))
    assert JudgeTask().details(records) == {"unparsed": {"the scores block is not closed": 3}}
    assert all(record.score.value == 0.0 for record in records[::2])


@pytest.mark.slow
@settings(max_examples=10)
@given(st.lists(st.sampled_from([verdict(9, 2), verdict(2, 9), verdict(5, 5), "?"]), min_size=8, max_size=8))
def test_swapping_the_data_changes_nothing(texts: list[str]) -> None:
    """The same answers to the same prompts, with a and b of every row exchanged."""
    original = rows(4)
    swapped = [row | {"a": row["b"], "b": row["a"], "better": "ab"[row["better"] == "a"]} for row in original]
    said = {sample.messages: text for sample, text in zip(JudgeTask().samples(original), texts, strict=True)}
    assert values(judged(JudgeTask().samples(original), lambda s: said[s.messages])) == values(
        judged(JudgeTask().samples(swapped), lambda s: said[s.messages])
    )


def test_baselines() -> None:
    baselines = {
        name: measure(metric) for name, metric in JudgeTask().baselines(JudgeTask().samples(rows(10))).items()
    }
    assert baselines["first"].value == baselines["first"].low == baselines["first"].high == 0.5
    assert baselines["longer"].value == 0.5  # b is longer in all, better in half
    same_length = JudgeTask().baselines(JudgeTask().samples([ROW | {"b": "3"}]))["longer"]
    assert isinstance(same_length, Measure) and list(same_length.values) == [0.5, 0.5]


def test_scores_are_shown_in_the_explanation() -> None:
    sample = JudgeTask().samples([ROW])[0]
    score = JudgeTask().score(sample, Completion(verdict(8.5, 3)))
    assert (score.value, score.answer, score.explanation) == (1.0, "first", "8.5, 3")


@pytest.mark.skipif(not LLMBAR.exists(), reason="the real data sets are not here")
def test_llmbar_baselines() -> None:
    samples = JudgeTask().samples(read_rows(LLMBAR))
    baselines = {name: measure(metric) for name, metric in JudgeTask().baselines(samples).items()}
    assert len(samples) == 422
    assert baselines["first"].value == 0.5
    longer = baselines["longer"]
    assert longer.low and longer.value and longer.high
    assert 0.2 < longer.low < longer.value < longer.high < 0.4  # LLMBar is built so that length misleads
