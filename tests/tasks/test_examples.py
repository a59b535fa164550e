from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.types import Message, Sample
from smidgen.tasks.examples import drawn, with_examples


def sample(name: str, *, system: str | None = None) -> Sample:
    first = (Message("system", system),) if system else ()
    return Sample(name, (*first, Message("user", f"ask {name}")), f"answer {name}")


@given(st.lists(st.sampled_from("abcdef"), max_size=12), st.integers(0, 8), st.integers(0, 3))
def test_examples_are_different_and_fixed_by_the_seed(names: list[str], count: int, seed: int):
    pool = [sample(name) for name in names]
    found = drawn(pool, count, seed)
    assert found == drawn(pool, count, seed)
    assert len(found) == min(count, len(set(names))) == len({one.messages for one in found})


def test_examples_are_earlier_turns_after_the_system_message():
    asked = with_examples(sample("x", system="be brief"), [sample("a", system="other"), sample("b")])
    assert [(m.role, m.content) for m in asked.messages] == [
        ("system", "be brief"),
        ("user", "ask a"),
        ("assistant", "answer a"),
        ("user", "ask b"),
        ("assistant", "answer b"),
        ("user", "ask x"),
    ]
    assert (asked.id, asked.target) == ("x", "answer x")
    assert with_examples(sample("x"), []) == sample("x")
