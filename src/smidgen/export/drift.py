"""Drift: how much an export changed a model's predictions, measured on prompts.

Two models read the same tokens. At the last positions of every prompt, their next-token distributions are
compared: mean KL divergence KL(before ‖ after) in nats, the largest difference of two logits, and how often
the most probable token is the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from smidgen.backend import mx, nn
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Message
from smidgen.errors import DataError
from smidgen.export.facts import DriftFacts
from smidgen.models.graph import body, logits

MAX_PROMPTS = 32
POSITIONS = 32
"""The most prompts, and last positions of each, that are compared: 620 MB of logits for 152,000 tokens."""

PROMPTS: tuple[tuple[Message, ...], ...] = tuple(
    (Message("user", text),)
    for text in (
        "What is the capital of France, and which river runs through it?",
        "Add 17 and 25, then take away 9. Show each step.",
        "Which answer is better, and why? Question: How do I boil an egg? A: In hot water. B: Put it into "
        "boiling water for eight minutes, then cool it.",
        "Translate into German: The train leaves at seven, so be at the station early.",
        "Write a Python function that returns the n-th Fibonacci number.",
        'Reply with JSON only: {"intent": ..., "city": ...} for "book me a table in Lisbon tonight".',
        "Summarise in one sentence: The survey found that most people walk to work when it is dry, take the "
        "bus when it rains, and stay at home when it snows.",
        "Explica en dos frases por qué el cielo es azul.",
        "请用一句话介绍一下长城。",
        "A shop sells pens at 3 for 2 euros. What do 12 pens cost? Put the result into \\boxed{}.",
        "Remember that my sister's birthday is on the fourth of May.",
        "Name three metals, one to a line, in alphabetical order.",
    )
)
"""The default prompts."""
OWN_PROMPTS = "prompts of smidgen's own"


@dataclass(frozen=True)
class Drift:
    """The comparison of two models.

    Attributes:
        mean_kl: KL divergence in nats, averaged over the positions.
        max_logit_difference: the largest difference of two logits, of any token at any position.
        same_top: share of the positions at which the most probable token is the same.
        prompts: number of prompts.
        positions: number of positions that were compared.
    """

    mean_kl: float
    max_logit_difference: float
    same_top: float
    prompts: int
    positions: int


def token_rows(
    tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]] | None, context: int | None
) -> list[list[int]]:
    """Return the token ids of the prompts, at most `MAX_PROMPTS` of them, evenly spaced.

    Args:
        tokenizer: the model's tokenizer; without a chat template, only the contents are encoded.
        prompts: conversations; one that ends with an assistant message includes that message. None for
            `PROMPTS`.
        context: context length in tokens; longer prompts are truncated at the beginning.

    Raises:
        DataError: there are no prompts, or a prompt has no text or an unknown role.
    """
    chosen = PROMPTS if prompts is None else prompts
    if not chosen:
        raise DataError("there are no prompts to compare the models on; pass at least one")
    rows = []
    for index in np.linspace(0, len(chosen) - 1, min(len(chosen), MAX_PROMPTS)).astype(int):
        messages = tuple(chosen[index])
        if tokenizer.has_template:
            ids = tokenizer.render_prompt(messages)
        else:
            ids = tokenizer.encode("\n".join(message.content for message in messages))
        if not ids:
            raise DataError(f"prompt {index + 1} has no text to compare the models on; remove it")
        rows.append(ids[-context:] if context else ids)
    return rows


def last_logits(model: nn.Module, rows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
    """Yield the logits (P, V), float32, at the last positions of each row."""
    for ids in rows:
        hidden = body(model)(mx.array([ids], mx.int32))[0, -POSITIONS:]
        yield np.array(logits(model, hidden).astype(mx.float32))


def compare(before: Sequence[np.ndarray], after: Iterator[np.ndarray]) -> Drift:
    """Compare the logits of two models for the same rows, as `last_logits` yields them."""
    divergence, difference, same, positions = 0.0, 0.0, 0, 0
    for first, second in zip(before, after, strict=True):
        log_p, log_q = log_softmax(first, axis=-1), log_softmax(second, axis=-1)
        divergence += float((np.exp(log_p) * (log_p - log_q)).sum(dtype=np.float64))
        difference = max(difference, float(np.abs(first - second).max()))
        same += int((first.argmax(-1) == second.argmax(-1)).sum())
        positions += len(first)
    return Drift(divergence / positions, difference, same / positions, len(before), positions)


def describe(drift: Drift, asked: str = OWN_PROMPTS) -> DriftFacts:
    """Return a comparison as facts to report; a divergence that rounding made negative becomes zero.

    Args:
        drift: the comparison.
        asked: what the prompts are, as it follows their number: `prompts of smidgen's own`.
    """
    return DriftFacts(
        asked=asked,
        mean_kl=max(drift.mean_kl, 0.0),
        max_logit_difference=drift.max_logit_difference,
        same_top=drift.same_top,
        prompts=drift.prompts,
        positions=drift.positions,
    )


def in_words(drift: Mapping[str, Any]) -> str:
    """Return the JSON of `DriftFacts` as a clause; missing values are left out."""
    clauses = [f"{drift['mean_kl']:.2g} nats on average"]
    if "max_logit_difference" in drift:
        clauses.append(f"logits by {drift['max_logit_difference']:.2g} at most")
    if "same_top" in drift:
        clauses.append(f"the same first choice at {drift['same_top']:.1%} of {drift['positions']} positions")
    return f"on {drift['prompts']} {drift['asked']}: {', '.join(clauses)}"
