import random
import re
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from statistics import fmean

import pytest

from smidgen.data.grammar import Drawing, entities, sections, tidied
from smidgen.data.memories import DUPLICATES, KINDS_OF
from smidgen.data.memory_facts import ENDED, STATED, Fact, attributes, dative, draw_fact, draw_subject
from smidgen.data.memory_matters import both_hold, is_similar
from smidgen.data.memory_noise import joined, noisy, with_slip
from smidgen.data.memory_rows import arbitrations, memories
from smidgen.data.memory_texts import memorize_rows
from smidgen.data.memory_world import arbitrate_rows
from smidgen.data.near import near_copies
from smidgen.data.rows import read_rows

CASES = Path(__file__).parents[2] / "src/smidgen/data/memory_cases"
COUNT = 300


def said(rows: list[dict]) -> list[str]:
    return [
        text for row in rows for text in ([row["text"]] if "text" in row else [row["fact"], *stored(row)])
    ]


def stored(row: dict) -> list[str]:
    return [each["text"] for each in row["candidates"]]


@pytest.fixture(scope="module")
def facts() -> list[dict]:
    return arbitrate_rows("train", COUNT, 0)


@pytest.fixture(scope="module")
def many_facts() -> list[dict]:
    return arbitrate_rows("train", 2000, 0)


@pytest.fixture(scope="module")
def texts() -> list[dict]:
    return memorize_rows("train", COUNT, 0)


def test_rows_follow_from_the_seed(facts: list[dict], texts: list[dict]) -> None:
    assert arbitrate_rows("train", 20, 0) == facts[:20] and memorize_rows("train", 20, 0) == texts[:20]
    assert arbitrate_rows("train", 20, 1) != facts[:20] and memorize_rows("train", 20, 1) != texts[:20]


def test_rows_are_of_our_own_format(facts: list[dict], texts: list[dict]) -> None:
    assert len(arbitrations(facts)) == len(memories(texts)) == COUNT


def test_every_kind_category_and_language_occurs(facts: list[dict], texts: list[dict]) -> None:
    kinds = Counter(row["kind"] for row in facts)
    assert set(kinds) == {kind for found in KINDS_OF.values() for kind in found} and min(kinds.values()) > 8
    assert {len(row["candidates"]) for row in facts} == {1, 2, 3, 4, 5}
    saved = Counter(row["decision"] for row in texts)
    assert 0.4 < saved["SAVE"] / COUNT < 0.6
    for rows in (facts, texts):
        languages = Counter(row["language"] for row in rows)
        assert set(languages) == {"en", "de", "zh", "mixed"} and 0.6 < languages["en"] / COUNT < 0.8


def test_a_duplicate_is_never_the_same_text(facts: list[dict]) -> None:
    for row in facts:
        if row["kind"] in DUPLICATES:
            target = next(each["text"] for each in row["candidates"] if each["id"] == row["target"])
            assert target.casefold().strip(".。") != row["fact"].casefold().strip(".。")


def test_candidates_differ_and_their_place_says_nothing(facts: list[dict]) -> None:
    places = Counter()
    for row in facts:
        assert len({*stored(row)}) == len(row["candidates"])
        if "target" in row and len(row["candidates"]) == 2:
            places[row["candidates"][0]["id"] == row["target"]] += 1
    assert min(places[True], places[False]) > 10


def test_no_place_among_the_candidates_is_likelier_than_another(many_facts: list[dict]) -> None:
    places: dict[int, Counter[int]] = {}
    for row in many_facts:
        offered = [each["id"] for each in row["candidates"]]
        if "target" in row:
            places.setdefault(len(offered), Counter())[offered.index(row["target"])] += 1
    for number, found in places.items():
        even = found.total() / number
        assert all(abs(found[place] - even) < 4 * even**0.5 for place in range(number)), (number, found)


def test_mixed_facts_are_decided_as_the_guide_says(many_facts: list[dict]) -> None:
    rows = [row for row in many_facts if row["kind"] == "mixed"]
    actions = Counter(row["decision"] for row in rows)
    assert set(actions) == {"UPDATE", "DELETE", "NONE"} and min(actions.values()) > 10
    assert all(("target" in row) == (row["decision"] != "NONE") for row in rows)
    assert all(len(row["candidates"]) > 1 for row in rows if row["decision"] == "NONE")


def test_a_synonym_keeps_the_sentence_and_a_paraphrase_does_not(many_facts: list[dict]) -> None:
    """Synonyms share more of their words in the same order than paraphrases do."""
    shared: dict[str, list[float]] = {"synonym": [], "paraphrase": []}
    for row in many_facts:
        if row["kind"] in shared and row["language"] == "en":
            target = next(each["text"] for each in row["candidates"] if each["id"] == row["target"])
            told = (row["fact"].casefold(), target.casefold())
            shared[row["kind"]].append(SequenceMatcher(None, *told, autojunk=False).ratio())
    assert fmean(shared["synonym"]) > fmean(shared["paraphrase"]) + 0.1


def test_words_in_common_do_not_decide(facts: list[dict]) -> None:
    """A new fact shares as many words with some candidate as one that changes it, more often than not."""

    def overlap(row: dict) -> float:
        words = {*re.findall(r"\w+", row["fact"].casefold())}
        found = [{*re.findall(r"\w+", text.casefold())} for text in stored(row)]
        return max(len(words & each) / len(words | each) for each in found)

    english = [row for row in facts if row["language"] == "en"]
    new, changed = (
        sorted(overlap(row) for row in english if row["decision"] == action) for action in ("ADD", "UPDATE")
    )
    assert new[len(new) * 3 // 4] > changed[len(changed) // 4]


@pytest.mark.parametrize("make", [arbitrate_rows, memorize_rows])
def test_the_splits_share_no_text_and_no_entity(make) -> None:
    train, test = said(make("train", COUNT, 0)), said(make("test", 100, 0))
    assert not {text.casefold() for text in train} & {text.casefold() for text in test}
    assert not mentioned(entities("train"), test) and not mentioned(entities("test"), train)


def mentioned(names: set[str], texts: list[str]) -> set[str]:
    """The names that occur in texts as words of their own."""
    inside = "A-Za-zÀ-ÿ"
    ordered = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    found = re.compile("|".join(rf"(?<![{inside}]){re.escape(name)}(?![{inside}])" for name in ordered))
    return {match for text in texts for match in found.findall(text)}


def test_a_fact_keeps_its_value_in_every_text_and_its_end_names_it() -> None:
    rng = random.Random(0)
    home = next(each for each in attributes("train") if each.name == "home")
    for _ in range(20):
        fact = draw_fact(rng, "train", home)
        city = fact.value_text("en")
        for role in (STATED, ENDED):
            assert city in fact.text("en", rng, role=role)[0]
        other = fact.with_other_value()
        assert other.value_text("en") != city and other.key == fact.key


def test_every_attribute_can_be_stated_in_english_in_training() -> None:
    assert all(each.has(STATED, "en") for each in attributes("train")) and len(attributes("train")) > 50
    headings = [heading.split(" ")[0] for heading in sections("facts.txt")]
    assert len(set(headings)) == len(headings)


def test_slips_leave_short_texts_alone_and_others_readable() -> None:
    assert with_slip("I live in Graz", random.Random(0)) == "I live in Graz"
    text = "The deadline of the project was moved to the ninth"
    slipped = {with_slip(text, random.Random(seed)) for seed in range(30)}
    assert len(slipped) > 10 and all(abs(len(each) - len(text)) <= 1 for each in slipped)


def test_a_log_line_gets_no_opener() -> None:
    made = {noisy("fix: typo", random.Random(seed), "en", framed=False) for seed in range(99)}
    assert made == {"fix: typo"}


def _case_texts() -> list[str]:
    files = sorted(CASES.glob("*.jsonl"))
    return [text for file in files for text in said([dict(row) for row in read_rows(file)])]


@pytest.mark.slow
@pytest.mark.skipif(not any(CASES.glob("*.jsonl")), reason="there are no hand-written cases")
def test_hand_written_cases_share_no_text_and_no_named_entity_with_training_rows(
    many_facts: list[dict],
) -> None:
    cases = _case_texts()
    made = said(memorize_rows("train", 3000, 0)) + said(many_facts)
    normal = {re.sub(r"\W+", " ", text.casefold()).strip() for text in made}
    assert not [text for text in cases if re.sub(r"\W+", " ", text.casefold()).strip() in normal]
    long = [text for text in cases if len(text.split()) >= 5]
    assert not [long[at] for at in near_copies(long, made)]
    names = entities("train") | entities("test")
    assert not mentioned(names, cases), "take these out of the templates"


def test_the_search_for_names_finds_them() -> None:
    texts = ["Odalys flew to Graz.", "我住在格拉茨。", "Corks and nothing else"]
    assert mentioned({"Odalys", "Graz", "格拉茨", "Cork"}, texts) == {"Odalys", "Graz", "格拉茨"}


def test_a_choice_of_nothing_leaves_no_space() -> None:
    for row in arbitrate_rows("train", COUNT, 2):
        assert not [text for text in stored(row) if re.search(r"  | [.,;]| 'm| $", text)]


def test_values_of_which_one_excludes_the_other_are_not_both_so() -> None:
    rng = random.Random(0)
    by_name = {each.name: each for each in attributes("train")}
    user = draw_subject(rng, "train", "user")
    styles = [draw_fact(rng, "train", by_name["style"], user) for _ in range(200)]
    texts = {fact.value_text("en"): fact for fact in styles}
    assert not both_hold(texts["tabs"], texts["four spaces"]) and not both_hold(styles[0], styles[0])
    assert both_hold(texts["tabs"], texts["dark mode"])
    pet = draw_fact(rng, "train", by_name["pet"], user)
    assert not both_hold(pet, pet.with_other_value())
    leaves = [draw_fact(rng, "train", by_name["leave"], user) for _ in range(20)]
    assert not any(both_hold(fact, leaves[0]) for fact in leaves)


def test_similar_matters_are_known_and_a_person_has_one_home() -> None:
    assert is_similar("home", "rent") and is_similar("role", "role")
    assert not is_similar("home", "home") and not is_similar("home", "allergy")


def test_nobody_shares_a_flat_with_himself() -> None:
    rng = random.Random(0)
    sits = next(each for each in attributes("train") if each.name == "sits")
    somebody = draw_subject(rng, "train", "name")
    own = Fact(sits, somebody, Drawing(rng, "train", bound={"name": somebody.value}), Drawing(rng, "train"))
    assert own.is_about_itself and not own.with_other_value().is_about_itself


def test_germans_are_called_in_the_dative() -> None:
    told = ["der Nutzer", "die Chefin des Nutzers", "meine Oma", "mein Sohn", "Odalys", "Barack-Otieno"]
    assert [dative(name) for name in told] == [
        "dem Nutzer", "der Chefin des Nutzers", "meiner Oma", "meinem Sohn", "Odalys", "Barack-Otieno"
    ]  # fmt: skip


def test_joined_statements_are_both_kept() -> None:
    made = {joined(random.Random(seed), "I live here.", "The key is there.", "en") for seed in range(60)}
    assert {"I live here, and the key is there.", "The key is there. I live here."} <= made
    assert all("live here" in text and "key is there" in text for text in made) and len(made) > 10
    notes = {joined(random.Random(seed), "Diet: vegan", "I live here.", "en") for seed in range(60)}
    assert not any("vegan and" in text or "here and Diet" in text for text in notes)


def test_abbreviations_that_sound_like_vowels_take_an() -> None:
    assert tidied("a MBA, a SUV and a engineer of a Austrian firm") == (
        "an MBA, an SUV and an engineer of an Austrian firm"
    )
    rows = said(arbitrate_rows("train", 2000, 4))
    assert not [text for text in rows if re.search(r"\ba (MBA|SUV|MSc|RN|MPV|MA|engineer)\b", text)]
