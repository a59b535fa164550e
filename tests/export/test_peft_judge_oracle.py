"""A judge is trained and exported, and real PEFT and transformers judge with it as we do."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smidgen.cli.app import exit_code
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Completion, Record, Request, Sampling
from smidgen.evaluation import collect_records, read_records, summarise
from smidgen.files import read_json
from smidgen.models.load import resolve
from smidgen.tasks import find_task

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PAIRS, MAX_TOKENS = 8, 128
RECIPE = f"""
name = "short"
task = "judge"
[model]
base = "smidgen:nano"
[data]
train = "world"
train_limit = 200
validation_limit = 4
test = "world"
test_limit = {PAIRS}
[train]
method = "sft"
epochs = 1.0
batch_size = 8
max_length = 384
learning_rate = 2e-3
[train.lora]
rank = 16
alpha = 32.0
[evaluate]
max_tokens = {MAX_TOKENS}
[export]
formats = ["peft"]
"""


class PeftEngine:
    """Greedy answers by `generate` of transformers, one prompt after the other."""

    def __init__(self, base: Path, adapter: Path):
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._model: Any = PeftModel.from_pretrained(plain, adapter).eval()
        self._tokenizer = load_tokenizer(base)

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        import torch

        ends = sorted(self._tokenizer.eos_token_ids)
        for request in requests:
            prompt = torch.tensor([self._tokenizer.render_prompt(request.sample.messages)])
            with torch.no_grad():
                found = self._model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=request.sampling.max_tokens,
                    do_sample=False,
                    eos_token_id=ends,
                    pad_token_id=ends[0],
                )
            token_ids = found[0, prompt.shape[1] :].tolist()
            text = self._tokenizer.decode(token_ids[:-1] if token_ids[-1] in ends else token_ids)
            yield request, Completion(text, tuple(token_ids))


def texts_of(records: Iterable[Record]) -> dict[str, str]:
    return {record.sample.id: record.completion.text for record in records}


def test_peft_judges_as_we_do(tmp_path: Path):
    pytest.importorskip("peft")
    (tmp_path / "short.toml").write_text(RECIPE)
    assert exit_code(["run", str(tmp_path / "short.toml"), "--runs", str(tmp_path)]) == 0
    run = tmp_path / "short"
    task = find_task("judge")
    samples = list(task.samples(task.world_rows("test", PAIRS, seed=0), source="world"))
    engine = PeftEngine(resolve("smidgen:nano"), run / "exports/peft")
    path = tmp_path / "records.jsonl"
    sampling = Sampling(max_tokens=MAX_TOKENS)
    theirs = texts_of(collect_records(task, samples, engine, sampling, path, model="peft"))
    assert theirs == texts_of(read_records(run / "evaluations/peft/records.jsonl"))
    found = summarise(task, samples, path, model="peft", data="world").to_json()["metrics"]
    expected = read_json(run / "report.json")["exports"]["peft"]["metrics"]
    assert found == expected
    assert found["unparsed_rate"]["value"] < 0.5  # it has learnt to judge at all
