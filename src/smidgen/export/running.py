"""How each kind of artefact is run in each program that loads it, as a model card says it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from smidgen.export.markdown import Markdown, argument, code
from smidgen.export.peft import VLLM_DEFAULT_RANK, VLLM_RANKS, vllm_warnings
from smidgen.models.adapter import read_adapter

QUESTION = "Which answer is better?"
ELSEWHERE = ("llama", "qwen2", "qwen3")
"""Model types that transformers and vLLM run as we do."""


class Way(NamedTuple):
    """A program, how to run the artefact in it, and what to know before."""

    program: str
    code: Markdown
    notes: tuple[str, ...] = ()


def ways(format: str, folder: Path, base: str, model_type: str | None) -> Iterator[Way]:
    """Yield the ways to run an artefact.

    Args:
        format: `mlx`, `fused`, `peft`, `mlx-adapter` or `gguf`.
        folder: where it stands; its name is what the commands name.
        base: the model that an adapter goes on.
        model_type: of the model, as in `config.json`.
    """
    place = argument(folder.name)
    if format == "peft":
        yield from _peft(folder, place, base, model_type)
    elif format == "mlx-adapter":
        options = f"--model {argument(base)} --adapter-path {place}"
        yield Way("mlx-lm", _shell(f"mlx_lm.generate {options} --prompt {argument(QUESTION)}"))
    elif format == "gguf":
        yield from _gguf(folder)
    else:
        if model_type in ELSEWHERE:  # mlx-lm has no graph for the dense models of the others
            yield Way("mlx-lm", _shell(f"mlx_lm.generate --model {place} --prompt {argument(QUESTION)}"))
        if format == "fused":
            yield Way("transformers", _python(folder.name, None))
            if model_type in ELSEWHERE:
                yield Way("vLLM", _shell(f"vllm serve {place}"))
    adapter = format in ("peft", "mlx-adapter")
    options = f"--model {argument(base)} --adapter {place}" if adapter else f"--model {_smidgen_name(folder)}"
    yield Way("smidgen", _shell(f"smidgen generate {options} --prompt {argument(QUESTION)}"))


def _peft(folder: Path, place: str, base: str, model_type: str | None) -> Iterator[Way]:
    notes = ()
    if base.startswith("smidgen:"):
        notes = (f"{base} comes with smidgen; name the folder that smidgen inspect {base} shows instead.",)
    yield Way("transformers and PEFT", _python(base, folder.name), notes)
    if model_type not in (*ELSEWHERE, None):
        return
    adapter = read_adapter(folder)
    rank = max(adapter.ranks.values())
    allowed = next((known for known in VLLM_RANKS if known >= rank), None)
    option = f" --max-lora-rank {allowed}" if allowed and rank > VLLM_DEFAULT_RANK else ""
    command = f"vllm serve {argument(base)} --enable-lora{option} --lora-modules adapter={place}"
    yield Way("vLLM", _shell(command), (*notes, *(f"{warning}." for warning in vllm_warnings(adapter))))


def _gguf(folder: Path) -> Iterator[Way]:
    names = sorted(file.name for file in folder.glob("*.gguf")) or ["model.gguf"]
    file = argument(names[0])
    yield Way("llama.cpp", _shell(f"llama-cli -m {file} -cnv\nllama-server -m {file}"))
    made = sorted(file.name for file in folder.glob("*Modelfile"))
    recipe = f"ollama create specialist -f {argument(made[0])}" if made else (
        f"printf 'FROM ./%s\\n' {file} > Modelfile\nollama create specialist -f Modelfile"
    )  # fmt: skip
    yield Way("Ollama", _shell(f"{recipe}\nollama run specialist {argument(QUESTION)}"))


def _smidgen_name(folder: Path) -> str:
    files = sorted(file.name for file in folder.glob("*.gguf"))
    return argument(files[0] if files else folder.name)


def _shell(text: str) -> Markdown:
    return code(text, "shell")


def _python(model: str, adapter: str | None) -> Markdown:
    """A program that asks one question through the chat template; an adapter is put on the model."""
    put = f"model = PeftModel.from_pretrained(model, {json.dumps(adapter)})\n" if adapter else ""
    return code(
        ("from peft import PeftModel\n" if adapter else "")
        + "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"name = {json.dumps(model)}\n"
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")\n' + put +
        f'messages = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]\n'
        "prompt = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ")\n"
        "answer = model.generate(**prompt, max_new_tokens=256)\n"
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
        "python",
    )  # fmt: skip
