"""What a judge is rewarded for: consistency of both orders, and the margin of its scores."""

import pytest

from smidgen.data.types import Completion
from smidgen.tasks.judge.forms import JudgeTemplate
from smidgen.tasks.judge.judge_task import JudgeTask
from smidgen.tasks.judge.published_templates import TwoScores
from smidgen.tasks.rewards import Answered

ROWS = [{"id": "1", "prompt": "What?", "a": "right", "b": "wrong", "better": "a"}]


def group(task: JudgeTask, **texts: list[str]) -> list[Answered]:
    """Judgements of one pair in each order."""
    (samples,) = task.reward_groups(task.samples(ROWS))
    by_order = {sample.metadata["order"]: sample for sample in samples}
    return [
        Answered(by_order[order], Completion(text), task.score(by_order[order], Completion(text)))
        for order, given in texts.items()
        for text in given
    ]


def test_both_orders_of_a_pair_are_one_group():
    task = JudgeTask(TwoScores())
    groups = task.reward_groups(task.samples([*ROWS, {**ROWS[0], "id": "2"}]))
    assert [[sample.id for sample in one] for one in groups] == [["1#ab", "1#ba"], ["2#ab", "2#ba"]]


def test_consistency_is_the_share_of_the_other_order_that_agrees():
    task = JudgeTask(TwoScores())
    answers = group(task, ab=["8 2", "2 8", "5 5"], ba=["2 8", "3 8", "no", "5 5"])
    # a, b and tie against a, a, unreadable and tie
    assert task.rewards["consistency"](answers) == pytest.approx([2 / 4, 0, 1 / 4, 1 / 3, 1 / 3, 0, 1 / 3])


def test_a_single_order_agrees_with_nothing():
    task = JudgeTask(TwoScores())
    assert task.rewards["consistency"](group(task, ab=["8 2", "8 2"])) == [0, 0]


def test_the_margin_is_that_of_the_better_answer():
    task = JudgeTask(TwoScores())
    answers = group(task, ab=["8 2", "2 8", "no"], ba=["2 8", "5 5"])
    assert task.rewards["margin"](answers) == pytest.approx([0.6, -0.6, 0, 0.6, 0])


def test_a_template_without_scores_has_no_margin():
    class Bare(TwoScores):
        scale = None

    form: JudgeTemplate = Bare()
    assert set(JudgeTask(form).rewards) == {"score", "consistency"}
    assert set(JudgeTask(TwoScores()).rewards) == {"score", "consistency", "margin"}
