"""A Modelfile for Ollama (https://docs.ollama.com/modelfile).

Ollama renders conversations with Go templates and knows those of many published models. For other models it
would pass the plain text, so common chat formats are written as a Go template if the model's own template
renders exactly the same.
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
"""One message in the common chat formats."""
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repeat_penalty",
}
"""Keys of generation_config.json and Ollama's names for them."""

_SHORT = (Message("user", "u"),)
_LONG = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))


def modelfile(model_file: str, folder: Path, license_name: str | None) -> str:
    """Return the text of a Modelfile.

    Args:
        model_file: name of the GGUF file in the same folder.
        folder: folder of the model that the file was made from.
        license_name: the licence's name, if known.

    Raises:
        ModelError: generation_config.json has a setting that is not a number, or a text cannot be quoted.
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
    """Return a Go template that renders the same as the tokenizer's, or None if no common format does.

    A leading token that the tokenizer itself prepends, such as BOS, is left out, because the GGUF file makes
    llama.cpp prepend it too.
    """
    if not tokenizer.has_template:
        return None
    try:
        short, long = (
            tokenizer.decode(tokenizer.render_prompt(turns), keep_special=True) for turns in (_SHORT, _LONG)
        )
    except ModelError:
        return None  # the template refuses a system message
    put = tokenizer.decode(tokenizer.opening, keep_special=True)
    for form in FORMS.values():
        head, found, opening = short.partition(form.format(role="user", content="u"))
        turns = "".join(form.format(role=turn.role, content=turn.content) for turn in _LONG)
        if found and long == head + turns + opening and "{{" not in head + opening:
            message = form.format(role="{{ .Role }}", content="{{ .Content }}")
            return f"{head.removeprefix(put)}{{{{- range .Messages }}}}{message}{{{{ end }}}}{opening}"
    return None


def _sampling(file: Path) -> Iterator[tuple[str, int | float]]:
    """Yield the settings of a generation_config.json by Ollama's names."""
    settings = read_json(file) if file.is_file() else {}
    for key, name in SAMPLING.items():
        value = settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, value
        elif value is not None:
            raise ModelError(f"'{key}' in {file} is {value!r}; expected a number")


def _quoted(text: str) -> str:
    """Quote a text for Ollama, which has no escapes; triple quotes allow single quotes and newlines inside.

    Raises:
        ModelError: the text contains triple quotes.
    """
    if '"""' in text:
        raise ModelError(
            f"a Modelfile cannot contain {text!r}, which has three quotes in a row; omit --modelfile"
        )
    quotes = '"""' if '"' in text or "\n" in text else '"'
    return f"{quotes}{text}{quotes}"
