"""Request bodies for llama.cpp's server core."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from smidgen.data.types import Constraint, Sampling
from smidgen.inference.constraints import grammar_of
from smidgen.inference.llama_row import LlamaRow

BIAS = 1000.0
"""Added to the logits of what is allowed: more than logits differ by, and exact to 1e-4 in float32."""


def question_of(row: LlamaRow, *, context: int, slot: int, thinking: bool) -> dict[str, Any]:
    """Return the body of a completion request that continues a row.

    Args:
        row: the row, with its tokens so far and its maximum length.
        context: slot length in tokens.
        slot: number of the slot.
        thinking: whether the answer starts inside a thinking block, where `stop_after` strings do not apply.
    """
    sampling = row.request.sampling
    return {
        "prompt": row.prompt + row.token_ids,
        "max_tokens": row.max_tokens - len(row.token_ids),
        "stop": [*sampling.stop, *(() if thinking else sampling.stop_after)],
        "logprobs": max(1, row.request.top_logprobs) if row.request.logprobs else 0,
        "return_tokens": True,
        "verbose": True,
        "id_slot": slot,
        **_drawing(sampling, row.request.sample.id, context),
        **_constraining(row.request.constraint),
    }


def question_of_token(
    row: LlamaRow, token_ids: Sequence[int], allowed: Sequence[int], *, number: int, context: int, slot: int
) -> dict[str, Any]:
    """Return the body of a request for one token of an answer, out of those allowed.

    Args:
        row: the row.
        token_ids: the answer so far.
        allowed: the ids to choose from.
        number: number of tokens that were chosen before it, each with a random number of its own.
        context: slot length in tokens.
        slot: number of the slot.
    """
    name = f"{row.request.sample.id}/{number}"
    return {
        "prompt": [*row.prompt, *token_ids],
        "max_tokens": 1,
        "logit_bias": [[token_id, BIAS] for token_id in allowed],
        "logprobs": int(row.request.logprobs),
        "return_tokens": True,
        "verbose": True,
        "id_slot": slot,
        **_drawing(row.request.sampling, name, context),
    }


def _drawing(sampling: Sampling, sample_id: str, context: int) -> dict[str, Any]:
    """Return the sampling settings under llama.cpp's names, in the order in which smidgen applies them.

    Each sampler scans the whole vocabulary for every token, so only the needed ones are listed.
    """
    name = f"{sampling.seed}/{sample_id}"
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    is_greedy = sampling.temperature == 0
    penalties = ["penalties"] if sampling.repetition_penalty != 1 else []
    return {
        "samplers": penalties + (["top_k"] if is_greedy else ["temperature", "top_k", "top_p", "min_p"]),
        "temperature": sampling.temperature,
        "top_k": 1 if is_greedy else sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": context,
        "seed": int.from_bytes(digest) % (2**32 - 1),  # 2³² - 1 would mean a random seed
    }


def _constraining(constraint: Constraint | None) -> dict[str, str]:
    """Return a constraint as llama.cpp passes it to llguidance, which the engine `mlx` uses too."""
    if constraint is None:
        return {}
    grammar = grammar_of(constraint)
    if grammar.startswith("{"):
        (part,) = json.loads(grammar)["grammars"]
        schema = part["json_schema"]
        grammar = part["lark_grammar"] if schema is None else f"start: %json {json.dumps(schema)}"
    return {"grammar": f"%llguidance {{}}\n{grammar}"}
