import pytest

from smidgen.data.types import Completion, Passes
from smidgen.evaluation.decoding_section import Answered, decoding_facts, tables_of
from smidgen.figures.formatting import ABSENT, percent


def answered(tokens: list[tuple[int, ...]], seconds: list[float], passes: list[Passes | None]) -> Answered:
    return Answered(
        [Completion("", each, passes=one) for each, one in zip(tokens, passes, strict=True)], seconds
    )


PLAIN = answered([(1, 2, 3, 4), (5, 6)], [2.0, 1.0], [None, None])
DRAFTED = answered([(1, 2, 3, 4), (5, 7)], [1.0, 0.5], [Passes((1, 3), 4, 1), Passes((1, 1), 1)])


def test_the_figures_of_a_way_of_decoding():
    assert decoding_facts(PLAIN, PLAIN) == {"tokens": 6, "tokens_per_second": 2.0, "answers": 2, "same": 2}
    assert decoding_facts(DRAFTED, PLAIN) == {
        "tokens": 6,
        "tokens_per_second": 4.0,
        "answers": 2,
        "same": 1,
        "tokens_per_pass": 1.5,
        "accepted_share": pytest.approx(2 / 5),
        "near_ties": 1,
        "committed": {"1": 3, "3": 1},
        "speed_up": {"value": 2.0, "low": 2.0, "high": 2.0},
    }
    never = answered([(1,)], [1.0], [Passes((1,))])
    assert decoding_facts(never, never)["accepted_share"] is None


def test_every_number_of_rows_has_a_table_of_the_ways():
    ways = {
        "ar": decoding_facts(PLAIN, PLAIN) | {"right": 1},
        "jacobi": decoding_facts(DRAFTED, PLAIN) | {"right": 1},
    }
    alone, together = tables_of({"decoding": {"batches": {"1": ways, "8": {"lookup": {}}}}})
    assert (alone["title"], alone["labels"]) == ("One answer at a time", ["One token a pass", "Jacobi"])
    assert alone["rows"] == [
        ("Tokens per second", ["2", "4"]),
        ("Times as fast", [ABSENT, "2.00 (2.00–2.00)"]),
        ("Tokens a pass", [ABSENT, "1.50"]),
        ("Drafted tokens accepted", [ABSENT, percent(0.4)]),
        ("Passes of 1 · 2 · 3 · 4 tokens or more", [ABSENT, "75% · 0% · 25% · 0%"]),
        ("The same answers", ["2 of 2", "1 of 2"]),
        ("Choices open to rounding", [ABSENT, "1"]),
        ("Right answers", ["1 of 2", "1 of 2"]),
    ]
    assert together == {"title": "8 answers together", "labels": ["Prompt look-up"], "rows": []}
    assert tables_of({}) == []
