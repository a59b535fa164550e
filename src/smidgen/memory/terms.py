"""What a text is found by: its words, pairs of characters where a script has no spaces, and trigrams.

SQLite's `unicode61` takes a whole Chinese sentence, and a Latin name next to it, for one word. So texts are cut
here first: runs of Han, kana and Hangul into overlapping pairs (the CJK bigrams of Lucene's CJKAnalyzer), anything
else into words. Trigrams within words find what words alone cannot: German compounds, inflection, typing errors.
"""

import unicodedata
from collections.abc import Iterable

import regex

MAX_TERMS = 256
"""Most terms of a query: of a longer text only the first are looked for."""

_CJK = r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}ー"
_RUNS = regex.compile(rf"(?V1)([{_CJK}]+)|[[\p{{L}}\p{{M}}\p{{N}}]--[{_CJK}]]+")


def storable(text: str) -> str:
    """The text that a database can hold: NUL and lone surrogates, which are no text, become U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def words(text: str) -> list[str]:
    """Cut a text into the words that it is found by, pairs of characters for CJK; case and width are folded."""
    found = []
    for run in _RUNS.finditer(unicodedata.normalize("NFKC", storable(text)).casefold()):
        word = run[0]
        if run[1] and len(word) > 1:
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            found.append(word)
    return found


def words_query(text: str) -> str:
    """An FTS5 query for any of a text's words; empty if it has none."""
    return _any_of(words(text))


def trigrams_query(text: str) -> str:
    """An FTS5 query for any trigram of a text's words; empty if none has three characters."""
    return _any_of(word[i : i + 3] for word in words(text) for i in range(len(word) - 2))


def _any_of(terms: Iterable[str]) -> str:
    """Join terms with OR, each once and quoted, so that none is an operator of the query language."""
    distinct = list(dict.fromkeys(terms))[:MAX_TERMS]
    return " OR ".join(f'"{term}"' for term in distinct)  # words hold letters, marks and digits: no quotes
