"""Training speed of a real model: smidgen, mlx-lm on our BLAS, torch with transformers and PEFT.

    python benchmarks/real.py --data clinc150_train_val.jsonl --torch-python /path/to/python/with/torch

Every contender adapts SmolLM2-135M-Instruct (LoRA of rank 16 on all linear layers) to the same short rows in
the same batches, in a separate process; their losses before the first update are compared. Contenders take
turns. The rate is set beside the bound: the machine's matrix products, measured before and after each turn,
at 4 FLOP per token and frozen weight of the blocks (forward, and the gradient of the input). Further cases: a
base quantised to 4 bits, the last 8 blocks only (the frozen ones are computed once per row), gradient
checkpointing, and padded rows. Results are saved to `benchmarks/results/real-<machine>.json`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from _common import add_torch_python, imports, peak_memory_bytes, run, versions, write_results

MODEL = "smidgen:smollm2"
BATCH_SIZE, WARM_UP, RANK, ALPHA, LEARNING_RATE = 32, 1, 16, 32.0, 2e-4
FLOP_PER_WEIGHT = 4
LAST_BLOCKS = 8
LOSS_TOLERANCE = 1e-3
"""Largest relative difference of two losses on the first batch, where the adapter is still zero."""
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Steps = Iterator[tuple[int, float, float]]
"""Tokens, seconds and loss of every step."""


# ------------------------------------------------------------------------------------- in a separate process


def make(folder: Path, data: Path | None, steps: int) -> None:
    """Write the model, its 4-bit copy, and the token ids and number of prompt tokens of every row."""
    import random

    from smidgen.config import QuantizeConfig
    from smidgen.data.templates import load_tokenizer
    from smidgen.data.types import Message
    from smidgen.models.load import resolve
    from smidgen.pipeline.quantized_copy import quantize_model

    (folder / "model").symlink_to(resolve(MODEL))
    for _ in quantize_model(MODEL, folder / "quantized", QuantizeConfig(bits=4, group_size=32)):
        pass
    tokenizer = load_tokenizer(folder / "model")
    rng = random.Random(0)
    if data is None:  # as long as the real ones
        words = ["when", "is", "my", "next", "bill", "due", "please", "tell", "me", "about", "it", "today"]
        pairs = [(" ".join(rng.choices(words, k=rng.randint(4, 14))), "bill due") for _ in range(4000)]
    else:
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        pairs = [(row["text"], row["intent"].replace("_", " ")) for row in rows if row["split"] == "train"]
    rows = []
    for text, label in rng.sample(pairs, BATCH_SIZE * (steps + WARM_UP)):
        said = [Message("user", text), Message("assistant", label)]
        rendered = tokenizer.render_conversation(said, thinking=False, mask="last")
        rows.append((list(rendered.token_ids), list(rendered.loss_mask).index(True)))
    rows.sort(key=lambda row: len(row[0]))  # neighbours in length share a batch, as every contender has it
    batches = [rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
    rng.shuffle(batches)
    (folder / "batches.json").write_text(json.dumps(batches))


def batches_of(folder: Path) -> list[list[tuple[list[int], int]]]:
    """Return the rows of every batch."""
    return json.loads((folder / "batches.json").read_text())


def tokens_of(batch: Sequence[tuple[list[int], int]]) -> int:
    """Return the inputs of a batch: every token of its rows but the last."""
    return sum(len(ids) - 1 for ids, _ in batch)


def smidgen(
    folder: Path,
    *,
    base: str = "model",
    num_layers: int | None = None,
    epochs: int = 1,
    packing: bool = True,
    recompute: bool = False,
) -> Steps:
    """Train with smidgen."""
    from smidgen.backend import mx
    from smidgen.config import LoraConfig, SftConfig
    from smidgen.models.load import load
    from smidgen.models.lora import add_lora, dequantize
    from smidgen.training.batches import collated
    from smidgen.training.hidden import BodyPass, frozen_trunk, packed_length
    from smidgen.training.loop import optimizer_step
    from smidgen.training.objectives.likelihood import Likelihood
    from smidgen.training.optimizer import AdamW
    from smidgen.training.trunk import trunk_states

    model = load(str(folder / base)).model
    dequantize(model, mx.float32, to_read=True)
    lora = LoraConfig(rank=RANK, alpha=ALPHA, num_layers=num_layers)
    add_lora(model, lora, seed=0)
    capacity = packed_length(model) if packing else None
    rows = [training_rows(batch) for batch in batches_of(folder)]
    batches = list(map(collated(capacity), rows))
    config = SftConfig(lora=lora, learning_rate=LEARNING_RATE, gradient_clip=0.0)
    optimizer = AdamW(model, config)
    trunk = frozen_trunk(model)
    if trunk is not None:
        shutil.rmtree(folder / "trunk", ignore_errors=True)  # of an earlier turn
        trunk_states(trunk, model, [row for batch in rows for row in batch], "float16").open(folder / "trunk")
    objective = Likelihood(BodyPass(recompute=recompute, trunk=trunk))
    for number in range(epochs * len(batches)):
        batch = batches[number % len(batches)]
        start = time.perf_counter()
        done = optimizer_step(
            model, objective, optimizer, [batch], config, step=number + 1, learning_rate=LEARNING_RATE
        )
        yield batch.tokens, time.perf_counter() - start, done.loss


def training_rows(batch: Sequence[tuple[list[int], int]]) -> list[Any]:
    """Return the rows of a batch as smidgen takes them."""
    import numpy as np

    from smidgen.training.batches import TrainRow

    return [TrainRow(np.array(ids, np.int32), np.arange(len(ids)) >= prompt) for ids, prompt in batch]


def mlx_lm(folder: Path) -> Steps:
    """Train with mlx-lm's trainer on smidgen's BLAS for MLX."""
    from smidgen import backend  # isort: skip  before anything of MLX

    assert backend.blas().fast, backend.blas().problem
    import mlx.core as mx
    import mlx.optimizers
    from mlx_lm.tuner.trainer import TrainingArgs, default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    nn = backend.nn
    model, _ = load_model(folder / "model")
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), {"rank": RANK, "scale": ALPHA / RANK, "dropout": 0.0})
    model.train()
    optimizer = mlx.optimizers.AdamW(LEARNING_RATE, weight_decay=0.0, bias_correction=True)
    assert TrainingArgs().grad_checkpoint is False
    step = nn.value_and_grad(model, default_loss)
    for batch in batches_of(folder):
        # As mlx-lm's iterate_batches pads: to a multiple of 32, plus one.
        longest = max(len(ids) for ids, _ in batch)
        width = 1 + 32 * -(-longest // 32)
        rows = mx.array([ids + [0] * (width - len(ids)) for ids, _ in batch])
        # Its trainer passes the length, which counts one token of padding in the loss.
        lengths = mx.array([[prompt, len(ids) - 1] for ids, prompt in batch])
        start = time.perf_counter()
        (loss, _), gradient = step(model, rows, lengths)
        optimizer.update(model, gradient)
        mx.eval(model.state, optimizer.state, loss)
        yield tokens_of(batch), time.perf_counter() - start, loss.item()


def torch_peft(folder: Path) -> Steps:
    """Train with transformers and PEFT in a plain loop with torch's fused AdamW."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEARS), task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0, fused=True)
    for batch in batches_of(folder):
        width = max(len(ids) for ids, _ in batch)
        rows = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch])
        places = torch.arange(width)
        prompts = torch.tensor([[prompt] for _, prompt in batch])
        labels = torch.where((places >= prompts) & (mask == 1), rows, -100)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(input_ids=rows, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        yield tokens_of(batch), time.perf_counter() - start, loss.item()


CONTENDERS: dict[str, Callable[[Path], Steps]] = {
    "smidgen": smidgen,
    "smidgen, 4-bit base": lambda folder: smidgen(folder, base="quantized"),
    "smidgen, padded": lambda folder: smidgen(folder, packing=False),
    "smidgen, checkpointing": lambda folder: smidgen(folder, recompute=True),
    "mlx-lm, our BLAS": mlx_lm,
    "torch + PEFT": torch_peft,
    "smidgen, last 8 blocks": lambda folder: smidgen(folder, num_layers=LAST_BLOCKS, epochs=2),
}
PACKAGES = {
    "mlx-lm, our BLAS": ("mlx", "mlx-lm", "scipy-openblas32"),
    "torch + PEFT": ("torch", "transformers", "peft"),
}


def child(contender: str, folder: Path, steps: int) -> None:
    """Run the steps of one contender and print the measurements as JSON, after its own output."""
    taken = []
    for step in CONTENDERS[contender](folder):
        taken.append(step)
        if steps and len(taken) == steps + WARM_UP:
            break
    tokens, seconds, losses = zip(*taken, strict=True)
    found = {"tokens": tokens, "seconds": seconds, "losses": losses, "peak": peak_memory_bytes()}
    packages = PACKAGES.get(contender, ("mlx", "scipy-openblas32", "numpy"))
    print("\n" + json.dumps(found | {"versions": versions(packages)}))


def bound() -> None:
    """Print the machine's rate of matrix products, and the weights of the blocks of the model."""
    from smidgen.backend import measure_rates
    from smidgen.benchmark.roofline import weights_of

    print(json.dumps({"flops": measure_rates().flops, "weights": weights_of(MODEL).block_parameters}))


# ------------------------------------------------------------------------------------------------ comparison


def take_turns(arguments: argparse.Namespace, pythons: dict[str, str], folder: Path) -> dict[str, Any]:
    """Let every contender run once a round; return the turns by contender, each with the bound around it."""

    def start(what: str, python: str = sys.executable) -> dict[str, Any]:
        steps = arguments.slow_steps if what.startswith("mlx-lm") else 0
        options = ["--child", what, "--folder", str(folder), "--steps", str(steps)]
        return run(__file__, options, python=python, what=what)

    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    before = start("bound")
    for turn in range(arguments.rounds):
        for name, python in pythons.items():
            print(f"round {turn + 1}: {name} …", file=sys.stderr)
            found = start(name, python)
            after = start("bound")
            flops = max(before["flops"], after["flops"])
            turns[name].append(found | {"bound": flops / (FLOP_PER_WEIGHT * after["weights"])})
            before = after
    return {name: summary(found) for name, found in turns.items()}


def rate(turn: dict[str, Any], part: slice) -> float:
    """Return the tokens per second of some steps of a turn."""
    return sum(turn["tokens"][part]) / sum(turn["seconds"][part])


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the rounds."""
    steps, first = len(turns[0]["tokens"]), slice(WARM_UP, None)
    epochs = {}
    if turns[0]["tokens"][: steps // 2] == turns[0]["tokens"][steps // 2 :]:
        first, second = slice(WARM_UP, steps // 2), slice(steps // 2, None)
        epochs = {"second_epoch_tokens_per_second": statistics.median(rate(turn, second) for turn in turns)}
    rates = [rate(turn, first) for turn in turns]
    return {
        "tokens_per_second": statistics.median(rates),
        **epochs,
        "share_of_bound": statistics.median(r / turn["bound"] for r, turn in zip(rates, turns, strict=True)),
        "bound_tokens_per_second": statistics.median(turn["bound"] for turn in turns),
        "peak_memory_bytes": statistics.median(turn["peak"] for turn in turns),
        "first_loss": turns[0]["losses"][0],
        "rounds": rates,
        "load": [turn["load"] for turn in turns],
        "versions": turns[0]["versions"],
    }


def show(results: dict[str, Any]) -> None:
    """Print the results as a table."""
    ours = results["smidgen"]
    print(f"\nLoRA of rank {RANK}, {MODEL}, batches of {BATCH_SIZE} short rows")
    print(
        f"{'':24}{'tokens/s':>10}{'of bound':>10}{'peak MB':>9}"
        f"{'smidgen is':>12}{'its memory':>12}{'loss':>7}"
    )
    for name, row in results.items():
        speed = ours["tokens_per_second"] / row["tokens_per_second"]
        memory = ours["peak_memory_bytes"] / row["peak_memory_bytes"]
        apart = abs(row["first_loss"] / ours["first_loss"] - 1)
        agrees = "same" if apart <= LOSS_TOLERANCE else f"{apart:.1%}"
        # The bound counts a gradient through every block.
        share = (
            f"{row['share_of_bound']:10.2f}" if "second_epoch_tokens_per_second" not in row else f"{'':10}"
        )
        print(
            f"{name:24}{row['tokens_per_second']:10,.0f}{share}{row['peak_memory_bytes'] / 1e6:9.0f}"
            f"{speed:11.2f}x{memory:11.2f}x{agrees:>7}"
        )
        if (second := row.get("second_epoch_tokens_per_second")) is not None:
            print(
                f"{'  from the 2nd epoch on':24}{second:10,.0f}   "
                f"{second / row['tokens_per_second']:.2f} x the first"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="rows of CLINC150; default: generated rows of such lengths")
    parser.add_argument("--steps", type=int, default=6, help="measured steps per turn, after one to warm up")
    parser.add_argument("--slow-steps", type=int, default=2, help="the same of mlx-lm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    add_torch_python(parser)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "make":
        make(arguments.folder, arguments.data, arguments.steps)
    elif arguments.child == "bound":
        bound()
    elif arguments.child:
        child(arguments.child, arguments.folder, arguments.steps)
    if arguments.child:
        return
    pythons = {name: sys.executable for name in arguments.contenders}
    if "torch + PEFT" in pythons:
        pythons["torch + PEFT"] = arguments.torch_python
        if not imports(arguments.torch_python, ("torch", "transformers", "peft")):
            del pythons["torch + PEFT"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", "make", "--folder", folder]
        command += ["--steps", str(arguments.steps)]
        command += ["--data", str(arguments.data.resolve())] if arguments.data else []
        subprocess.run(command, check=True)
        results = take_turns(arguments, pythons, Path(folder))
    show(results)
    print(f"\nwritten to {write_results('real', results)}")


if __name__ == "__main__":
    main()
