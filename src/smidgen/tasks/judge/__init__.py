"""The judge: which of two answers is better, asked in both orders, or how good one is."""

from smidgen.tasks.judge.task import JudgeTask
from smidgen.tasks.judge.templates import FORMS, Rubric, find_form

__all__ = ["FORMS", "JudgeTask", "Rubric", "find_form"]
