"""The judges of an ensemble, how often they are asked, and the rows that it is calibrated with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smidgen.data.formats import pairs
from smidgen.errors import ConfigError, DataError
from smidgen.evaluation.candidates import check_times
from smidgen.files import sha256_json
from smidgen.options import EngineOptions
from smidgen.pipeline.sources import EvaluationRows
from smidgen.tasks.judge.combination import Method
from smidgen.tasks.judge.saved_ensemble import SavedEnsemble


@dataclass(frozen=True)
class EnsemblePlan:
    """Which judges are asked how often, and what is made of their judgements.

    Attributes:
        judges: engine options of each judge.
        samples: judgements per order of each.
        combine: `majority`, or `mean` with weights fitted to the calibration rows.
        risk: highest share of wrong verdicts; None for a verdict on every pair.
        delta: highest probability of a higher risk.
        saved: a calibrated ensemble, instead of calibrating one.
    """

    judges: Sequence[EngineOptions]
    samples: int = 1
    combine: Method = "majority"
    risk: float | None = None
    delta: float = 0.1
    saved: SavedEnsemble | None = None

    def check(self, *, calibrated: bool, temperature: float) -> None:
        """Check the settings, before a model is loaded.

        Args:
            calibrated: whether there are calibration rows.
            temperature: of the samples.

        Raises:
            ConfigError: one is out of range, or calibration rows are missing or unused.
        """
        check_times(self.samples, temperature)
        for name, value in (("risk", self.risk), ("delta", self.delta)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} is {value}; expected a share between 0 and 1, such as 0.1")
        if self.saved is not None:
            return
        if not calibrated and (self.combine == "mean" or self.risk is not None):
            what = "a risk is chosen" if self.risk is not None else "the judges are weighed"
            raise ConfigError(
                f"{what} on calibration rows, and there are none; give --calibrate a file of labelled pairs, "
                "or the share of --data to use, such as 0.5"
            )
        if calibrated and self.combine == "majority" and self.risk is None:
            raise ConfigError(
                "a majority without a risk has nothing to calibrate; leave --calibrate out, or give --risk "
                "or --combine mean"
            )


def share_of_rows(rows: EvaluationRows, share: float, seed: int) -> tuple[EvaluationRows, EvaluationRows]:
    """Divide rows into those to report on and those to calibrate with, whole prompts together, at random.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: there are too few prompts for it.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the calibration share is {share}; expected one between 0 and 1, such as 0.5")
    prompts = sorted({sample.metadata["cluster"] for sample in rows.samples})
    number = round(share * len(prompts))
    if not 0 < number < len(prompts):
        raise DataError(
            f"{rows.source} has {len(prompts)} prompts, of which {share:g} are {number}; expected at least "
            "one to calibrate with and one to report on"
        )
    chosen = set(random.Random(f"calibration/{seed}").sample(prompts, number))
    parts = [
        replace(rows, samples=[s for s in rows.samples if (s.metadata["cluster"] in chosen) == is_chosen])
        for is_chosen in (False, True)
    ]
    return parts[0], parts[1]


def refuse_shared_prompts(rows: EvaluationRows, calibration_rows: EvaluationRows) -> None:
    """Refuse calibration rows whose prompts are reported on.

    Raises:
        DataError: there is one.
    """
    both = (rows, calibration_rows)
    asked, used = ({_plain(prompt) for prompt in _prompts(each).values()} for each in both)
    if shared := asked & used:
        raise DataError(
            f"{len(shared)} prompts of {calibration_rows.source} are also in {rows.source}, beginning with "
            f"'{min(shared)[:60]}'; calibrate with pairs that are not reported on, or give --calibrate a "
            "share"
        )


def prompt_hashes(rows: EvaluationRows) -> dict[str, str]:
    """Return twelve hex digits of the prompt of each pair, by its id."""
    return {pair: sha256_json(_plain(prompt))[:12] for pair, prompt in _prompts(rows).items()}


def not_calibrated_on(rows: EvaluationRows, saved: SavedEnsemble) -> EvaluationRows:
    """Return rows without those whose prompts a saved ensemble was calibrated on.

    Raises:
        DataError: there are no others.
    """
    used = set(saved.calibration.prompts) if saved.calibration is not None else set()
    hashes = prompt_hashes(rows)
    samples = [sample for sample in rows.samples if hashes[sample.metadata["pair"]] not in used]
    if not samples:
        raise DataError(
            f"the ensemble was calibrated on every prompt of {rows.source}; evaluate it on other pairs"
        )
    return replace(rows, samples=samples)


def _prompts(rows: EvaluationRows) -> dict[str, str]:
    """Return the prompts of the samples' pairs, by their ids."""
    found = {pair.id: pair.prompt for pair in pairs(rows.rows, rejected=[])}
    return {name: found[name] for name in dict.fromkeys(s.metadata["pair"] for s in rows.samples)}


def _plain(prompt: str) -> str:
    """Return a prompt without differences of case and spaces."""
    return " ".join(prompt.casefold().split())
