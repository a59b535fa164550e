"""Verify that a GGUF file is the model that it was made from.

Four checks: the weights equal the source's within the precision of their type; llama.cpp tokenizes text in
the same way; it stops at every end token; and its logits agree with those that MLX's graph computes from the
file's weights. The last check uses the file's weights, not the source's, so that a wrong RoPE rotation or row
order is detected even with a coarse type; the change caused by the type itself is reported separately.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gguf import GGMLQuantizationType
from scipy.special import log_softmax

from smidgen.backend import device
from smidgen.data.templates import load_tokenizer
from smidgen.errors import ModelError
from smidgen.export.checkpoint_files import Checkpoint, open_checkpoint
from smidgen.export.gguf.blocks import BLOCK
from smidgen.export.gguf.gguf_facts import (
    AdapterVerification,
    LogitComparison,
    TensorComparison,
    TokenComparison,
    Verification,
)
from smidgen.export.gguf.llama_cpp import LlamaCpp
from smidgen.export.gguf.metadata import head_dimension
from smidgen.export.gguf.reference_forward import next_token_logits
from smidgen.export.gguf.write import CHUNK, Planned, plan_tensors, write_gguf
from smidgen.gguf.names import FAMILIES, gguf_name, rotated_head, unpair_rows
from smidgen.gguf.read import GgufFile, open_gguf

TEXTS = (
    "Which of the two answers is better? I'd say it's the 2nd: 3.14159 > 2,718, isn't it?\n\n\tYES, it'S!",
    "Füße, naïve café, Ångström, Łódź, Ελληνικά, Русский текст, Türkçe ığüş, Tiếng Việt, čeština",
    "日本語のテキスト、한국어 문장, 中文字符。العربية עברית हिन्दी ไทย தமிழ் ქართული",
    "def f(x: int) -> str:\r\n    return f'{x!r}'  # 🙂👩‍👩‍👧 ½ ² ™\n\n\n   end   ",
    '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n123456 {"a": [1, 2]}',
)
"""Texts for both tokenizers, in Unicode NFC: contractions, scripts, white space, special tokens, numbers."""

LONGEST_PROMPT = 384

LOGIT_TOLERANCE = {"F32": 1e-3, "F16": 1e-2, "BF16": 5e-2}
BLOCK_TOLERANCE = 0.15
"""The largest accepted deviation of llama.cpp's logits from MLX's, as a share of their standard deviation.

llama.cpp rounds activations to the type of the matrix they are multiplied with, for block types to 8 bits."""

_STEPS = {
    # quantisation step as a share of a block's largest absolute value, or of its range
    GGMLQuantizationType.Q8_0: (1 / 127, "largest"),
    GGMLQuantizationType.Q5_0: (1 / 16, "largest"),
    GGMLQuantizationType.Q4_0: (1 / 8, "largest"),
    GGMLQuantizationType.Q5_1: (1 / 31, "range"),
    GGMLQuantizationType.Q4_1: (1 / 15, "range"),
}
_RELATIVE = {GGMLQuantizationType.F16: 2.0**-11, GGMLQuantizationType.BF16: 2.0**-8}
_SMALLEST = 2.0**-24  # the smallest subnormal float16


def verify_gguf(path: Path, source: str, *, adapter: Path | None = None) -> Verification:
    """Compare a GGUF file with the model that it was made from, and run it in llama.cpp.

    Args:
        path: the file.
        source: the model, as passed to `write_gguf`.
        adapter: the adapter that was passed to it.

    Raises:
        ConfigError: xllamacpp is not installed.
        ModelError: a check failed; the message tells which.
    """
    start = time.perf_counter()
    with open_checkpoint(source, adapter) as checkpoint, open_gguf(path) as file:
        tensors = compare_tensors(checkpoint, file, path)
        llama = LlamaCpp(path, context=2 * LONGEST_PROMPT)
        tokens = compare_tokens(checkpoint, llama)
        logits = compare_logits(checkpoint, file, llama)
    return Verification(
        path=str(path),
        **tensors._asdict(),
        **tokens._asdict(),
        **logits._asdict(),
        seconds=time.perf_counter() - start,
    )


def verify_gguf_adapter(path: Path, source: str, adapter: Path) -> AdapterVerification:
    """Run an adapter's GGUF file in llama.cpp on its base model, and compare with the fused weights in MLX.

    The base is written temporarily as F16 next to the adapter, which needs that much disk space.

    Raises:
        ConfigError: xllamacpp is not installed.
        ModelError: llama.cpp does not load the adapter or predicts other tokens with it.
    """
    start = time.perf_counter()
    with TemporaryDirectory(dir=path.parent, prefix=".verifying-") as folder:
        base = Path(folder) / "base.gguf"
        write_gguf(source, base, dtype="F16")
        with open_checkpoint(source, adapter) as checkpoint:
            llama = LlamaCpp(base, adapter=path, context=2 * LONGEST_PROMPT)
            prompts, theirs = predictions(checkpoint, llama)
            ours = next_token_logits(checkpoint.graph, checkpoint.rows, prompts)
    error = refuse_other_logits(ours, theirs, BLOCK_TOLERANCE)
    return AdapterVerification(
        path=str(path),
        prompts=len(prompts),
        logit_error=error,
        tolerance=BLOCK_TOLERANCE,
        seconds=time.perf_counter() - start,
    )


def compare_tensors(checkpoint: Checkpoint, file: GgufFile, path: Path) -> TensorComparison:
    """Compare every weight of the file with the source's.

    Raises:
        ModelError: a tensor is missing, unexpected, of the wrong shape, or further from the source than its
            type explains.
    """
    if file.architecture != FAMILIES.get(checkpoint.config["model_type"]):
        raise ModelError(
            f"{path} has the architecture {file.architecture}, but {checkpoint.path} has "
            f"{checkpoint.config['model_type']}; compare it with the model that it was made from"
        )
    plan = {planned.name: planned for planned in plan_tensors(checkpoint, GGMLQuantizationType.F32)}
    found = {name: placed.shape for name, placed in file.tensors.items()}
    wanted = {name: planned.shape for name, planned in plan.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ModelError(f"{path} does not contain the tensors of {checkpoint.path}: {', '.join(odd)} differ")
    jobs = [job for planned in plan.values() for job in _parts(planned)]
    with ThreadPoolExecutor(device().cores) as pool:
        errors = list(pool.map(lambda job: _error(file, *job), jobs))
    largest, square, count = (np.array(column) for column in zip(*errors, strict=True))
    return TensorComparison(
        tensors=len(plan),
        numbers=int(count.sum()),
        largest_error=float(largest.max()),
        rms_error=float(np.sqrt(square.sum() / count.sum())),
    )


def compare_tokens(checkpoint: Checkpoint, llama: LlamaCpp, texts: Sequence[str] = TEXTS) -> TokenComparison:
    """Compare how our tokenizer and llama.cpp's split texts, and ask whether every end token ends.

    Raises:
        ModelError: they differ, or llama.cpp goes on after an end token.
    """
    tokenizer = load_tokenizer(checkpoint.path)
    total = 0
    for text in texts:
        ours, theirs = tokenizer.encode(text), llama.tokenize(text)
        total += len(ours)
        if ours != theirs:
            at = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
            raise ModelError(
                f"llama.cpp splits {text!r} into other tokens than the tokenizer in {checkpoint.path}: "
                f"from token {at} on {theirs[at : at + 5]}, expected {ours[at : at + 5]}; "
                "the file would be wrong, so do not use it"
            )
    opening = llama.tokenize(TEXTS[0], whole=True)[: -len(tokenizer.encode(TEXTS[0]))]
    if opening != tokenizer.opening:
        raise ModelError(
            f"llama.cpp begins a prompt with the tokens {opening}, but the tokenizer in {checkpoint.path} "
            f"with {tokenizer.opening}; the file would be wrong, so do not use it"
        )
    ends = sorted(tokenizer.eos_token_ids)
    if deaf := [token for token in ends if not llama.ends_at(token, tokenizer.encode(TEXTS[0]))]:
        raise ModelError(
            f"llama.cpp continues after the end tokens {deaf}; do not use the file, it would not stop there"
        )
    return TokenComparison(total, ends)


def compare_logits(checkpoint: Checkpoint, file: GgufFile, llama: LlamaCpp) -> LogitComparison:
    """Compare llama.cpp's next-token logits after the first of `TEXTS`, and after all, with MLX's.

    Raises:
        ModelError: they differ by more than llama.cpp's arithmetic for the file's types explains.
    """
    prompts, theirs = predictions(checkpoint, llama)
    stored = next_token_logits(checkpoint.graph, partial(_graph_rows, checkpoint, file), prompts)
    exact = next_token_logits(checkpoint.graph, checkpoint.rows, prompts)
    tolerance = tolerance_of(file)
    error = refuse_other_logits(stored, theirs, tolerance)
    p, q = log_softmax(exact.astype(np.float64), axis=1), log_softmax(stored.astype(np.float64), axis=1)
    return LogitComparison(
        prompts=len(prompts),
        logit_error=error,
        tolerance=tolerance,
        kl_from_source=float((np.exp(p) * (p - q)).sum(axis=1).mean()),
    )


def tolerance_of(file: GgufFile) -> float:
    """How far llama.cpp's logits may be from ours by the arithmetic of a file's types."""
    kinds = {placed.kind.name for placed in file.tensors.values()}
    return max(LOGIT_TOLERANCE.get(kind, BLOCK_TOLERANCE) for kind in kinds)


def predictions(checkpoint: Checkpoint, llama: LlamaCpp) -> tuple[list[list[int]], np.ndarray]:
    """Return prompts, and llama.cpp's log-probabilities (P, V) of the next token after each."""
    tokenizer, arguments = load_tokenizer(checkpoint.path), checkpoint.graph.args
    limit = min(LONGEST_PROMPT, arguments.max_position_embeddings)
    prompts = [tokenizer.encode(text)[:limit] for text in (TEXTS[0], "\n".join(TEXTS))]
    return prompts, np.stack([llama.logprobs(prompt, arguments.vocab_size) for prompt in prompts])


def refuse_other_logits(logits: np.ndarray, logprobs: np.ndarray, tolerance: float) -> float:
    """Return the largest deviation of log-probabilities (P, V) from logits, relative to the logits' spread.

    Log-probabilities are logits up to a constant per prompt, which the standard deviation ignores.

    Raises:
        ModelError: it is above `tolerance`.
    """
    error = float((np.std(logprobs - logits, axis=1) / np.std(logits, axis=1)).max())
    if not error <= tolerance:  # also refuses NaN
        raise ModelError(
            f"llama.cpp's predictions from the file differ from MLX's: logits differ by {error:.3g} "
            f"of their spread, but its arithmetic explains only {tolerance:g}; do not use the file"
        )
    return error


def _graph_rows(
    checkpoint: Checkpoint, file: GgufFile, name: str, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Return rows of a tensor of the file by the graph's name and in the graph's row order."""
    head_dim = head_dimension(checkpoint.graph.args)
    head = rotated_head(name, file.architecture, head_dim)
    rows = file.rows(gguf_name(name), start, stop)
    return rows if head is None else unpair_rows(rows, head)


def _parts(planned: Planned) -> Iterator[tuple[Planned, int, int]]:
    columns = planned.shape[1] if len(planned.shape) == 2 else 1
    step = max(CHUNK // columns // planned.step, 1) * planned.step
    for start in range(0, planned.shape[0], step):
        yield planned, start, min(start + step, planned.shape[0])


def _error(file: GgufFile, planned: Planned, start: int, stop: int) -> tuple[float, float, int]:
    """Return the largest error, sum of squared errors and count of a part of a tensor.

    Raises:
        ModelError: an error exceeds the precision of the type.
    """
    ours, theirs = planned.rows(start, stop), file.rows(planned.name, start, stop)
    error = np.abs(ours - theirs)
    if not (error <= _bound(ours, file.tensors[planned.name].kind)).all():
        raise ModelError(
            f"the tensor '{planned.name}' of the file differs from the model's: a value in its rows {start} "
            f"to {stop} is {error.max():.3g} off; export the model again"
        )
    return float(error.max()), float((error.astype(np.float64) ** 2).sum()), error.size


def _bound(values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Return the largest error of each stored value: half a step, plus the rounding of float16 scales.

    The 4- and 5-bit types without a minimum have one level fewer on the side of the smaller extreme, so
    values there may be a whole step off.
    """
    if kind == GGMLQuantizationType.F32:
        return np.zeros(1, np.float32)
    if kind in _RELATIVE:
        return np.abs(values) * _RELATIVE[kind] + _SMALLEST
    share, of = _STEPS[kind]
    blocks = values.reshape(-1, BLOCK)
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    largest = np.maximum(np.abs(low), np.abs(high))
    step = share * (largest if of == "largest" else high - low)
    whole = 1.0 if kind in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q5_0) else 0.5
    # a scale below 2⁻¹⁴ is rounded by up to half of `_SMALLEST`, and is taken up to 127 times
    bound = whole * step + largest * 2.0**-10 + 64 * _SMALLEST
    return np.broadcast_to(bound, blocks.shape).reshape(values.shape)
