"""Greedy answers with drafts are those of one token a pass, for random models, windows, batches, adapters."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from safetensors.numpy import save_file
from tests.conftest import TINY_CONFIG, random_qwen3, write_tokenizer
from tests.inference.test_speculation import FREE, WORDS, answers
from tests.models.test_lora import adapted

from smidgen.backend import nn
from smidgen.config import LoraConfig
from smidgen.data.types import Completion, Message, Request, Sample, Sampling
from smidgen.inference.drafting import Drafting
from smidgen.inference.forward import MlxForward
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import LoadedModel, load
from smidgen.models.lora import save_adapter

BLOCKS, IN_FLIGHT, POOLS = (2, 3, 5, 8, 16), (1, 2, 4), (0, 1, 4)
LORA = LoraConfig(rank=2, alpha=4, num_layers=1, target_modules=("q_proj", "up_proj"))


def random_model(folder: Path, random: Random) -> LoadedModel:
    """A model of random shape and weights, quantised or not."""
    heads, shared = random.choice([(4, 1), (4, 2), (4, 4)])
    config = TINY_CONFIG | {
        "hidden_size": random.choice([32, 64]),
        "num_hidden_layers": random.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "intermediate_size": random.choice([32, 96]),
    }
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = random_qwen3(config, seed=random.randrange(1 << 30))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(str(folder))
    if bits := random.choice([None, 8, 4]):
        nn.quantize(loaded.model, 32, bits)
    return loaded


def random_requests(random: Random, adapter: Path | None) -> list[Request]:
    """Questions of random words, some of which repeat themselves, and answers of random length."""
    found = []
    for number in range(random.randint(2, 5)):
        words = random.choices(WORDS, k=random.randint(1, 6)) * random.choice([1, 1, 3])
        sample = Sample(str(number), (Message("user", " ".join(words)),))
        found.append(Request(sample, Sampling(max_tokens=random.randint(1, 40)), logprobs=False))
    if adapter is not None:
        found += [
            replace(one, sample=replace(one.sample, id=f"{one.sample.id}a"), adapter=adapter) for one in found
        ]
    return found


def random_drafting(random: Random, draft: LoadedModel) -> Drafting:
    """A way of drafting; a window is as many tokens as several blocks in flight have."""
    modes: tuple[Literal["jacobi", "lookup", "draft"], ...] = ("jacobi", "jacobi", "lookup", "draft")
    mode = random.choice(modes)
    width = random.choice([None, random.choice(BLOCKS) * random.choice(IN_FLIGHT)])
    free = {"costs": FREE, "draft_costs": FREE} if width is None else {}
    return Drafting(
        mode, draft if mode == "draft" else None, width=width, pool_size=random.choice(POOLS), **free
    )


def compared(folder: Path, seed: int) -> Iterator[tuple[Completion, Completion]]:
    """Answers of a random model, with drafts and without."""
    random = Random(seed)
    loaded = random_model(folder / f"{seed}", random)
    adapter = None
    if random.random() < 0.4:
        adapter = folder / f"{seed}-adapter"
        save_adapter(adapter, adapted(load(str(folder / f"{seed}")).model, LORA), LORA)
    requests, drafting = random_requests(random, adapter), random_drafting(random, loaded)
    batch, elsewhere = random.choice([1, 2, 3, 8]), random.random() < 0.3
    engines = [MlxEngine(loaded, batch_size=batch, drafting=way) for way in (None, drafting)]
    if elsewhere and adapter is None:  # the path of other devices
        for engine in engines:
            engine._decoders.base = MlxForward(loaded.model)
    plain, drafted = (answers(engine, requests) for engine in engines)
    assert drafted.keys() == plain.keys()
    for name in plain:
        yield plain[name], drafted[name]


def check(folder: Path, seeds: range) -> tuple[int, int, int]:
    """Compare answers of random models; return the numbers of tokens, of passes and of unequal answers."""
    tokens = passes = unequal = 0
    for seed in seeds:
        for plain, drafted in compared(folder, seed):
            assert drafted.passes is not None and sum(drafted.passes.committed) == len(drafted.token_ids)
            same = (drafted.token_ids, drafted.text, drafted.finish_reason) == (
                plain.token_ids,
                plain.text,
                plain.finish_reason,
            )
            # Where two logits are nearer than rounding, either may be chosen; the row says so.
            assert same or drafted.passes.near_ties > 0, f"seed {seed}"
            tokens, passes = tokens + len(drafted.token_ids), passes + len(drafted.passes.committed)
            unequal += not same
    return tokens, passes, unequal


def test_greedy_answers_are_exact(tmp_path: Path):
    tokens, passes, unequal = check(tmp_path, range(8))
    assert passes < tokens and unequal <= 1


@pytest.mark.long
def test_greedy_answers_of_many_models_are_exact(tmp_path: Path):
    tokens, passes, unequal = check(tmp_path, range(1000, 1400))
    print(f"{tokens} tokens in {passes} passes, {unequal} answers with near ties differ")
    assert passes < 0.9 * tokens and unequal <= 4
