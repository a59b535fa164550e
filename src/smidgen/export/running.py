"""How to run each format in each program that loads it, for the model card."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from smidgen.export.markdown import Markdown, argument, code
from smidgen.export.peft_adapter import VLLM_DEFAULT_RANK, VLLM_RANKS, vllm_warnings
from smidgen.models.adapter import read_adapter

QUESTION = "Which answer is better?"
ELSEWHERE = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that transformers and vLLM run like smidgen."""


class Way(NamedTuple):
    """A program, the code that runs the artefact in it, and notes."""

    program: str
    code: Markdown
    notes: tuple[str, ...] = ()


class Subject(NamedTuple):
    """The artefact to run.

    Attributes:
        format: `mlx`, `fused`, `peft`, `mlx-adapter` or `gguf`.
        folder: its folder while the card is written.
        place: where users find it: `owner/name` on the hub, or a folder's name.
        base: the base model of an adapter.
        model_type: the model's `model_type` in `config.json`.
        thinking: whether the chat template enables thinking; None if it has no switch for it.
        usage: the report's `usage`: `command`, `arguments` and `note` with which smidgen runs the task; None
            for a plain prompt.
    """

    format: str
    folder: Path
    place: str
    base: str
    model_type: str | None
    thinking: bool | None
    usage: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.place.rpartition("/")[2]

    def fetched(self, folder: str) -> str:
        """The download command, if the files are on the hub; commands that name files need it first."""
        return f"hf download {argument(self.place)} --local-dir {folder}\n" if "/" in self.place else ""

    def switched(self, option: str) -> str:
        """An option that sets the chat template's thinking switch, if it has one."""
        if self.thinking is None:
            return ""
        return f" {option} {argument(json.dumps({'enable_thinking': self.thinking}))}"

    @property
    def base_notes(self) -> tuple[str, ...]:
        """Notes on a base that other programs cannot download by the name in the commands."""
        if self.base.startswith("smidgen:"):
            return (
                f"{self.base} comes with smidgen; use the folder that smidgen inspect {self.base} shows "
                "instead.",
            )
        return ()


def ways(subject: Subject) -> Iterator[Way]:
    """Yield the ways to run an artefact, the command for its task first."""
    if usage := subject.usage:
        command, note = argument(usage["command"]), usage.get("note")
        options = " ".join(map(argument, usage["arguments"]))
        yield Way("smidgen", _shell(_smidgen(subject, command, options)), (note,) if note else ())
    if subject.format == "peft":
        yield from _peft(subject)
    elif subject.format == "mlx-adapter":
        options = f"--model {argument(subject.base)} --adapter-path {argument(subject.name)}"
        command = subject.fetched(argument(subject.name)) + _mlx_lm(subject, options)
        yield Way("mlx-lm", _shell(command), subject.base_notes)
    elif subject.format == "gguf":
        yield from _gguf(subject)
    else:
        yield from _model(subject)
    if not subject.usage:
        yield Way("smidgen", _shell(_smidgen(subject, "generate", f"--prompt {argument(QUESTION)}")))


def _model(subject: Subject) -> Iterator[Way]:
    place = argument(subject.place)
    if subject.model_type in ELSEWHERE:  # mlx-lm does not support the dense models of the others
        yield Way("mlx-lm", _shell(_mlx_lm(subject, f"--model {place}")))
    if subject.format == "fused":
        yield Way("transformers", _python(subject, subject.place, None))
        if subject.model_type in ELSEWHERE:
            yield Way(
                "vLLM", _shell(f"vllm serve {place}{subject.switched('--default-chat-template-kwargs')}")
            )


def _peft(subject: Subject) -> Iterator[Way]:
    notes = subject.base_notes
    yield Way("transformers and PEFT", _python(subject, subject.base, subject.place), notes)
    if subject.model_type not in (*ELSEWHERE, None):
        return
    adapter = read_adapter(subject.folder)
    rank = max(adapter.ranks.values())
    allowed = next((known for known in VLLM_RANKS if known >= rank), None)
    option = f" --max-lora-rank {allowed}" if allowed and rank > VLLM_DEFAULT_RANK else ""
    command = (
        f"vllm serve {argument(subject.base)} --enable-lora{option} --lora-modules "
        f"adapter={argument(subject.place)}{subject.switched('--default-chat-template-kwargs')}"
    )
    yield Way("vLLM", _shell(command), (*notes, *(f"{warning}." for warning in vllm_warnings(adapter))))


def _gguf(subject: Subject) -> Iterator[Way]:
    file, fetched = _gguf_file(subject), subject.fetched(".")
    options = f"-m {file}{subject.switched('--jinja --chat-template-kwargs')}"
    yield Way("llama.cpp", _shell(f"{fetched}llama-cli {options} -cnv\nllama-server {options}"))
    made = sorted(file.name for file in subject.folder.glob("*Modelfile"))
    recipe = f"ollama create specialist -f {argument(made[0])}" if made else (
        f"printf 'FROM ./%s\\n' {file} > Modelfile\nollama create specialist -f Modelfile"
    )  # fmt: skip
    yield Way("Ollama", _shell(f"{fetched}{recipe}\nollama run specialist {argument(QUESTION)}"))


def _gguf_file(subject: Subject) -> str:
    names = sorted(file.name for file in subject.folder.glob("*.gguf"))
    return argument(names[0] if names else "model.gguf")


def _mlx_lm(subject: Subject, options: str) -> str:
    switch = subject.switched("--chat-template-config")
    return f"mlx_lm.generate {options} --prompt {argument(QUESTION)}{switch}"


def _smidgen(subject: Subject, command: str, asked: str) -> str:
    if subject.format in ("peft", "mlx-adapter"):
        fetched, name = subject.fetched(argument(subject.name)), argument(subject.name)
        options = f"--model {argument(subject.base)} --adapter {name}"
    elif subject.format == "gguf":
        fetched, options = subject.fetched("."), f"--model {_gguf_file(subject)}"
    else:
        fetched, options = "", f"--model {argument(subject.place)}"
    thinking = " --thinking" if subject.thinking else ""
    return f"{fetched}smidgen {command} {options} {asked}{thinking}"


def _shell(text: str) -> Markdown:
    return code(text, "shell")


def _python(subject: Subject, model: str, adapter: str | None) -> Markdown:
    """A script that asks one question through the chat template, with an adapter if there is one."""
    switch = "" if subject.thinking is None else f", enable_thinking={subject.thinking}"
    put = f"model = PeftModel.from_pretrained(model, {json.dumps(adapter)})\n" if adapter else ""
    return code(
        ("from peft import PeftModel\n" if adapter else "")
        + "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"name = {json.dumps(model)}\n"
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")\n' + put +
        f'messages = [{{"role": "user", "content": {json.dumps(QUESTION)}}}]\n'
        "prompt = tokenizer.apply_chat_template(\n"
        f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{switch}\n'
        ")\n"
        "answer = model.generate(**prompt, max_new_tokens=256)\n"
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
        "python",
    )  # fmt: skip
