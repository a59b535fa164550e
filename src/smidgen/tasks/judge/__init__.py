"""The judge task: compare two answers in both orders, or grade one answer."""

from smidgen.tasks.judge.judge_task import JudgeTask

__all__ = ["JudgeTask"]
