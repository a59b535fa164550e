"""The judge: which of two answers is better, asked in both orders, or how good one is."""

from smidgen.tasks.judge.task import JudgeTask

__all__ = ["JudgeTask"]
