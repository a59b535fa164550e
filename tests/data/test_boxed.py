import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.boxed import box_end, last_boxed


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{ \frac{1}{2} } and more", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed {2}", "2"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{}", ""),
        (r"\boxed{1 \boxed{2}", "2"),
        (r"\boxed{3} \boxed{4", "3"),
        (r"\boxed{4", None),
        (r"boxed{4} {5}", None),
        ("\\boxed{a\\", None),
        ("", None),
    ],
)
def test_the_last_closed_box(text: str, held: str | None):
    assert last_boxed(text) == held


def test_the_first_box_ends_only_when_its_own_brace_is_closed():
    text = r"\boxed{a{b}} \boxed{c}"
    assert box_end(text) == len(r"\boxed{a{b}}")
    assert box_end(text, 1) == len(text)
    assert [box_end(text[:n]) for n in range(12)] == [None] * 12
    assert box_end(r"\boxed{1 \boxed{2}") is None
    assert box_end("no box }") is None


balanced = st.recursive(
    st.text("ab ", max_size=3),
    lambda inner: st.lists(inner, max_size=3).map(lambda x: "{" + "".join(x) + "}"),
)


@given(before=st.text("ab}{", max_size=4), inside=balanced, after=st.text("ab}{", max_size=4))
def test_balanced_content_comes_out_as_it_went_in(before: str, inside: str, after: str):
    text = f"{before}\\boxed{{{inside}}}{after}"
    assert last_boxed(text) == inside.strip()
    assert box_end(text) == len(text) - len(after)
