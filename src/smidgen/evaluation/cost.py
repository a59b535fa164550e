"""Cost of answers on this machine, for each evaluation, and from APIs.

On this machine, the cost is the wall-clock time of the evaluation times the machine's price per hour. From an
API, it is the number of tokens, counted with this model's tokenizer, times the price per million tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

from smidgen.config import ApiPrice, Prices
from smidgen.figures.formatting import dig, finite

BATCH = 1000
"""Number of answers that costs are given for."""


def cost_table(
    evaluations: Mapping[str, Mapping[str, Any]], prices: Prices, *, training_seconds: float = 0.0
) -> dict[str, Any] | None:
    """Return the cost of evaluations as a JSON object; None if no tokens were counted.

    Args:
        evaluations: as JSON, by name. API costs are computed from the tokens of the first one.
        prices: of this machine and of APIs.
        training_seconds: training time, whose cost is included in the break-even points.

    Returns:
        `ways`: tokens, seconds and cost of each evaluation; `apis`: the cost of each API, and the number of
        answers from which this machine is cheaper, or None if it never is.
    """
    ways = {name: _evaluation_cost(evaluation, prices) for name, evaluation in evaluations.items()}
    ways = {name: way for name, way in ways.items() if way is not None}
    if not ways:
        return None
    first = next(iter(ways.values()))
    training_money = training_seconds / 3600 * prices.machine_per_hour
    return {
        "currency": prices.currency,
        "machine_per_hour": prices.machine_per_hour,
        "making": {"seconds": training_seconds, "money": training_money},
        "ways": ways,
        "apis": [_api_cost(api, first, training_money) for api in prices.api],
    }


def _evaluation_cost(evaluation: Mapping[str, Any], prices: Prices) -> dict[str, Any] | None:
    asked = finite(evaluation.get("n"))
    read, written, seconds, peak = (
        finite(dig(evaluation, "speed", name))
        for name in ("prompt_tokens", "completion_tokens", "seconds", "peak_memory_bytes")
    )
    if not asked or read is None or written is None or seconds is None:
        return None
    per_batch = BATCH * seconds / asked
    return {
        "judgements": int(asked),
        "prompt_tokens": read / asked,
        "completion_tokens": written / asked,
        "seconds_per_1000": per_batch,
        "peak_memory_bytes": peak,
        "money_per_1000": per_batch / 3600 * prices.machine_per_hour,
    }


def _api_cost(api: ApiPrice, way: Mapping[str, Any], training_money: float) -> dict[str, Any]:
    tokens = way["prompt_tokens"] * api.input_per_million + way["completion_tokens"] * api.output_per_million
    price = BATCH * tokens / 1e6
    saved = (price - way["money_per_1000"]) / BATCH
    return {
        "name": api.name,
        "money_per_1000": price,
        "cheaper_here_after": math.ceil(training_money / saved) if saved > 0 else None,
    }
