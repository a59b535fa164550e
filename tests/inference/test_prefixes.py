"""What prompts have in common, as a tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.inference import prefixes
from smidgen.inference.prefixes import by_family, common_prefix, levels

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


@pytest.fixture(scope="module", autouse=True)
def small_families():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "FAMILY_TOKENS", 2)
        yield


@given(PROMPTS)
def test_families_share_what_they_say_and_nest(prompts: list[list[int]]):
    base = len(common_prefix(min(prompts), max(prompts)))
    most = [len(prompt) - 1 for prompt in prompts]
    base = min(base, *most)
    held = [base] * len(prompts)
    above = [set(range(len(prompts)))]
    for level in levels(prompts, base, most):
        for family in level:
            assert len(family.members) > 1
            assert any(set(family.members) <= parent for parent in above)
            assert len({tuple(prompts[i][: family.shared]) for i in family.members}) == 1
            for i in family.members:
                assert held[i] + 2 <= family.shared <= most[i]
                held[i] = family.shared
        above = [set(family.members) for family in level]
        assert sum(map(len, above)) == len(set().union(*above))


@given(PROMPTS)
def test_a_tree_has_fewer_families_than_prompts(prompts: list[list[int]]):
    most = [len(prompt) - 1 for prompt in prompts]
    assert sum(map(len, levels(prompts, 0, most))) < len(prompts)


@given(PROMPTS)
def test_an_order_holds_every_prompt_once(prompts: list[list[int]]):
    assert sorted(by_family(prompts)) == list(range(len(prompts)))


def test_families_stay_together_and_those_with_longer_prompts_come_first():
    prompts = [[1, 2, 2], [3, 3, 1, 1, 1], [1, 2, 1, 9], [5], [3, 3, 1]]
    assert by_family(prompts) == [4, 1, 2, 0, 3]
    assert by_family([]) == []
