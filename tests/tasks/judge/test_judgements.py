"""Metrics of judgements against other implementations and against judges whose worth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.types import Completion, Record, Sample
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import JudgeTask
from smidgen.tasks.judge.grade import Grade
from smidgen.tasks.judge.judgements import CLASSES, kappa, macro_scores, read_judgements
from smidgen.tasks.templates import FORMS, Literals, TwoScores

LETTERS = {"first": "[[A]]", "second": "[[B]]", "tie": "[[C]]", None: "?"}
labels = st.lists(st.sampled_from(["a", "b", "tie"]), min_size=2, max_size=12)


def rows(better: list[str]) -> list[dict]:
    return [
        {"prompt": f"{n}?", "a": "x" * (1 + n % 3), "b": "yy", "better": label}
        for n, label in enumerate(better)
    ]


def judged(task: JudgeTask, samples: list[Sample], text) -> list[Record]:
    completions = [Completion(text(sample)) for sample in samples]
    return [Record(s, c, task.score(s, c)) for s, c in zip(samples, completions, strict=True)]


def values(task: JudgeTask, records: list[Record]) -> dict[str, float | None]:
    return {name: measure(metric).value for name, metric in task.measures(records).items()}


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "tie"]), st.sampled_from(["a", "b", "tie"])), min_size=3)
)
def test_classes_against_scikit_learn(said: list[tuple[str, str]]):
    from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support  # slow to import

    truth, predicted = (np.array([CLASSES[pair[side]] for pair in said]) for side in (0, 1))
    weights = np.arange(1.0, len(said) + 1)
    expected = precision_recall_fscore_support(
        truth, predicted, average="macro", zero_division=0, sample_weight=weights
    )
    assert macro_scores(truth, predicted, weights) == pytest.approx(expected[:3])
    found, reference = kappa(truth, predicted, weights), None
    if len({*truth, *predicted}) > 1:
        reference = cohen_kappa_score(truth, predicted, sample_weight=weights)
        assert found == pytest.approx(reference)
    else:
        assert np.isnan(found)


def test_ties_are_a_label():
    task = JudgeTask(Literals())
    better = ["a", "tie", "b", "tie", "tie"]
    found = values(task, judged(task, task.samples(rows(better)), lambda s: LETTERS[s.metadata["better"]]))
    assert found["accuracy"] == found["kappa"] == found["macro_f1"] == found["consistency"] == 1.0
    assert found["tie_rate"] == 0.6
    assert "kappa" not in values(task, judged(task, task.samples(rows(["a", "b"])), lambda s: "[[A]]"))
    baselines = {name: measure(m).value for name, m in task.baselines(task.samples(rows(better))).items()}
    assert baselines["random"] == pytest.approx(0.2) and baselines["longer_without_ties"] is not None


def test_a_judge_with_known_biases():
    """Of four pairs: right in both orders, first in both, second in both, first once and unreadable once."""
    task = JudgeTask(Literals())
    texts = {
        "1#ab": "A",
        "1#ba": "B",
        "2#ab": "A",
        "2#ba": "A",
        "3#ab": "B",
        "3#ba": "B",
        "4#ab": "A",
        "4#ba": "?",
    }
    records = judged(task, task.samples(rows(["a"] * 4)), lambda s: f"[[{texts[s.id]}]]")
    found = values(task, records)
    assert found["accuracy"] == 5 / 8
    assert (found["accuracy_both_orders"], found["consistency"]) == (1 / 4, 1 / 4)
    assert found["prefer_first_rate"] == pytest.approx(4 / 7)
    assert found["prefer_second_rate"] == pytest.approx(3 / 7)
    assert (found["delta_bias"], found["total_bias"]) == (1 / 4, 3 / 4)
    assert found["unparsed_rate"] == 1 / 8


def test_length():
    task = JudgeTask(TwoScores())
    samples = task.samples(rows(["a", "b", "a", "a", "b", "b"]))
    lengths = {sample.id: sample.metadata["characters"] for sample in samples}

    def text(sample: Sample) -> str:
        """Prefer the longer answer, by as much as it is longer."""
        a, b = lengths[sample.id]
        first, second = (a, b) if sample.metadata["order"] == "ab" else (b, a)
        return f"{first} {second}"

    found = values(task, judged(task, samples, text))
    assert found["accuracy_longer_better"] == 1.0 and found["accuracy_shorter_better"] == 0.0
    assert found["length_correlation"] == pytest.approx(1.0)


def test_the_correlation_with_length_against_scipy():
    task, random = JudgeTask(TwoScores()), np.random.default_rng(0)
    samples = task.samples(
        [{"prompt": f"{n}", "a": "x" * random.integers(1, 9), "b": "yyyy", "better": "a"} for n in range(20)]
    )
    scores = {sample.id: random.integers(1, 10, 2) for sample in samples}
    found = values(task, judged(task, samples, lambda s: "{} {}".format(*scores[s.id])))
    signs = [1 if sample.metadata["order"] == "ab" else -1 for sample in samples]
    gaps = [sign * (scores[s.id][0] - scores[s.id][1]) for sign, s in zip(signs, samples, strict=True)]
    lengths = [s.metadata["characters"][0] - s.metadata["characters"][1] for s in samples]
    assert found["length_correlation"] == pytest.approx(np.corrcoef(gaps, lengths)[0, 1])


def test_an_answer_of_several_pairs_is_graded_once():
    """Of one right and three wrong answers: four grades, three pairs; and of two solutions and one, three."""
    task = JudgeTask(Grade())
    row = {"id": "r", "prompt": "q", "chosen": ["right"], "rejected": ["x", "long wrong", "y"], "subset": "s"}
    samples = task.samples([row])
    assert [sample.id for sample in samples] == ["r/0#a", "r/0#b", "r/1#b", "r/2#b"]
    grades = dict(zip([sample.id for sample in samples], ["4", "4", "2", "?"], strict=True))
    found = read_judgements(judged(task, samples, lambda s: f"[RESULT] {grades[s.id]}"), task.form)
    assert [(j.pair, j.verdict, j.longer, j.facts["rejected"]) for j in found] == [
        ("r/0-0", "tie", 4, 0), ("r/0-1", "a", -5, 1), ("r/0-2", None, 4, 2),
    ]  # fmt: skip
    assert {name: m.value for name, m in ((n, measure(v)) for n, v in task.baselines(samples).items())} == {
        "longer": pytest.approx(2 / 3), "random": 0.5,
    }  # fmt: skip
    solutions = {"index": 5, "question": "q", "ground_truth": "g"} | {
        f"m{n}": {"is_correct": n != 1, "solution": f"s{n}"} for n in range(3)
    }
    asked = task.samples([solutions])
    assert [sample.id for sample in asked] == ["1/m0#a", "1/m1#b", "1/m2#a"]
    assert [sample.metadata["subset"] for sample in asked] == [None] * 3


def test_grading_each_answer_alone():
    task = JudgeTask(Grade())
    samples = task.samples(rows(["a", "b", "tie"]))
    assert [sample.id for sample in samples] == ["1#a", "1#b", "2#a", "2#b", "3#a", "3#b"]
    grades = dict(zip([sample.id for sample in samples], [4, 2, 5, 3, 3, 3], strict=True))
    records = judged(task, samples, lambda s: f"[RESULT] {grades[s.id]}")
    found = values(task, records)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert "consistency" not in found and "prefer_first_rate" not in found
    assert [record.score.answer for record in records] == ["4", "2", "5", "3", "3", "3"]
    records[0] = judged(task, samples[:1], lambda s: "good")[0]
    assert values(task, records)["unparsed_rate"] == pytest.approx(1 / 3)


def test_agreement_with_each_person():
    task = JudgeTask(Literals())
    row = {"instruction": "q", "input": "", "response1": "x", "response2": "y"}
    people = [(1, 1, 2), (2, 2, 2), (0, 0, 1), (1, 0, 1)]
    asked = [row | {f"annotator{n + 1}": said for n, said in enumerate(votes)} for votes in people]
    found = values(task, judged(task, task.samples(asked), lambda s: LETTERS[s.metadata["better"]]))
    assert found["accuracy"] == 1.0
    assert [found[f"agreement_annotator{n}"] for n in (1, 2, 3)] == [1.0, 0.75, 0.5]
    assert found["kappa_annotator1"] == 1.0


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("rubric", "verdict", "scores")])
def test_a_template_without_bare_verdicts_is_not_trained(name: str):
    with pytest.raises(
        ConfigError, match=f"a judge cannot be trained with the template {name}, which has no"
    ):
        JudgeTask(FORMS[name](), reference=True).training_samples(rows(["a"]))


def test_labels_alone_are_learnt_in_both_orders():
    task = JudgeTask(Literals())
    samples = task.training_samples(rows(["a", "b", "tie"]))
    assert [sample.target for sample in samples] == ["[[A]]", "[[B]]", "[[B]]", "[[A]]", "[[C]]", "[[C]]"]
    assert all(task.score(sample, Completion(sample.target or "")).value == 1.0 for sample in samples)


def test_scores_are_learnt_in_both_orders():
    task = JudgeTask(TwoScores())
    graded = [
        row | {"scores": scores} for row, scores in zip(rows(["a", "tie"]), ([8.5, 3], [5, 5]), strict=True)
    ]
    samples = task.training_samples(graded)
    assert [sample.target for sample in samples] == ["8.5 3", "3 8.5", "5 5", "5 5"]
    assert all(task.score(sample, Completion(sample.target or "")).value == 1.0 for sample in samples)

    body = {"question_body": "q", "answer1_body": "x", "answer2_body": "y"}
    judgelm = body | {"score": [9, 2], "score_w_reference": [1, 7], "reference": {"text": "r"}}
    assert [sample.target for sample in task.training_samples([judgelm])] == ["9 2", "2 9"]
    beside = JudgeTask(TwoScores(), reference=True)
    assert [sample.target for sample in beside.training_samples([judgelm])] == ["1 7", "7 1"]
    dropping = JudgeTask(TwoScores(), reference=True, reference_drop=0.999)
    assert [sample.target for sample in dropping.training_samples([judgelm])] == ["9 2", "2 9"]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "the pair '1' has no scores; training with the template scores needs 'scores', two numbers"),
        ([11, 2], "the scores 11 2 of the pair '1' cannot be learnt"),
        ([2, 8], r"the pair '1' has the scores \[2.0, 8.0\], but 'better' is 'a'; they must agree"),
    ],
)
def test_scores_that_cannot_be_learnt_are_refused(scores: list[int] | None, message: str):
    with pytest.raises(DataError, match=message):
        JudgeTask(TwoScores()).training_samples([rows(["a"])[0] | {"scores": scores}])


def test_a_reference_is_shown_only_when_asked_for():
    row = {"prompt": "q", "a": "x", "b": "y", "better": "a", "reference": "the truth"}
    assert "the truth" not in JudgeTask(TwoScores()).samples([row])[0].messages[1].content
    shown = JudgeTask(TwoScores(), reference=True)
    assert "the truth" in shown.samples([row])[0].messages[1].content
    assert shown.variant == "scores with reference"
    with pytest.raises(DataError, match="'1' has no reference answer"):
        shown.samples(rows(["a"]))
