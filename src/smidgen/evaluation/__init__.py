"""Evaluation of models on tasks: metrics with intervals, paired comparisons and reports."""

from smidgen.evaluation.collect import Evaluation, collect_log, collect_records, evaluate, measured, summarise
from smidgen.evaluation.comparison import Comparison, compare, compare_resistance
from smidgen.evaluation.metrics import McNemar, Measured, mcnemar, measure, paired_difference, wilson
from smidgen.evaluation.records import read_log, read_records
from smidgen.evaluation.speed import Speed, measure_speed

__all__ = [
    "Comparison",
    "Evaluation",
    "McNemar",
    "Measured",
    "Speed",
    "collect_log",
    "collect_records",
    "compare",
    "compare_resistance",
    "evaluate",
    "mcnemar",
    "measure",
    "measure_speed",
    "measured",
    "paired_difference",
    "read_log",
    "read_records",
    "summarise",
    "wilson",
]
