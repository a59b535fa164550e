import pytest

from smidgen.data.types import Completion, Passes
from smidgen.evaluation.decoding_section import Answered, decoding_facts, rows_of
from smidgen.figures.formatting import percent


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


def test_the_figures_in_words():
    ways = {
        "ar": decoding_facts(PLAIN, PLAIN) | {"right": 1},
        "jacobi": decoding_facts(DRAFTED, PLAIN) | {"right": 1},
    }
    rows = rows_of({"decoding": {"batches": {"1": ways, "8": {"lookup": {}}}}})
    assert [row[0] for row in rows] == [
        "One token a pass, one answer at a time",
        "Jacobi, one answer at a time",
        "Prompt look-up, 8 answers together",
    ]
    assert rows[0][2] == "1 of 2 right"
    assert rows[1][2].split("; ") == [
        "1 of 2 right",
        "2.00 times as fast (95 % interval 2.00 to 2.00)",
        "1.50 tokens a pass",
        f"{percent(0.4)} of the drafted tokens accepted",
        "1 answers the same",
        "1 choices open to rounding",
        "passes by tokens: 1: 3, 3: 1",
    ]
    assert rows_of({}) == []
