"""Checks of single texts: empty, damaged, left over, or unusually long."""

import re
from collections.abc import Callable, Sequence
from statistics import median

from smidgen.data.control_tokens import spells_control
from smidgen.data.examine_pairs import FEWEST
from smidgen.data.examples import Example, normalise, words_of
from smidgen.data.findings import Finding, Severity, finding

OUTLIER, OUTLIER_CHARACTERS = 20, 2_000
"""A text is an outlier if it is this many times as long as the median, and has this many characters."""
COPIED_WORDS = 6
"""Fewest words of a completion in its prompt that is a leak, and not an answer that the text gives."""

# UTF-8 that was read as Latin-1 or Windows-1252, and characters that no text has.
_DAMAGE = re.compile(
    "\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]|[ÂÃ][\u0080-\u00bf]|Ã[€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
    "|â€[\u0080-\u00bf™œžŸ˜“”¦]"
)
_PLACEHOLDER = re.compile(
    r"(todo|tbd|fixme|n\s*/\s*a|none|null|nan|undefined|placeholder|xxx+|\?+|\.{3,}|…|lorem ipsum.*"
    r"|\[(insert|your|answer)[^\]]*\]|<(insert|your|answer)[^>]*>|#(n/a|ref!|value!))[.:!]*",
    re.IGNORECASE | re.DOTALL,
)
_ASSISTANT = re.compile(
    r"\bas an? (ai|artificial intelligence)( language)? (model|assistant)\b", re.IGNORECASE
)


def examine_texts(examples: Sequence[Example]) -> list[Finding]:
    """Find problems of the texts of single rows."""

    def those(is_bad: Callable[[Example], bool]) -> list[str]:
        return [example.id for example in examples if is_bad(example)]

    checks: tuple[tuple[str, Severity, Callable[[Example], bool], str], ...] = (
        ("empty prompt", "error", lambda e: not e.prompt.strip(), "the prompt is empty; remove"),
        ("nothing to learn", "error", _is_blank, "the completion is empty, so nothing is learned; remove"),
        (
            "empty answer",
            "warning",
            _has_blank_answer,
            "one of the answers is empty; see whether it was lost",
        ),
        (
            "damaged text",
            "warning",
            lambda e: any(map(_DAMAGE.search, e.texts)),
            "they contain control characters or wrongly decoded text (such as 'Ã©'); export them as UTF-8",
        ),
        (
            "control token",
            "warning",
            lambda e: any(map(spells_control, e.texts)),
            "they spell a control token of a chat template, trained as plain text; see whether it is meant",
        ),
        (
            "placeholder",
            "warning",
            _is_placeholder,
            "the completion is a placeholder or a disclaimer; remove",
        ),
        (
            "stray spaces",
            "warning",
            lambda e: bool(e.completion) and e.completion != e.completion.strip() and not _is_blank(e),
            "the completion begins or ends with spaces or line breaks, which it learns",
        ),
        (
            "answer in prompt",
            "warning",
            _is_copied,
            f"the prompt contains the whole completion, of {COPIED_WORDS} words or more; see if it leaks",
        ),
    )
    found = [
        each
        for kind, severity, is_bad, advice in checks
        for each in finding(kind, severity, those(is_bad), advice)
    ]
    return found + _outliers(examples)


def _is_blank(example: Example) -> bool:
    return example.completion is not None and not example.completion.strip()


def _has_blank_answer(example: Example) -> bool:
    return example.is_pair and not all(answer.strip() for answer in example.answers)


def _is_placeholder(example: Example) -> bool:
    text = (example.completion or "").strip()
    if not text or example.label is not None:  # a class may well be called none
        return False
    return _PLACEHOLDER.fullmatch(text) is not None or _ASSISTANT.search(text) is not None


def _is_copied(example: Example) -> bool:
    text = normalise(example.completion or "")
    if example.label is not None or len(text) <= COPIED_WORDS or text not in normalise(example.prompt):
        return False
    return len(words_of(text)) >= COPIED_WORDS


def _outliers(examples: Sequence[Example]) -> list[Finding]:
    """Find rows with a prompt or an answer that is far longer than those of others."""
    if len(examples) < FEWEST:
        return []
    lengths = [(len(e.prompt), max(map(len, e.answers), default=0)) for e in examples]
    limits = [max(OUTLIER * median(column), OUTLIER_CHARACTERS) for column in zip(*lengths, strict=True)]
    long = [
        example.id
        for example, sizes in zip(examples, lengths, strict=True)
        if any(size > limit for size, limit in zip(sizes, limits, strict=True))
    ]
    return finding(
        "outlier", "warning", long, f"a text is more than {OUTLIER} times as long as usual; see why"
    )
