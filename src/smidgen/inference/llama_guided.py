"""Constrained answers of llama.cpp in as few passes as they have choices.

llama.cpp enforces a grammar token by token, and runs a pass even for a token without an alternative. Here
the constraint is followed outside of it: what is forced is appended to the prompt, where it costs next to
nothing, and llama.cpp is asked only for the tokens that are chosen, one at a time, with a bias on those
allowed. A decision such as `{"decision":"SKIP"}` takes one pass instead of six.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from smidgen.errors import SmidgenError
from smidgen.inference.constraints import Guide, Guides
from smidgen.inference.llama_row import LlamaRow

MOST_CHOICES = 256
"""Most tokens to choose from that are given as biases; a wider choice is left to llama.cpp."""

Ask = Callable[[list[int], list[int], int], dict[str, Any]]
"""Asks for one token, given the answer so far, the ids allowed next, and how many were chosen before."""


def begin_guide(row: LlamaRow, guides: Guides) -> Guide | None:
    """Return the guide of a row's constraint; None if llama.cpp has to enforce it.

    llama.cpp reports no log-probability of what is in a prompt, and applies a repetition penalty after a
    bias.
    """
    request = row.request
    scores_forced = request.logprobs and (request.forced_logprobs or request.top_logprobs)
    if request.constraint is None or scores_forced or row.submitted.stream:
        return None
    if request.sampling.repetition_penalty != 1:
        return None
    try:
        return guides.begin(request.constraint)
    except SmidgenError:  # a tokenizer that llguidance cannot read, or a text that it cannot write
        return None


def follow(guide: Guide, row: LlamaRow, ask: Ask, ends: frozenset[int]) -> bool:
    """Run a row to its end; return False, with the row as it was, if there is too much to choose from.

    Args:
        guide: the guide of its constraint, at the beginning.
        row: a row without an answer.
        ask: asks llama.cpp for a token.
        ends: end tokens.

    Raises:
        ConfigError: the constraint cannot be followed.
    """
    token_ids: list[int] = []
    logprobs: list[float] = []
    times: list[dict[str, float]] = []
    is_over = False
    while not is_over and not row.is_cancelled:
        token_ids += guide.force(row.max_tokens - len(token_ids))
        logprobs += [0.0] * (len(token_ids) - len(logprobs))
        if guide.is_complete or len(token_ids) >= row.max_tokens:
            break
        allowed = np.flatnonzero(guide.allowed())
        if len(allowed) > MOST_CHOICES:
            return False
        answer = ask(token_ids, allowed.tolist(), len(times))
        times.append(answer["timings"])
        token_ids += answer["tokens"]
        logprobs += [entry["logprob"] for entry in answer.get("completion_probabilities", ())]
        is_over = not answer["tokens"] or token_ids[-1] in ends
        if not is_over:
            guide.take(token_ids[-1])
    row.take_guided(token_ids, logprobs, times, ends, is_over=is_over or guide.is_complete)
    return True
