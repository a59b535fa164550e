"""Which slot of llama.cpp goes on with a prompt."""

from smidgen.inference.slot_prompts import SlotPrompts

A, B = list(range(100, 140)), list(range(200, 240))


def test_kinds_of_prompts_keep_their_slots():
    slots = SlotPrompts()
    start = [1, 2, 3]  # what all prompts share is no reason to take a slot
    assert slots.assigned([0, 1, 2], [start + A]) == {0: 0}
    slots.read(0, start + A)
    assert slots.assigned([0, 1, 2], [start + B]) == {1: 0}
    slots.read(1, start + B)
    assert slots.ranked([0, 1, 2], [*start, *A, 7]) == [0, 2, 1]
    assert slots.ranked([0, 1, 2], [*start, *B, 7]) == [1, 2, 0]
    assert slots.assigned([0, 1, 2], [[*start, *B, 7], [*start, *A, 7]]) == {1: 0, 0: 1}


def test_prompts_that_find_most_choose_first():
    slots = SlotPrompts()
    slots.read(0, A)
    assert slots.assigned([0, 1], [A[:20], A]) == {0: 1, 1: 0}


def test_the_slot_that_was_unused_for_longest_is_overwritten():
    slots = SlotPrompts()
    for slot in (2, 0, 1):
        slots.read(slot, A)
    assert slots.ranked([0, 1, 2], B) == [2, 0, 1]
    slots.read(2, A)
    assert slots.ranked([0, 1, 2], B) == [0, 1, 2]
    assert slots.shared(2, [*A, 9]) == len(A) and slots.shared(2, A[:15]) == 0
