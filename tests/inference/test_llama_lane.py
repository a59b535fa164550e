"""How requests are dealt out to the slots of llama.cpp."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from smidgen.inference.llama_lane import Shares


@given(st.integers(0, 40), st.integers(1, 6), st.data())
def test_every_item_is_taken_once_whatever_slot_asks(count: int, num_slots: int, data: st.DataObject):
    shares, taken = Shares(range(count), num_slots), []
    while (item := shares.take(data.draw(st.integers(0, num_slots - 1)))) is not None:
        taken.append(item)
    assert sorted(taken) == list(range(count))


def test_a_slot_takes_neighbours_and_then_the_back_of_the_longest_share():
    shares = Shares("abcdefgh", 2)
    assert [shares.take(0) for _ in range(4)] == list("abcd")
    assert shares.take(1) == "e"
    assert [shares.take(0), shares.take(0)] == ["g", "h"]
    assert [shares.take(1), shares.take(0)] == ["f", None]


def test_every_item_is_taken_once_by_threads():
    shares = Shares(range(2000), 8)

    def work(slot: int) -> list[int]:
        return list(iter(lambda: shares.take(slot), None))

    with ThreadPoolExecutor(8) as pool:
        taken = [item for items in pool.map(work, range(8)) for item in items]
    assert sorted(taken) == list(range(2000))


def test_what_is_drained_is_not_taken():
    shares = Shares("abcde", 2)
    assert (shares.take(1), list(shares), len(shares)) == ("c", list("abde"), 4)
    assert shares.drain() == list("abde")
    assert shares.take(0) is None and len(shares) == 0


def test_a_share_of_one_item_goes_to_its_slot():
    shares = Shares.of({2: ["a"], 0: ["b"]}, 3)
    assert (len(shares), shares.take(2), shares.take(0), shares.take(1)) == (2, "a", "b", None)
    assert Shares.of({2: ["a"]}, 3).take(0) == "a"  # a slot without one helps out
