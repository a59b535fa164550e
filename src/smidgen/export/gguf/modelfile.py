"""A Modelfile for Ollama (https://docs.ollama.com/modelfile).

Ollama renders conversations by templates of Go's and knows those of many published models. For any other it
would show the model the bare text, so the usual forms of a conversation are written out where the model's
own template renders just that.
"""

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
    """
    tokenizer = load_tokenizer(folder)
    lines = [f"FROM ./{model_file}"]
    if (template := go_template(tokenizer)) is not None:
        lines.append(f'TEMPLATE """{template}"""')
    ends = sorted(tokenizer.eos_token_ids)
    lines += [f'PARAMETER stop "{tokenizer.decode([token], keep_special=True)}"' for token in ends]
    file = folder / "generation_config.json"
    settings = read_json(file) if file.is_file() else {}
    known = {name: settings.get(key) for key, name in SAMPLING.items()}
    lines += [f"PARAMETER {name} {value}" for name, value in known.items() if value is not None]
    if license_name is not None:
        lines.append(f'LICENSE """{license_name}"""')
    return "\n".join(lines) + "\n"


def go_template(tokenizer: Tokenizer) -> str | None:
    """Return the Go template that renders what the tokenizer's does, or None where no usual form does."""
    if not tokenizer.has_template:
        return None
    try:
        short, long = (
            tokenizer.decode(tokenizer.render_prompt(turns), keep_special=True) for turns in (_SHORT, _LONG)
        )
    except ModelError:
        return None  # it refuses a system message
    for form in FORMS.values():
        start = form.format(role="user", content="u")
        opening = short.removeprefix(start)
        turns = "".join(form.format(role=turn.role, content=turn.content) for turn in _LONG)
        if short.startswith(start) and long == turns + opening:
            message = form.format(role="{{ .Role }}", content="{{ .Content }}")
            return f"{{{{- range .Messages }}}}{message}{{{{ end }}}}{opening}"
    return None
