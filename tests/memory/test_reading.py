"""Candidates: what could be about the same is found, in any language, whatever the text contains."""

import json
from pathlib import Path

import pytest

from smidgen.data.memories import Decision
from smidgen.memory import Store, reading
from smidgen.memory.terms import storable, trigrams, words

PAWSX = Path(__file__).parents[3] / "shared" / "data" / "memory" / "pawsx_dev_en_zh.jsonl"
MEMORIES = [
    "My sister moved to Graz in May.",
    "Die Krankenversicherung kostet 120 Euro im Monat.",
    "我妹妹五月搬到了维也纳。",
    "The landlord Mr. Özdemir has raised the rent to 840.",
    "Ich trinke keinen Kaffee.",
    "猫",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(tmp_path_factory.mktemp("store") / "memory.db") as opened:
        fill(opened, MEMORIES)
        yield opened


def fill(store: Store, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        store.received(f"i{number}", text)
        offered = store.candidates(text)
        store.apply(f"i{number}", [Decision("ADD")], candidates=offered, model="rules", version="1")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("In which city does the sister live?", 0),
        ("Versicherung", 1),
        ("Krankenversicherungsbeitrag", 1),
        ("妹妹", 2),
        ("她搬到哪里了?", 2),
        ("房东 Özdemir 涨了房租", 3),
        ("OZDEMIR", 3),
        ("Miete: 840 €", 3),
        ("koffie, Kaffe", 4),
        ("ＫＡＦＦＥＥ", 4),
        ("猫", 5),
    ],
)
def test_the_best_candidate_is_about_the_same(store: Store, query: str, found: int):
    assert store.candidates(query)[0].text == MEMORIES[found]


def test_the_very_same_text_comes_first(tmp_path: Path):
    texts = ["tea", "tea tea", "Tea", "green tea and black tea, tea of all kinds", "!"]
    with Store.open(tmp_path / "memory.db") as store:
        fill(store, texts)
        assert [store.candidates(text, 1)[0].text for text in texts] == texts


def test_candidates_are_few_and_always_the_same(store: Store):
    query = "sister Krankenversicherung 妹妹 Özdemir Kaffee"
    found = store.candidates(query, 3)
    assert len(found) == 3 and found == store.candidates(query, 3) == store.candidates(query)[:3]
    assert store.candidates("zzz") == [] == store.candidates("")


def test_equals_are_in_the_order_of_their_making(tmp_path: Path):
    with Store.open(tmp_path / "memory.db") as store:
        fill(store, [f"tea number {n}" for n in "cab"])
        assert [found.text[-1] for found in store.candidates("tea")] == ["c", "a", "b"]


@pytest.mark.parametrize(
    "query", ['"', "*", "NEAR(", "sister AND", "words:sister", "-sister", "^sister", "(", "\0"]
)
def test_no_text_is_an_operator(store: Store, query: str):
    expected = [MEMORIES[0]] if "sister" in query else []
    assert [found.text for found in store.candidates(query, 1)] == expected


def test_a_search_finds_what_is_shorter_than_a_word(store: Store):
    assert [found.text for found in store.search("妹")] == [MEMORIES[2]]
    assert store.search("Graz", 1)[0].text == MEMORIES[0]


def test_common_words_are_left_out_before_rare_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Store.open(tmp_path / "memory.db") as store:
        fill(store, [*(f"the tea of day {n}" for n in range(30)), "the zebra"])
        monkeypatch.setattr(reading, "MAX_POSTINGS", 5)
        assert [found.text for found in store.candidates("the zebra", 50)] == ["the zebra"]
        assert len(store.candidates("the", 50)) == 31  # the only one is not left out


def test_words_are_folded_and_cjk_is_cut_into_pairs():
    assert words("Özdemir's ＴＥＡ, 2.5 kg") == ["ozdemir", "s", "tea", "2", "5", "kg"]
    assert words("我妹妹 Graz猫が") == ["我妹", "妹妹", "graz", "猫が"]
    assert words("か\u3099") == words("が") == ["が"]  # a voiced kana is not an accented one
    assert trigrams(["haus", "ab"]) == ["hau", "aus"]


def test_what_is_no_text_is_replaced():
    assert storable("a\0\ud800b\U0001f642") == "a\ufffd\ufffdb\U0001f642"


@pytest.mark.slow
@pytest.mark.skipif(not PAWSX.exists(), reason="real data is not here")
def test_paraphrases_are_found_in_english_and_chinese(tmp_path: Path):
    rows = [json.loads(line) for line in PAWSX.read_text(encoding="utf-8").splitlines()[:300]]
    for language in ("en", "zh"):
        first, second = f"sentence1_{language}", f"sentence2_{language}"
        pairs = [row for row in rows if row[f"label_{language}"] == 1][:60]
        with Store.open(tmp_path / f"{language}.db") as store:
            fill(store, [row[first] for row in rows[:120]])
            stored = {memory.text for memory in store.memories()}
            pairs = [row for row in pairs if row[first] in stored]
            hits = [row[first] in [found.text for found in store.candidates(row[second])] for row in pairs]
        assert len(pairs) > 30 and sum(hits) / len(hits) > 0.97
