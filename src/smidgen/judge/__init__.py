"""The judge as a Python API: compare two answers, grade one, rank several, or judge a file of pairs.

    from smidgen import EngineOptions, Judge

    with Judge(EngineOptions("smidgen:nano", adapter="runs/nano-judge/best")) as judge:
        found = judge.compare("What is 2 + 2?", "It is 4.", "It is 5.")
        print(found.verdict, found.consistent, found.scores)
        pairs = judge.judge_rows("pairs.jsonl", "judgements.jsonl").verdicts()

Every pair is judged in both orders. With `samples` above 1, each order is sampled that many times and the
majority decides; `tokens` and `seconds` report the cost. Several judges are an `Ensemble`; one that was
calibrated, and may abstain, comes from `load_ensemble`.
"""

from smidgen.judge.ensemble import Combined, CombinedPair, Ensemble, EnsembleCompared, load_ensemble
from smidgen.judge.judging import Judge
from smidgen.judge.results import Compared, Graded, Ranked, Said
from smidgen.judge.row_judgements import JudgedPair, RowJudgements

__all__ = [
    "Combined",
    "CombinedPair",
    "Compared",
    "Ensemble",
    "EnsembleCompared",
    "Graded",
    "Judge",
    "JudgedPair",
    "Ranked",
    "RowJudgements",
    "Said",
    "load_ensemble",
]
