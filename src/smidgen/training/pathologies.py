"""What goes wrong in training on rewards, named while it happens.

Every sentence says what is wrong and what to do. Some faults end the training, since nothing good can follow;
the others are told once for as long as they last.
"""

from collections import deque
from collections.abc import Callable, Mapping

from smidgen.config import GrpoConfig
from smidgen.data.types import StepResult
from smidgen.errors import WorkError

WINDOW = 10
"""Steps that a fault lasts before it is told."""
MOSTLY = 0.9
OFTEN = 0.5
COLLAPSED = 0.01
"""Entropy in nats per token, below which answers hardly differ."""

EXPLODED = 3.0
"""Entropy in nats per token, above which answers are close to noise: twenty tokens equally probable."""

Figures = Mapping[str, float]


class Pathologies:
    """Watches the figures of a training on rewards."""

    def __init__(self, config: GrpoConfig) -> None:
        self._config = config
        self._window: deque[Figures] = deque(maxlen=WINDOW)
        self._told: set[str] = set()

    def of_step(self, result: StepResult) -> list[str]:
        """Return what is worth telling after a step.

        Raises:
            WorkError: the policy has run away, or sampling and training disagree.
        """
        figures = result.metrics
        self._refuse(result.step, figures)
        self._window.append(figures)
        if len(self._window) < WINDOW:
            return []
        found = {name: says(self._means()) for name, says in self._faults().items()}
        sentences = [said for name, said in found.items() if said and name not in self._told]
        self._told = {name for name, said in found.items() if said}
        return sentences

    def _refuse(self, step: int, figures: Figures) -> None:
        config, resume = (
            self._config,
            "go on from the checkpoint with `smidgen train RECIPE --from-checkpoint`",
        )
        if (gap := figures.get("engine_gap", 0.0)) > config.max_engine_gap:
            raise WorkError(
                f"step {step}: the log-probabilities of the answers in training differ from those at "
                f"sampling by {gap:.3g} nats per token, more than max_engine_gap "
                f"({config.max_engine_gap:g}), so the training would not be on its own answers; use a "
                f"model in higher precision, or raise the limit and {resume}"
            )
        if (kl := figures.get("kl", 0.0)) > config.max_kl:
            raise WorkError(
                f"step {step}: the divergence has exploded: it is {kl:.3g} nats per token, more than max_kl "
                f"({config.max_kl:g}); lower train.learning_rate, now {config.learning_rate:g}, and {resume}"
            )

    def _means(self) -> Figures:
        names = set.intersection(*(set(figures) for figures in self._window))
        return {name: sum(one[name] for one in self._window) / len(self._window) for name in names}

    def _faults(self) -> Mapping[str, Callable[[Figures], str]]:
        return {
            "constant": _constant,
            "flat": _flat,
            "truncated": self._truncated,
            "collapsed": _collapsed,
            "exploded": _exploded,
        }

    def _truncated(self, means: Figures) -> str:
        share = means["completions/clipped_ratio"]
        if share < OFTEN:
            return ""
        return (
            f"truncated answers: {share:.0%} of the answers of the last {WINDOW} steps were cut off at "
            f"{self._config.max_completion_length} tokens; raise max_completion_length, or add length_penalty"
        )


def _constant(means: Figures) -> str:
    if means["reward_std"] > 1e-6:
        return ""
    return (
        f"constant reward: every answer of the last {WINDOW} steps got {means['reward']:.4g}, so nothing is "
        "learnt; give the prompts that the model sometimes solves, or another reward"
    )


def _flat(means: Figures) -> str:
    share = means["frac_reward_zero_std"]
    if share < MOSTLY or means["reward_std"] <= 1e-6:
        return ""
    return (
        f"groups without variance: in {share:.0%} of the groups of the last {WINDOW} steps all answers got "
        "the same reward, so little is learnt; raise temperature or num_generations, set resample, or give "
        "prompts of medium difficulty"
    )


def _exploded(means: Figures) -> str:
    if means["entropy"] < EXPLODED:
        return ""
    return (
        f"exploded entropy: {means['entropy']:.2g} nats per token over the last {WINDOW} steps, so the "
        "answers are close to noise; lower train.learning_rate, or set beta"
    )


def _collapsed(means: Figures) -> str:
    if means["entropy"] > COLLAPSED:
        return ""
    return (
        f"collapsed entropy: {means['entropy']:.2g} nats per token over the last {WINDOW} steps, so the "
        "answers hardly differ; lower train.learning_rate, raise temperature or set beta"
    )
