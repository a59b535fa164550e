import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smidgen.inference.acceptance import Acceptance, Windows
from smidgen.inference.drafts import LONGEST_MATCH, SEPARATOR, Draft, JacobiDrafter, continuation

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=30)


@given(TOKENS, st.integers(0, 12))
def test_a_continuation_is_that_of_the_latest_longest_match(tokens, most):
    draft = continuation(np.array(tokens), most)
    best, at = 0, 0
    for end in range(len(tokens) - 1):
        length = 0
        while (
            length < min(LONGEST_MATCH, end + 1) and tokens[end - length] == tokens[len(tokens) - 1 - length]
        ):
            length += 1
        if length and length >= best:
            best, at = length, end + 1
    text = tokens
    expected = []
    while best and len(expected) < most:  # what repeats itself goes on so
        expected.append(
            text[at + len(expected)] if at + len(expected) < len(text) else expected[-(len(text) - at)]
        )
    assert draft.tokens == expected
    assert draft.parts == ([(f"match of {best}", most)] if expected else [])


def test_a_continuation_ends_with_its_text():
    corpus = np.array([4, 5, 6, SEPARATOR, 9, 4])
    assert continuation(corpus, 5) == Draft.of("match of 1", [5, 6])
    # a text that ends in the match has nothing to give
    assert continuation(np.array([4, SEPARATOR, 9, 4]), 5) == Draft()


@given(TOKENS, TOKENS, st.integers(0, 70))
def test_the_beginning_of_a_draft_keeps_its_sources(left, right, count):
    whole = Draft.of("a", left).then(Draft.of("b", right))
    assert whole.tokens == left + right and whole.parts == [("a", len(left)), ("b", len(right))]
    begin = whole.first(count)
    assert begin.tokens == whole.tokens[:count]
    assert sum(size for _, size in begin.parts) == len(begin.tokens)
    assert all(size > 0 for _, size in begin.parts)
    rest = Draft.of("b", whole.tokens[count:]) if count >= len(left) else None
    assert rest is None or begin.then(rest).tokens == whole.tokens


class Row:
    """As much of a row as drafts are made of."""

    def __init__(self, prompt: list[int], token_ids: list[int]):
        self.prompt, self.token_ids, self.forced = prompt, token_ids, []


def test_the_better_of_choices_and_what_is_looked_up_is_drafted():
    known, row = Acceptance(), Row([4, 5, 6, 7], [4])
    drafter = JacobiDrafter(known, Windows(2), pool_size=0)
    right, wrong = (Draft.of(source, [1, 1]) for source in ("choice 6", "match of 1"))
    for _ in range(40):
        known.learn(right, 2)
        known.learn(wrong, 0)

    def draft(logprob: float) -> Draft:
        drafter.learn(row, [4, 8, 9], [0.0, logprob, logprob])  # type: ignore[arg-type]
        return drafter.propose([row], [2])[0]  # type: ignore[list-item]

    assert draft(-0.01) == Draft([8, 9], [("choice 6", 2)])
    for _ in range(40):
        known.learn(Draft.of("choice 0", [1, 1]), 0)
    assert draft(-9.0) == Draft([8, 9], [("choice 0", 2)])  # both are bad, and choices are refined
    # what is not drafted fades, and is tried again
    tried = [draft(-9.0) for _ in range(400)]
    assert Draft([5, 6], [("match of 1", 2)]) in tried
    for _ in range(40):
        known.learn(Draft.of("match of 1", [1, 1]), 2)
    assert draft(-9.0) == Draft([5, 6], [("match of 1", 2)])
    # where an answer begins, other matches count
    beginning = Row([4, 5, 6, 4], [])
    assert drafter.propose([beginning], [2])[0].parts == [("first match of 1", 2)]  # type: ignore[list-item]
