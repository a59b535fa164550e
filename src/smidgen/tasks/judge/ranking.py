"""Strengths of several answers from judgements of their pairs, by the Bradley–Terry model (1952)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

NORMAL_95 = 1.96
"""Half-width of a 95 % interval in standard errors."""
PRIOR = 0.1
"""Pseudo-wins added to both sides of every pair, so that an unbeaten answer has a finite strength."""
STEPS = 500


@dataclass(frozen=True)
class Strength:
    """The strength of one answer.

    Attributes:
        answer: its index in the input.
        strength: log-odds of being preferred to an average answer; the mean over all answers is 0.
        low: lower bound of its 95 % interval.
        high: upper bound.
        wins: results in its favour; a tie counts half.
        results: number of results that it was part of.
    """

    answer: int
    strength: float
    low: float
    high: float
    wins: float
    results: int


def rank(number: int, results: Sequence[tuple[int, int, float]]) -> list[Strength]:
    """Rank answers by pairwise results, the strongest first.

    The intervals are based on the Fisher information at the maximum of the likelihood: with few results, most
    of them one-sided, a bootstrap would be meaningless.

    Args:
        number: number of answers.
        results: (first, second, share): the share of the point won by `first` against `second`, from 0 to 1.
            Results are assumed independent, so dependent ones must be combined into one result.
    """
    points = np.array(results, dtype=np.float64).reshape(-1, 3)
    wins = _wins(number, points)
    fitted = strengths(wins)
    reach = NORMAL_95 * _errors(fitted, wins) if len(points) else np.zeros(number)
    low, high = fitted - reach, fitted + reach
    places = [
        Strength(
            answer,
            float(fitted[answer]),
            float(low[answer]),
            float(high[answer]),
            float(wins[answer].sum()),
            int(np.isin(points[:, :2], answer).sum()),
        )
        for answer in range(number)
    ]
    return sorted(places, key=lambda place: -place.strength)


def _errors(fitted: NDArray[np.float64], wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard errors (N,) of strengths with mean 0, from the Fisher information of the games (N, N)."""
    games = wins + wins.T + 2 * PRIOR * (1 - np.eye(len(fitted)))
    odds = expit(fitted[:, None] - fitted[None, :])
    weights = games * odds * (1 - odds)
    information = np.diag(weights.sum(1)) - weights
    return np.sqrt(np.diag(np.linalg.pinv(information)).clip(0))


def strengths(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit log-strengths (…, N) to wins (…, N, N) of row over column, by minorisation (Hunter 2004)."""
    number = wins.shape[-1]
    wins = wins + PRIOR * (1 - np.eye(number))
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    worth = np.ones(won.shape)
    for _ in range(STEPS if number > 1 else 0):
        after = won / (games / (worth[..., :, None] + worth[..., None, :])).sum(-1)
        after /= np.exp(np.log(after).mean(-1, keepdims=True))
        settled = np.allclose(after, worth, rtol=1e-9)
        worth = after
        if settled:
            break
    return np.log(worth)


def _wins(number: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
    wins = np.zeros((number, number))
    first, second = points[:, 0].astype(int), points[:, 1].astype(int)
    np.add.at(wins, (first, second), points[:, 2])
    np.add.at(wins, (second, first), 1 - points[:, 2])
    return wins
