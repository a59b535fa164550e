"""What becomes of a stored fact: its party is named, it ends with something in its place, its end moves."""

import random

import pytest

from smidgen.data.memory_drafts import in_order
from smidgen.data.memory_facts import (
    AFTER,
    STATED,
    UNNAMED,
    Attribute,
    Subject,
    UnsayableError,
    attributes,
    draw_fact,
)
from smidgen.data.memory_matters import clashes
from smidgen.data.memory_world import arbitrate_rows

RNG = random.Random(0)


def attribute(name: str) -> Attribute:
    return next(each for each in attributes("train") if each.name == name)


def of_subject(name: str, subject: Subject | None = None):
    return draw_fact(RNG, "train", attribute(name), subject)


def having(role: str) -> list[Attribute]:
    return [each for each in attributes("train") if each.has(role, "en")]


def test_a_fact_whose_party_is_unnamed_leaves_it_out() -> None:
    assert len(having(UNNAMED)) > 10
    for each in having(UNNAMED):
        fact = draw_fact(RNG, "train", each)
        assert fact.value_text("en") not in fact.text("en", RNG, role=UNNAMED)[0]


def test_an_unnamed_party_is_named_by_an_update() -> None:
    """Some stored text leaves out what the new one names, so the two share no name of the value."""
    unnamed = {text.split("{")[0] for each in having(UNNAMED) for text in each.lines["en", UNNAMED]}
    starts = tuple(text for text in unnamed if len(text) > 12)
    rows = [row for row in arbitrate_rows("train", 700, 4, ("en",)) if row["kind"] == "relational"]
    targets = [each["text"] for row in rows for each in row["candidates"] if each["id"] == row.get("target")]
    assert len(targets) == len(rows) and any(text.startswith(starts) for text in targets)
    assert {row["decision"] for row in rows} == {"UPDATE"}


def test_what_holds_after_an_end_is_an_update_and_a_mere_end_a_deletion() -> None:
    rows = [row for row in arbitrate_rows("train", 900, 4) if row["kind"] == "expiry"]
    updates = sum(row["decision"] == "UPDATE" for row in rows) / len(rows)
    assert 0.3 < updates < 0.6 and {row["decision"] for row in rows} == {"UPDATE", "DELETE"}
    assert {each.kind for each in having(AFTER)} == {"expiry"}


def test_facts_of_one_subject_are_told_apart_by_their_slot() -> None:
    first = of_subject("care")
    for _ in range(20):
        other = of_subject("care", first.subject)
        is_same = other.others.bound["charge"] == first.others.bound["charge"]
        assert (other.key == first.key) == is_same == clashes(other, first)


def test_attributes_that_speak_of_the_same_thing_clash_for_one_subject_only() -> None:
    home = of_subject("home")
    assert clashes(of_subject("lodging", home.subject), home)
    assert not clashes(of_subject("chore", home.subject), home)
    elsewhere = Subject("name", of_subject("vet").value.bound["name"])
    assert elsewhere == home.subject or not clashes(of_subject("lodging", elsewhere), home)


def test_an_extension_ends_in_no_earlier_year() -> None:
    for _ in range(30):
        old = of_subject("permit")
        before, after = in_order(old, old.with_other_value())
        assert before.value.bound["year"].line <= after.value.bound["year"].line
    care = of_subject("care"), of_subject("care")
    assert in_order(*care) == care


def test_nobody_is_tied_to_himself() -> None:
    for name in ("reports", "neighbour", "parent_firm"):
        for _ in range(150):
            fact = of_subject(name)
            own = fact.subject.value.text("en")
            assert own not in (fact.value_text("en"), fact.with_other_value().value_text("en"))


def test_a_role_that_a_fact_has_no_line_for_is_refused() -> None:
    with pytest.raises(UnsayableError):
        of_subject("home").text("en", RNG, role=AFTER)
    assert of_subject("home").text("en", RNG, role=STATED)[0]
