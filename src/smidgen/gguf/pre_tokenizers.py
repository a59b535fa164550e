"""How byte-level BPE tokenizers split text into words, by llama.cpp's name of each way.

llama.cpp has the regular expressions built in and a GGUF file only names them (`tokenizer.ggml.pre`), so the
names and what each stands for are part of the format. They are listed in `src/llama-vocab.cpp` of
https://github.com/ggml-org/llama.cpp. A few are missing here: those that no sequence of regular expressions
describes as llama.cpp computes them (`kimi-k2`, `afmoe`, `superbpe`, `youtu`, `tiny_aya`) and those of
tokenizers that are not byte-level (`gemma4`).
"""

from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from smidgen.data.tokenizer import QWEN2_PATTERN

DIGITS, GPT2 = "digits", "gpt2"
"""Steps that `tokenizers` has by name: each digit alone; the expression of GPT-2, always the last step."""

LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN35_PATTERN = QWEN2_PATTERN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CJK = "[一-龥\u3040-ゟ゠-ヿ]+"
_DEEPSEEK_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_ASIAN = "[一-龥ࠀ-一가-\ud7ff]+"
# Letters of two cases, without those that DeepSeek's tokenizer.json leaves out.
_UNLISTED = (
    "\u0560-\u0588\u10c7-\u10ff\u1c80-\u1c88\u2d00-\u2d2d\ua790-\ua7fa\uab30-\uab68"
    "\U00010570-\U000105bc\U00016e40-\U0001df1e"
)
_CASED = rf"[\p{{Lu}}\p{{Ll}}\p{{Lt}}]&&[^{_UNLISTED}]"
_UPPER, _LOWER = r"(?:(?=[\p{L}])[^a-z])", r"(?:(?=[\p{L}])[^A-Z])"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN_PATTERN = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O_PATTERN = (
    rf"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_SENTENCE_PATTERN = r" ?[^(\s|.,!?…。，、।۔،)]+"


class Splitting(NamedTuple):
    """How a tokenizer makes words of a text, and what llama.cpp assumes beside it.

    Attributes:
        steps: regular expressions, `DIGITS` or `GPT2`, each of which splits what those before it left.
        whole_words: whether a word that is a token is taken as it is, without merging.
        opens: whether a text begins with the token bos where a file does not say.
    """

    steps: tuple[str, ...]
    whole_words: bool = False
    opens: bool = False


_LLAMA3 = Splitting((LLAMA3_PATTERN,), whole_words=True, opens=True)
_SMAUG = Splitting((LLAMA3_PATTERN,))
_QWEN2 = Splitting((QWEN2_PATTERN,))
_PLAIN = Splitting((GPT2,))
_SMOLLM = Splitting((DIGITS, GPT2))
_DEEPSEEK3 = Splitting((r"\p{N}{1,3}", _CJK, _DEEPSEEK_WORDS))
_GPT4O = Splitting((_GPT4O_PATTERN,))
_BLOOM = Splitting((_SENTENCE_PATTERN,))
_BAILING = Splitting(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    )
)
_DEFAULT = Splitting((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_PATTERN, r"\p{N}+", r"[0-9][0-9][0-9]"))

_OTHER_NAMES = {
    "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": _QWEN2,
    "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": _LLAMA3,
    "dbrx glm4 chatglm-bpe": _SMAUG,
    "phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4": _PLAIN,
    "starcoder refact command-r codeshell exaone minerva-7b mellum2": _SMOLLM,
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _DEEPSEEK3,
    "gpt-4o llama4 kanana2 minimax-m2": _GPT4O,
    "bloom poro-chat gpt3-finnish": _BLOOM,
    "bailingmoe bailingmoe2 llada-moe": _BAILING,
}
"""Names that stand for the same way."""

PRE_TOKENIZERS: dict[str, Splitting] = {
    # the first name of a way is the one that files are written with
    "qwen2": _QWEN2,
    "qwen35": Splitting((QWEN35_PATTERN,)),
    "llama-bpe": _LLAMA3,
    "smaug-bpe": _SMAUG,
    "gpt-2": _PLAIN,
    "smollm": _SMOLLM,
    **{name: way for names, way in _OTHER_NAMES.items() for name in names.split()},
    "deepseek-llm": Splitting(
        (r"[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _ASIAN, r"\p{N}+")
    ),
    "deepseek-coder": Splitting((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _ASIAN, r"\p{N}")),
    "falcon": Splitting((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_PATTERN, r"[0-9][0-9][0-9]")),
    "viking": Splitting((_SENTENCE_PATTERN, r"\p{N}")),
    "tekken": Splitting((_TEKKEN_PATTERN,), whole_words=True, opens=True),
    "seed-coder": Splitting(
        (rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
    ),
    "minicpm5": Splitting(
        (
            r"\p{N}{1,3}",
            rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
        ),
        whole_words=True,
    ),
    "jais-2": Splitting(
        (
            rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
            + "".join(rf"\s{{{count}}}(?!\S)|" for count in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"\s{1,2}(?!\S)|\s{1}",
        )
    ),
    "chameleon": Splitting(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2_PATTERN,
        ),
        opens=True,
    ),
    "exaone-moe": Splitting(
        (
            rf"{_CONTRACTIONS}|{_BEFORE}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "laguna": Splitting((r"[^\n]+|[\n]+", QWEN2_PATTERN)),
    "ufakzeka": Splitting((QWEN2_PATTERN.partition(")|")[2],)),
    "default": _DEFAULT,
}
"""Ways to split by llama.cpp's name; a file that names none is split as `default`."""

WRITTEN: dict[tuple[tuple[str, ...], bool], str] = {
    (way.steps, way.whole_words): name for name, way in reversed(PRE_TOKENIZERS.items())
}
"""Steps, and whether whole words are taken, to the name that stands for them in files."""


def pre_tokenizer(steps: tuple[str, ...]) -> PreTokenizer:
    """Return the pre-tokenizer that splits text by steps and then spells it in bytes."""
    parts: list[PreTokenizer] = []
    for step in steps:
        if step == DIGITS:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif step != GPT2:
            parts.append(pre_tokenizers.Split(Regex(step), "isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in steps))
    return pre_tokenizers.Sequence(parts)
