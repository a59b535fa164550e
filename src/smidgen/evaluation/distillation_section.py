"""What a student was taught: the teacher, its ceiling, what the filter dropped, and the cost, in words."""

from collections.abc import Mapping
from typing import Any

from smidgen.config import Prices
from smidgen.evaluation.wording import headline_metric, words_of
from smidgen.figures import formatting
from smidgen.figures.columns import numbers
from smidgen.figures.formatting import dig, finite, table_at


def priced(spent: Mapping[str, Any], prices: Prices, *, name: str, is_server: bool) -> dict[str, Any]:
    """Return tokens, time and cost of asking a model.

    A server's price is that of the API which `--prices` lists under the name of the model; without one it is
    unknown, so None. A model on this machine costs the machine's time.

    Args:
        spent: requests, tokens and seconds, as the stage recorded them.
        prices: of this machine and of APIs.
        name: name of the model on the server.
        is_server: whether it ran behind a URL.
    """
    read, written = spent["prompt_tokens"], spent["completion_tokens"]
    known, money = prices.of(name), None
    if not is_server:
        money = spent["seconds"] / 3600 * prices.machine_per_hour
    elif known is not None and read is not None:
        money = known.money(read, written)
    return {**spent, "money": money, "currency": prices.currency}


def limits_of(facts: Mapping[str, Any]) -> list[str]:
    """Return what the figures of a distillation do not show, one sentence each."""
    kept, same = facts["kept"], facts["same_as_gold"]
    sentences = [
        f"The student learnt from {kept:,} answers of a teacher: what the teacher gets wrong, it cannot be "
        "expected to learn, so the teacher's own score on the held-out rows is about as far as it can get."
    ]
    if facts["keep"] == "gold":
        sentences.append(
            f"The labels of the training rows decided which answers were kept, so the student has seen these "
            f"labels; {same:,} of the {kept:,} kept answers are, word for word, the answer of the row."
        )
    else:
        sentences.append(
            f"A judge decided which answers were kept; {facts['kept_right']:,} of these {kept:,} are right "
            "by the labels of their rows."
        )
    sentences.append(
        "Whether the teacher was itself trained on these rows is not known to smidgen; if it was, its score "
        "on the training rows says nothing about new ones."
    )
    return sentences


def rows_of(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return term, value and note of each fact; empty without a distillation."""
    facts = table_at(report, "distillation")
    if not facts:
        return []
    count, answers = formatting.count, finite(facts.get("answers")) or 1.0
    label = words_of(report).metric(name := headline_metric(report)).label
    held_out, span = numbers(table_at(report, "teacher", "metrics", name))
    single, single_span = numbers(facts.get("accuracy"))
    ceiling, ceiling_span = numbers(facts.get("ceiling"))
    skipped = table_at(report, "skipped").get("teacher")
    rows = [
        ("Teacher", formatting.text(facts.get("teacher")), ""),
        (f"Its {label.lower()} on the held-out rows", held_out, str(skipped or span)),
        ("Right answers on the training rows", single, single_span),
        ("Ceiling", ceiling, f"rows with at least one right answer of {count(facts.get('candidates'))}; "
         f"{ceiling_span}"),
        ("Kept answers", f"{count(facts.get('kept'))} of {count(answers)}",
         f"to {count(facts.get('kept_samples'))} of {count(facts.get('samples'))} rows"),
    ]  # fmt: skip
    for reason, number in table_at(facts, "rejected").items():
        rows.append((f"Dropped: {reason}", count(number), formatting.percent(number / answers)))
    if facts.get("contradictory"):
        rows.append(("Rows not asked", count(facts["contradictory"]), "their labels contradict each other"))
    rows += [row for name in ("cost", "judge_cost") if (row := _cost(facts.get(name), name))]
    return rows


def _cost(cost: Any, name: str) -> tuple[str, str, str] | None:
    if not isinstance(cost, Mapping):
        return None
    money = finite(cost.get("money"))
    price = "unknown price" if money is None else f"{formatting.money(money)} {cost.get('currency')}"
    read, written = finite(cost.get("prompt_tokens")), finite(cost.get("completion_tokens"))
    tokens = "tokens not counted"
    if read is not None and written is not None:
        tokens = f"{formatting.count(read)} prompt tokens, {formatting.count(written)} generated"
    asked = formatting.count(dig(cost, "requests"))
    note = f"{asked} requests, {tokens}, {formatting.seconds(cost.get('seconds'))}"
    return "Cost of the judge" if name == "judge_cost" else "Cost of the teacher", price, note
