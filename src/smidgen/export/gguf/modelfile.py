"""A Modelfile for Ollama (https://docs.ollama.com/modelfile).

Ollama renders conversations by templates of Go's and knows those of many published models. For any other it
would show the model the bare text, so the usual forms of a conversation are written out where the model's
own template renders just that.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.data.types import Message
from smidgen.errors import ModelError
from smidgen.files import read_json

FORMS = {
    "ChatML": "<|im_start|>{role}\n{content}<|im_end|>\n",
    "Llama 3": "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
}
"""What one message looks like in the usual forms of a conversation."""
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repeat_penalty",
}
"""Keys of generation_config.json to Ollama's parameters."""

_SHORT = (Message("user", "u"),)
_LONG = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))


def modelfile(model_file: str, folder: Path, license_name: str | None) -> str:
    """Return the text of a Modelfile.

    Args:
        model_file: name of the GGUF file beside it.
        folder: of the model that the file was made from.
        license_name: what the licence is called, where that is known.

    Raises:
        ModelError: generation_config.json has something else than a number where a number belongs, or a text
            cannot be quoted.
    """
    tokenizer = load_tokenizer(folder)
    lines = [f"FROM ./{model_file}"]
    if (template := go_template(tokenizer)) is not None:
        lines.append(f"TEMPLATE {_quoted(template)}")
    ends = (tokenizer.decode([token], keep_special=True) for token in sorted(tokenizer.eos_token_ids))
    lines += [f"PARAMETER stop {_quoted(end)}" for end in ends]
    lines += [f"PARAMETER {name} {value}" for name, value in _sampling(folder / "generation_config.json")]
    if license_name is not None:
        lines.append(f"LICENSE {_quoted(license_name)}")
    return "\n".join(lines) + "\n"


def go_template(tokenizer: Tokenizer) -> str | None:
    """Return the Go template that renders what the tokenizer's does, or None where no usual form does.

    What a template begins with, such as the token that begins every text, is left out where the tokenizer
    puts it there itself: the GGUF file tells llama.cpp to do so too.
    """
    if not tokenizer.has_template:
        return None
    try:
        short, long = (
            tokenizer.decode(tokenizer.render_prompt(turns), keep_special=True) for turns in (_SHORT, _LONG)
        )
    except ModelError:
        return None  # it refuses a system message
    put = tokenizer.decode(tokenizer.opening, keep_special=True)
    for form in FORMS.values():
        head, found, opening = short.partition(form.format(role="user", content="u"))
        turns = "".join(form.format(role=turn.role, content=turn.content) for turn in _LONG)
        if found and long == head + turns + opening and "{{" not in head + opening:
            message = form.format(role="{{ .Role }}", content="{{ .Content }}")
            return f"{head.removeprefix(put)}{{{{- range .Messages }}}}{message}{{{{ end }}}}{opening}"
    return None


def _sampling(file: Path) -> Iterator[tuple[str, int | float]]:
    """The settings of a generation_config.json by Ollama's names."""
    settings = read_json(file) if file.is_file() else {}
    for key, name in SAMPLING.items():
        value = settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, value
        elif value is not None:
            raise ModelError(f"'{key}' in {file} is {value!r}; expected a number")


def _quoted(text: str) -> str:
    """A text between Ollama's quotes, which know no escapes: between three it may hold single ones.

    Raises:
        ModelError: it holds the quotes itself.
    """
    if '"""' in text:
        raise ModelError(
            f"a Modelfile cannot hold {text!r}, which has three quotes in a row; leave --modelfile out"
        )
    quotes = '"""' if '"' in text or "\n" in text else '"'
    return f"{quotes}{text}{quotes}"
