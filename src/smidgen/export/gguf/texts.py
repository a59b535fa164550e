"""Texts that tokenizers are compared on: scripts, code, numbers, white space and emoji in any order."""

import random
import unicodedata

_PIECES = (
    "the better answer", "I'd say it's", "YES, IT'S", "camelCase HTTPServer", "naïve café", "Łódź", "Füße",
    "Ελληνικά", "Русский текст", "Türkçe ığüş", "Tiếng Việt", "日本語のテキスト", "한국어 문장", "中文字符。",
    "العربية", "עברית", "हिन्दी", "ไทย", "தமிழ்", "ქართული", "１２３", "！（全角）",
    "🙂", "👩‍👩‍👧", "🇫🇷", "½ ² ™", "\u00a0",
    "\u3000", "…", "“quoted”", "3.14159", "2,718", "1234567890", "0x1F", "007", "$5.00", "50%", "a1b22c333",
    "def f(x: int) -> str:", "return x ** 2", "{'a': [1, 2]}", "</div>", "#include <stdio.h>", "x != y && !z",
    "_private__name", "path/to/file.txt", "https://example.org/?q=1", "e-mail@host", "C++", "\\frac{a}{b}",
)  # fmt: skip
_BETWEEN = (
    "",
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " \n ",
    ", ",
    ". ",
    "; ",
    "-",
    "'",
    '"',
)


def varied_texts(count: int, *, seed: int = 0) -> list[str]:
    """Return texts of up to a dozen pieces, the same for the same seed, in Unicode's NFC."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = [draw.choice(_BETWEEN)]
        for _ in range(draw.randint(1, 12)):
            parts += [draw.choice(_PIECES), draw.choice(_BETWEEN)]
        texts.append(unicodedata.normalize("NFC", "".join(parts)))
    return texts
