"""A model on this machine's GPU: smidgen beside transformers and PEFT on the same weights, in one run.

    python benchmarks/gpu.py [--model smidgen:smollm2] --torch-python /path/to/python/with/torch

Both read the same prompts of a judge, 1, 8 and 64 at a time, and answer them greedily in bfloat16: prefill is
the time until every prompt has one token, decoding that of longer answers beyond it. Both adapt the model
(LoRA of rank 16 on all linear layers) to the same batches of short rows. Each runs in a process of its own,
and does every kind of work once before it is measured. Results are saved to
`benchmarks/results/gpu-<device>.json`. Without a GPU it refuses.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from _common import add_torch_python, imports, run, versions, write_results
from decode import samples_of, tokens_of
from real import ALPHA, LEARNING_RATE, LINEARS, RANK, WARM_UP, Steps, batches_of, make, rate
from real import smidgen as trained_by_smidgen

ROWS, MAX_TOKENS = (1, 8, 64), 48
OURS, THEIRS = "smidgen", "transformers"
PACKAGES = {OURS: ("mlx", "mlx-lm"), THEIRS: ("torch", "transformers", "peft")}
Answer = Callable[[int, int, int], tuple[int, int]]
"""Answers some rows of some turn with at most so many tokens; returns the tokens read and written."""


# ------------------------------------------------------------------------------------- in a separate process


def prepare(folder: Path, model: str, steps: int, turns: int) -> None:
    """Write the model, the batches and, for each number of rows and turn, the prompts as token ids."""
    import decode
    import real

    real.MODEL = decode.MODEL = model
    make(folder, None, steps)
    prompts = {f"{rows} {turn}": tokens_of(samples_of(rows, turn)) for rows in ROWS for turn in range(turns)}
    (folder / "prompts.json").write_text(json.dumps(prompts))


def answer_of_smidgen(folder: Path) -> Answer:
    """Open smidgen's engine on the device."""
    from smidgen.data.types import Request, Sampling
    from smidgen.inference import open_engine
    from smidgen.options import EngineOptions

    engine = open_engine(EngineOptions(str(folder / "model"), engine="mlx", batch_size=max(ROWS)))
    prompts = json.loads((folder / "prompts.json").read_text())

    def answer(rows: int, turn: int, max_tokens: int) -> tuple[int, int]:
        sampling = Sampling(max_tokens=max_tokens)
        requests = [Request(sample, sampling, logprobs=False) for sample in samples_of(rows, turn)]
        written = sum(len(completion.token_ids) for _, completion in engine.complete(requests))
        return sum(map(len, prompts[f"{rows} {turn}"])), written

    return answer


def answer_of_transformers(folder: Path) -> Answer:
    """Load the model in transformers on torch's device."""
    import torch
    from transformers import AutoModelForCausalLM

    place, dtype = torch_device()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).to(place).eval()
    prompts = json.loads((folder / "prompts.json").read_text())
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])

    def answer(rows: int, turn: int, max_tokens: int) -> tuple[int, int]:
        asked = prompts[f"{rows} {turn}"]
        width = max(map(len, asked))
        padded = torch.tensor([[0] * (width - len(ids)) + ids for ids in asked], device=place)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in asked], device=place)
        with torch.inference_mode():
            found = model.generate(
                padded, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
            )[:, width:].tolist()
        return sum(map(len, asked)), sum(length_of(ids, ends) for ids in found)

    return answer


def length_of(ids: Sequence[int], ends: set[int]) -> int:
    """Return the tokens of an answer, the one that ends it included; what follows is padding."""
    return next((i for i, token in enumerate(ids, start=1) if token in ends), len(ids))


def trained_by_transformers(folder: Path) -> Steps:
    """Train with transformers and PEFT: the adapter in float32, the base in the dtype of the device."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    place, dtype = torch_device()
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).to(place)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(LINEARS), task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)
    for batch in batches_of(folder):
        width = max(len(ids) for ids, _ in batch)
        rows = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch], device=place)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch], device=place)
        prompts = torch.tensor([[prompt] for _, prompt in batch], device=place)
        read = (torch.arange(width, device=place) >= prompts) & (mask == 1)
        labels = torch.where(read, rows, -100)
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(input_ids=rows, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        value = loss.item()  # waits for the device
        yield sum(len(ids) - 1 for ids, _ in batch), time.perf_counter() - start, value


def torch_device() -> tuple[str, Any]:
    """Return torch's device and the dtype to compute in there."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.bfloat16
    return ("mps", torch.bfloat16) if torch.backends.mps.is_available() else ("cpu", torch.float32)


CONTENDERS: dict[str, tuple[Callable[[Path], Answer], Callable[[Path], Steps]]] = {
    OURS: (answer_of_smidgen, trained_by_smidgen),
    THEIRS: (answer_of_transformers, trained_by_transformers),
}


def answered(answer: Answer, repeats: int) -> dict[int, dict[str, float]]:
    """Measure every number of rows; no prompt is asked twice."""
    found = {}
    for rows in ROWS:
        turns = count()
        answer(rows, next(turns), MAX_TOKENS)
        times: dict[int, list[tuple[float, int, int]]] = {1: [], MAX_TOKENS: []}
        for _ in range(repeats):
            for max_tokens, measured in times.items():
                started = time.perf_counter()
                tokens = answer(rows, next(turns), max_tokens)
                measured.append((time.perf_counter() - started, *tokens))
        first, whole = min(times[1]), min(times[MAX_TOKENS])
        found[rows] = {
            "prefill": first[1] / first[0],
            "decode": (whole[2] - rows) / max(whole[0] - first[0], 1e-9),
        }
    return found


def child(contender: str, folder: Path, repeats: int) -> None:
    """Measure a contender and print the results as JSON, after its own output."""
    answers, training = CONTENDERS[contender]
    decoding = answered(answers(folder), repeats)
    steps = list(training(folder))
    tokens, seconds, losses = zip(*steps, strict=True)
    turn = {"tokens": tokens, "seconds": seconds}
    report = {"rows": decoding, "training": rate(turn, slice(WARM_UP, None)), "first_loss": losses[0]}
    print("\n" + json.dumps(report | {"versions": versions(PACKAGES[contender])}))


def mlx_device() -> None:
    """Print what MLX computes on."""
    from smidgen.backend import device

    print(json.dumps({"kind": device().kind, "name": device().name}))


def theirs() -> None:
    """Print what torch computes on."""
    print(json.dumps({"kind": torch_device()[0]}))


# ------------------------------------------------------------------------------------------------ comparison


def device_of_both(torch_python: str) -> dict[str, str]:
    """Return MLX's device.

    Raises:
        SystemExit: MLX has no GPU here, or torch does not compute on it.
    """
    found = run(__file__, ["--child", "device"], what="smidgen.backend")
    if found["kind"] == "cpu":
        refuse(
            "this compares GPUs, and MLX has none here (Metal, or CUDA with the extra `cuda`); on a CPU, "
            "benchmarks/real.py and benchmarks/decode.py compare the same work"
        )
    if not imports(torch_python, PACKAGES[THEIRS]):
        refuse("name an interpreter that has them with --torch-python")
    wanted = "mps" if found["kind"] == "metal" else "cuda"
    theirs = run(__file__, ["--child", "torch"], python=torch_python, what="torch")["kind"]
    if theirs != wanted:
        refuse(f"torch of {torch_python} computes on {theirs}; install one for {wanted}, as MLX has it")
    return found


def refuse(reason: str) -> NoReturn:
    """End with a sentence and exit code 2."""
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


def lines(results: dict[str, Any]) -> Iterator[tuple[str, list[float]]]:
    """Yield each figure by its name, for every contender."""
    for rows in map(str, ROWS):
        for work in ("prefill", "decode"):
            yield f"{work}, {rows} rows", [one["rows"][rows][work] for one in results.values()]
    yield f"training, LoRA of rank {RANK}", [one["training"] for one in results.values()]


def show(results: dict[str, Any]) -> None:
    """Print the rates and how many times as fast smidgen is."""
    print(f"\n{'tokens/s':28}" + "".join(f"{name:>14}" for name in results) + f"{'smidgen is':>12}")
    for name, rates in lines(results):
        print(f"{name:28}" + "".join(f"{one:14,.0f}" for one in rates) + f"{rates[0] / rates[-1]:11.2f}x")
    print("first loss: " + ", ".join(f"{name} {one['first_loss']:.4f}" for name, one in results.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smidgen:smollm2")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each number of rows")
    parser.add_argument("--steps", type=int, default=20, help="measured training steps, after one to warm up")
    add_torch_python(parser)
    parser.add_argument("--anywhere", action="store_true", help=argparse.SUPPRESS)  # to try it on a CPU
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        children = {
            "device": mlx_device,
            "torch": theirs,
            "prepare": lambda: prepare(
                arguments.folder, arguments.model, arguments.steps, 1 + 2 * arguments.repeats
            ),
        }
        children.get(arguments.child, lambda: child(arguments.child, arguments.folder, arguments.repeats))()
        return
    facts = {"kind": "cpu"} if arguments.anywhere else device_of_both(arguments.torch_python)
    options = ["--model", arguments.model, "--repeats", str(arguments.repeats)]
    options += ["--steps", str(arguments.steps)]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        where = ["--folder", folder, *options]
        subprocess.run([sys.executable, __file__, "--child", "prepare", *where], check=True)
        for name, python in ((OURS, sys.executable), (THEIRS, arguments.torch_python)):
            print(f"{name} …", file=sys.stderr)
            results[name] = run(__file__, ["--child", name, *where], python=python, what=name)
    show(results)
    if not arguments.anywhere:
        print(f"\nwritten to {write_results('gpu', {'device': facts, 'contenders': results})}")


if __name__ == "__main__":
    main()
