"""The generated pretraining corpus: every text format that a specialist needs, but never its task.

The documents contain questions with answers, but also tags, boxes, numbered lists, JSON, quotations of
labelled notes, checks of a single answer, comparisons of numbers and everyday sentences. No document shows
two answers to one question and says which is better: a judge is fine-tuned on that later.
"""

from collections.abc import Callable, Iterator
from itertools import count, islice

from smidgen.data import word_lists as words
from smidgen.data.corpus_chats import check, conversation, json_answer, marks, quote, rubric, tagged
from smidgen.data.corpus_texts import (
    almanac,
    calculations,
    lookups,
    pairs_of_texts,
    plain_questions,
    repeats,
    same,
    sentences,
    spelling,
    who_is_right,
)
from smidgen.data.world import SYLLABLES, Split, World

OPENING = 8192  # documents in the first phase of the curriculum, about 0.8 M tokens
_CHUNK = 512  # documents per seeded world; resuming a stream regenerates at most one chunk
Forms = dict[Callable[[World], str], int]
OPENING_FORMS: Forms = {repeats: 1, lookups: 1}
FORMS: Forms = {
    plain_questions: 14,
    calculations: 45,
    conversation: 18,
    check: 26,
    quote: 14,
    same: 4,
    repeats: 4,
    lookups: 20,
    pairs_of_texts: 8,
    who_is_right: 15,
    tagged: 9,
    marks: 5,
    json_answer: 3,
    spelling: 4,
    rubric: 2,
    sentences: 10,
    almanac: 3,
}


def curriculum(seed: int, start: int = 0) -> Iterator[str]:
    """Yield the training stream: `OPENING` documents of repeats and look-ups only, then `documents`.

    In-context look-up is learned within a few hundred steps if little else lowers the loss, but hardly at all
    if everything is mixed from the start (docs/notebook.md).
    """
    if start < OPENING:
        yield from islice(_stream(OPENING_FORMS, f"opening/{seed}", "train", start), OPENING - start)
    yield from documents(seed, max(0, start - OPENING))


def documents(seed: int, start: int = 0, split: Split = "train") -> Iterator[str]:
    """Yield documents without end; `start` skips that many of them, so that a run can resume."""
    return _stream(FORMS, f"corpus/{seed}", split, start)


def _stream(forms: Forms, name: str, split: Split, start: int) -> Iterator[str]:
    for chunk in count(start // _CHUNK):
        world = World(split, f"{name}/{chunk}")
        drawn = world.rng.choices(list(forms), weights=list(forms.values()), k=_CHUNK)
        texts = [form(world) for form in drawn]
        yield from texts[start % _CHUNK :] if chunk == start // _CHUNK else texts


def tokenizer_documents(seed: int, number: int) -> Iterator[str]:
    """Yield documents to train a tokenizer on.

    Every 40th is followed by lists of common words and syllables, so that each of these becomes one token.
    """
    everyday = (words.PEOPLE, words.PLACES, words.THINGS, words.VERBS, words.ADJECTIVES, words.LITTLE_WORDS)
    listed = " " + " ".join(word for group in (*everyday, words.COMMON_WORDS) for word in group)
    grading = "".join(
        f" {word} {word.capitalize()}\n{word}\n{word.capitalize()}<{word}_{word}"
        for word in words.GRADING_WORDS
    )
    names = "".join(f" {syllable} {syllable}\n{syllable}" for syllable in SYLLABLES)
    stream = documents(seed)
    for index in range(number):
        yield next(stream)
        if index % 40 == 0:
            yield from (listed, grading, names)
