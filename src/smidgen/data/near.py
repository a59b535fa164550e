"""Near-duplicates and shared word sequences of texts.

Texts are sets of shingles, runs of `SHINGLE` words, and are nearly equal if at least `NEAR` of all their
shingles are in both (Jaccard). Candidates come from MinHash signatures in bands (Broder 1997,
https://doi.org/10.1109/SEQUEN.1997.666900) and are then compared exactly, so every pair that is reported is
one; a pair at the threshold is missed with a probability of 5 in 10⁸. Shingles that very many texts share are
a template's, and do not count.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rensa import RMinHash, RMinHashLSH  # type: ignore[attr-defined]  # has no stubs

from smidgen.data.examples import words_of

NEAR = 0.8
"""Smallest share of common shingles of two nearly equal texts, as in https://arxiv.org/abs/2107.06499."""
SHINGLE = 3
FEWEST_WORDS = 8
"""Shorter texts are compared as a whole: a word more or less makes them another text."""
LONG_RUN, SHORT_RUN = 13, 8
"""Words of a run that two texts share only if one is from the other (GPT-3, https://arxiv.org/abs/2005.14165,
appendix C); the shorter run is for texts with fewer words than the longer one."""
TEMPLATE_SHARE = 0.1
"""What is in more than this share of the texts is a template's."""
FEWEST_TEXTS = 20
"""Number of texts from which on a template shows."""
_HASHES, _BANDS = 128, 32
_MOST_CANDIDATES = 64  # bounds the comparisons with texts from one template

Parts = tuple[frozenset[str], ...]


def near_duplicates(texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Yield the position of each row that is nearly equal to an earlier one, and the position of that one.

    Args:
        texts: the texts of each row, equally many; rows are nearly equal if each of their texts is.
    """
    parts = _shingled(texts)
    index = _Index()
    for row, (part, signature) in enumerate(zip(parts, _signatures(parts), strict=True)):
        if (other := index.find(part, signature)) is None:
            index.add(row, part, signature)
        else:
            yield row, other


def near_copies(texts: Sequence[str], originals: Sequence[str]) -> list[int]:
    """Return the positions of the texts that are nearly equal to one of `originals`."""
    parts = _shingled([(text,) for text in (*originals, *texts)])
    signatures = _signatures(parts)
    index, start = _Index(), len(originals)
    for row in range(start):
        index.add(row, parts[row], signatures[row])
    return [
        row - start for row in range(start, len(parts)) if index.find(parts[row], signatures[row]) is not None
    ]


def shared_runs(texts: Sequence[str], originals: Iterable[str]) -> list[int]:
    """Return the positions of the texts that share a run of `LONG_RUN` words with one of `originals`.

    Texts with fewer words than that share `SHORT_RUN` words; still shorter ones are left out.
    """
    held: dict[int, dict[str, list[int]]] = {LONG_RUN: {}, SHORT_RUN: {}}
    for number, text in enumerate(texts):
        words = words_of(text)
        length = LONG_RUN if len(words) >= LONG_RUN else SHORT_RUN
        for run in _runs(words, length):
            held[length].setdefault(run, []).append(number)
    limit = _template_limit(len(texts))
    shared: set[int] = set()
    for original in originals:
        words = words_of(original)
        for length, by_run in held.items():
            for run in _runs(words, length) & by_run.keys() if by_run else ():
                if len(by_run[run]) <= limit:
                    shared.update(by_run[run])
    return sorted(shared)


class _Index:
    """Rows that may be found again by nearly equal ones."""

    def __init__(self) -> None:
        self._bands = RMinHashLSH(threshold=NEAR, num_perm=_HASHES, num_bands=_BANDS)
        self._parts: dict[int, Parts] = {}

    def add(self, row: int, parts: Parts, signature: RMinHash) -> None:
        self._bands.insert(row, signature)
        self._parts[row] = parts

    def find(self, parts: Parts, signature: RMinHash) -> int | None:
        """Return the first row that is nearly equal."""
        candidates = sorted(self._bands.query(signature))[:_MOST_CANDIDATES]
        return next((row for row in candidates if _is_near(parts, self._parts[row])), None)


def _is_near(parts: Parts, others: Parts) -> bool:
    return all(len(a & b) >= NEAR * len(a | b) for a, b in zip(parts, others, strict=True))


def _signatures(parts: Sequence[Parts]) -> list[RMinHash]:
    """Return the signatures of the shingles of all parts; those of different parts are different."""
    sets = [[f"{number}:{s}" for number, part in enumerate(row) for s in sorted(part)] for row in parts]
    return RMinHash.from_token_sets(sets, num_perm=_HASHES, seed=0)


def _shingled(texts: Sequence[Sequence[str]]) -> list[Parts]:
    """Return the shingles of every text of every row, without those of templates."""
    words = [[words_of(text) for text in row] for row in texts]
    found = [[_shingles(part) for part in row] for row in words]
    counts = Counter(shingle for row in found for shingle in frozenset[str]().union(*row))
    limit = _template_limit(len(texts))
    return [
        tuple(
            frozenset(s for s in shingles if counts[s] <= limit) or frozenset({" ".join(part)})
            for shingles, part in zip(row, parts, strict=True)
        )
        for row, parts in zip(found, words, strict=True)
    ]


def _shingles(words: Sequence[str]) -> frozenset[str]:
    if len(words) < FEWEST_WORDS:
        return frozenset({" ".join(words)})
    return _runs(words, SHINGLE)


def _runs(words: Sequence[str], length: int) -> frozenset[str]:
    return frozenset(" ".join(words[i : i + length]) for i in range(len(words) - length + 1))


def _template_limit(number: int) -> float:
    """Return the number of texts out of `number` above which what they share is a template's."""
    return max(TEMPLATE_SHARE * number, 2) if number >= FEWEST_TEXTS else number
