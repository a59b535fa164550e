import random

import pytest

from smidgen.data.grammar import Drawing, Value, entities, in_split, sections, tidied


def drawing(seed: int = 0) -> Drawing:
    return Drawing(random.Random(seed), "train")


def texts(template: str, count: int = 60) -> set[str]:
    return {drawing(seed).text(template, "en") for seed in range(count)}


def test_choices_nest_and_may_be_empty() -> None:
    assert texts("(a|b(c|d)|)e") == {"ae", "bce", "bde", "e"}


def test_a_backslash_takes_a_character_as_it_is() -> None:
    assert texts(r"f\(x\) \{(a|\|)\} \\ \n") == {"f(x) {a} \\ \n", "f(x) {|} \\ \n"}


def test_a_bar_outside_a_choice_is_a_bar() -> None:
    assert texts("| a |") == {"| a |"}


def test_numbers_are_within_bounds() -> None:
    assert texts("{int:2-4}") == {"2", "3", "4"}


def test_a_slot_keeps_its_value_and_a_numbered_one_has_another() -> None:
    for seed in range(40):
        first, again, other = drawing(seed).text("{city}/{city}/{city#2}", "en").split("/")
        assert first == again != other


def test_other_slots_are_filled_by_the_caller() -> None:
    assert drawing().text("{p} (x|x)", "en", slots={"p": lambda: "Ilse"}) == "Ilse x"


def test_values_have_translations_and_wordings() -> None:
    value = Value("car ~ automobile = Auto = 汽车")
    assert [value.text(language) for language in ("en", "de", "zh")] == ["car", "Auto", "汽车"]
    assert value.text("en", "~") == "automobile" and value.text("de", "~") == "Auto"
    assert [wording.mark for wording in Value("human resources ^ HR").wordings("zh")] == ["", "^"]


@pytest.mark.parametrize(
    ("count", "least", "tested"), [(1, 1, 0), (2, 1, 1), (20, 1, 3), (5, 3, 0), (6, 3, 3)]
)
def test_lines_are_in_one_split(count: int, least: int, tested: int) -> None:
    lines = [str(number) for number in range(count)]
    train, test = (in_split(lines, split, least=least) for split in ("train", "test"))
    assert len(test) == tested and sorted({*train, *test}) == sorted(lines) and not {*train} & {*test}


def test_no_entity_is_in_both_splits() -> None:
    train, test = entities("train"), entities("test")
    assert len(train) > 250 and len(test) > 40 and not train & test


def test_every_template_can_be_expanded() -> None:
    for name in ("texts.en.txt", "texts.de.txt", "texts.zh.txt", "texts.mixed.txt"):
        for lines in sections(name).values():
            for line in lines:
                made = Drawing(random.Random(line), "train", ("values.txt", name, "texts.en.txt"))
                assert made.text(line, "en", slots={"told": lambda: "I am.", "old": lambda: "it"}).strip()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("A accountant on a oboe", "An accountant on an oboe"),
        ("a RV and a SUV", "an RV and an SUV"),
        ("two ponys, goldfishs and parrots", "two ponies, goldfish and parrots"),
        ("We 'll sail  on Monday , at last .", "We'll sail on Monday, at last."),
    ],
)
def test_articles_plurals_and_spaces_fit_the_values(wrong: str, right: str) -> None:
    assert tidied(wrong) == right


def test_what_is_right_already_is_left_alone() -> None:
    for text in (
        "a one-on-one with a European",
        "person A is always a user",
        "on Mondays a ukulele plays",
        "run 'a' .5",
    ):
        assert tidied(text) == text
