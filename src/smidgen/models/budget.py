"""Memory of training and of decoding, from a model's configuration and the settings alone.

On a CPU the arrays are those of `smidgen.cpu_kernels` in float32, and the total is the peak of the process,
as `backend.peak_memory_bytes` measures it; `benchmarks/budget.py` compares the two. On a GPU the total is
that of MLX's allocator in bfloat16, derived from the operations of mlx-lm's blocks and not measured there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from smidgen.config import FinetuneConfig, LoraConfig, TrainConfig
from smidgen.cpu_kernels.attention import QUERY_TILE, SCORES
from smidgen.cpu_kernels.block import TILE, pitch
from smidgen.cpu_kernels.head import LOGITS, keeps
from smidgen.models.graph import HEAD_CHUNK
from smidgen.models.shape import Shape

PROCESS_BYTES = 265_000_000
"""Python, MLX and the other libraries before a model is loaded, measured on Linux with the bundled model."""
TOKENIZER_FACTOR = 12
"""Bytes of a loaded tokenizer for each of its `tokenizer.json`, measured with 49,152 and 151,936 tokens."""
FREED_BYTES = 32 << 20
"""Freed arrays that MLX 0.32 keeps on a CPU for later ones."""


class Place(NamedTuple):
    """What the model runs on: the kind of device, and the threads of the kernels of a CPU."""

    kind: Literal["metal", "cuda", "cpu"]
    threads: int = 1

    @property
    def item(self) -> int:
        """Bytes of a number in the compute dtype."""
        return 4 if self.kind == "cpu" else 2


class Batch(NamedTuple):
    """One forward pass of training: rows × length positions, padding included, and those in the loss."""

    rows: int
    length: int
    trained: int
    longest: int | None = None
    """Tokens of the longest text, if rows are packed."""
    masked: bool = False
    """Whether what every token attends to is given for each, as of trajectories and of shared prompts."""

    @property
    def positions(self) -> int:
        """Number of positions."""
        return self.rows * self.length


@dataclass(frozen=True)
class Budget:
    """Bytes of every part at the moments that can be the peak.

    Attributes:
        moments: bytes of each part by its name, for each moment by its name.
        mapped: bytes of a memory-mapped file, which the system can drop and read again.
    """

    moments: Mapping[str, Mapping[str, int]]
    mapped: int = 0

    @property
    def needed(self) -> int:
        """Bytes that have to be there: the largest sum of a moment."""
        return max(sum(parts.values()) for parts in self.moments.values())

    @property
    def peak(self) -> int:
        """The same with the mapped file, if there is room for it."""
        return self.needed + self.mapped


@dataclass(frozen=True)
class Training:
    """A model with the settings and the batch of a training step.

    Attributes:
        shape: the model.
        settings: the recipe's `[train]`.
        batch: the largest batch.
        place: the device.
        plain: whether a quantised base is dequantised once.
        tokenizer_bytes: size of `tokenizer.json`.
        from_file: whether the weights are read from a file.
        teacher: a model that is in memory too, and tells its probabilities.
    """

    shape: Shape
    settings: TrainConfig
    batch: Batch
    place: Place
    plain: bool = True
    tokenizer_bytes: int = 0
    from_file: bool = True
    teacher: Shape | None = None

    @property
    def lora(self) -> LoraConfig | None:
        """The adapter; None if every weight is trained."""
        return self.settings.lora if isinstance(self.settings, FinetuneConfig) else None

    @property
    def trained_blocks(self) -> int:
        """Number of blocks with a gradient."""
        wanted = self.lora and self.lora.num_layers
        return min(wanted or self.shape.layers, self.shape.layers)

    @property
    def recomputes(self) -> bool:
        """Whether blocks keep only their inputs."""
        asked = isinstance(self.settings, FinetuneConfig) and self.settings.gradient_checkpointing
        return asked and self.shape.layered

    @property
    def kernels(self) -> bool:
        """Whether the blocks run in the kernels of the CPU."""
        return self.place.kind == "cpu" and self.shape.layered


def training_budget(training: Training) -> Budget:
    """Return the memory of a training: while the model is loaded, in a step and while weights are updated."""
    shape, place = training.shape, training.place
    lora, cpu = training.lora, place.kind == "cpu"
    item = place.item
    weights = shape.bytes(item, plain=training.plain)
    trained = shape.trainable(lora)
    # Adapters are float32 everywhere; a trained weight that is not has a float32 master.
    own = 4 if lora else item
    moments = trained * (8 if own == 4 else 12)
    always = process_parts(cpu=cpu, tokenizer_bytes=training.tokenizer_bytes) | {"weights": weights}
    if training.teacher is not None:
        always |= {"teacher": training.teacher.bytes(item, plain=training.plain)}
    with_adapter = always | {"adapter": 4 * trained if lora else 0, "optimizer": moments}
    scratch = {"scratch": scratch_bytes(training)} if cpu else {}
    accumulated = 2 if training.settings.gradient_accumulation > 1 else 1
    tied = lora is None and "lm_head" not in shape.graph
    step = {
        "activations": activation_bytes(training),
        "logits": logit_bytes(training) + teacher_bytes(training),
        "masks": mask_bytes(training),
        # The gradient of a tied embedding is the sum of two, one of them scattered.
        "gradients": trained * own * accumulated + (2 * shape.vocabulary * shape.width * item if tied else 0),
    }
    # AdamW returns new arrays, and the old ones are there until all are computed.
    update = {"gradients": trained * own, "updated": trained * own + moments}
    return Budget(
        {
            "loading": always | {"file": _file_bytes(training)},
            "step": with_adapter | step | scratch,
            "update": with_adapter | update | scratch,
        }
    )


def step_bytes(training: Training) -> int:
    """Return the bytes that depend on the batch."""
    scratch = scratch_bytes(training) if training.place.kind == "cpu" else 0
    own = activation_bytes(training) + logit_bytes(training) + mask_bytes(training)
    return own + teacher_bytes(training) + scratch


def mask_bytes(training: Training) -> int:
    """Return the bytes of what every token attends to, where that is given, and of the mask made of it."""
    batch = training.batch
    if not batch.masked:
        return 0
    # Bool, and float32 in the kernels; otherwise bool again.
    return batch.rows * batch.length**2 * (1 + (4 if training.kernels else 1))


def teacher_bytes(training: Training) -> int:
    """Return the bytes of a teacher's states and of both models' probabilities of a chunk of tokens."""
    if (teacher := training.teacher) is None:
        return 0
    trained, item = training.batch.trained, training.place.item
    states = item * (trained + 3 * training.batch.positions) * teacher.width
    if training.place.kind != "cpu":  # logits, their softmax and its gradient in float32
        return states + min(trained, HEAD_CHUNK) * training.shape.vocabulary * 3 * 4
    # Scaled logits and probabilities of both.
    return (
        states + 4 * 4 * max(1, min(trained, LOGITS // training.shape.vocabulary)) * training.shape.vocabulary
    )


def process_parts(*, cpu: bool, tokenizer_bytes: int) -> dict[str, int]:
    """Return what a process takes besides the model; nothing on a GPU, whose memory is counted alone."""
    if not cpu:
        return {"process": 0}
    return {"process": PROCESS_BYTES + TOKENIZER_FACTOR * tokenizer_bytes, "freed": FREED_BYTES}


def _file_bytes(training: Training) -> int:
    """Return the bytes of the largest tensor as stored, which is there until it is converted."""
    shape = training.shape
    converts = training.plain if shape.quantized_parameters else shape.stored != training.place.item
    return shape.largest_bytes if training.from_file and converts else 0


def kept_bytes(shape: Shape, tokens: int, outputs: int) -> int:
    """Return the bytes that a block keeps for its gradient in the kernels, its output included.

    Args:
        shape: the model.
        tokens: positions of the batch.
        outputs: positions that the block outputs.
    """
    heads = shape.heads + shape.kv_heads
    queries, rotated = shape.heads * shape.head_dim, heads * shape.head_dim
    features = rotated + shape.kv_heads * shape.head_dim
    by_feature = features + (rotated if shape.head_norms else 0) + heads + queries + shape.heads
    return 4 * (by_feature * pitch(tokens) + outputs * (2 * shape.width + 2 * shape.inner))


def ops_bytes(shape: Shape, batch: Batch, place: Place) -> int:
    """Return the bytes that MLX's operations keep of a block for its gradient.

    Two norms, two residual sums, the projections, normed and rotated heads, attention scores with their
    softmax (attention is not fused where a gradient is traced), SiLU with its sigmoid, and the products.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    turns = 3 if shape.head_norms else 2
    per_token = 4 * shape.width + turns * (queries + keys) + keys + queries + 5 * shape.inner
    scores = 2 * batch.rows * shape.heads * batch.length**2
    return place.item * (batch.positions * per_token + scores)


def activation_bytes(training: Training) -> int:
    """Return the bytes of hidden states and of what the blocks keep, at the end of the forward pass."""
    shape, batch, blocks = training.shape, training.batch, training.trained_blocks
    states = training.place.item * batch.positions * shape.width
    if training.kernels:
        one = kept_bytes(shape, batch.positions, batch.positions)
        last = kept_bytes(shape, batch.positions, batch.trained)
    else:
        one = last = ops_bytes(shape, batch, training.place)
    kept = (blocks - 1) * one + last
    if training.recomputes:  # one block at a time, and the inputs of all
        kept = blocks * states + (one if blocks > 1 else last)
    # The embedded tokens or the output of the frozen blocks, and two gradients of hidden states.
    around = 3 * states
    if blocks < shape.layers:
        around += 2 * states if training.kernels else one
    return kept + around


def logit_bytes(training: Training) -> int:
    """Return the bytes of the logits that exist at the same time, and of the hidden states they are from."""
    shape, trained = training.shape, training.batch.trained
    if training.place.kind != "cpu":
        # in bfloat16 and float32, their softmax, and the gradient
        chunk = min(trained, HEAD_CHUNK) * shape.vocabulary * (2 + 4 + 4 + 2)
        return chunk + 3 * training.place.item * trained * shape.width
    kept = trained * shape.vocabulary if keeps(trained, shape.vocabulary) else 0
    head = 0 if training.plain or not shape.quantized_parameters else shape.vocabulary * shape.width
    return 4 * (kept + head + 3 * trained * shape.width)


def scratch_bytes(training: Training) -> int:
    """Return the bytes that the kernels reuse from block to block and from piece to piece."""
    shape, batch, threads = training.shape, training.batch, training.place.threads
    chunk = max(1, min(batch.trained, LOGITS // shape.vocabulary)) * shape.vocabulary
    logits = chunk * (1 if keeps(batch.trained, shape.vocabulary) else 2)
    if not training.kernels:
        return 4 * logits
    width, inner, positions = shape.width, shape.inner, batch.positions
    queries = shape.heads * shape.head_dim
    features = queries + 2 * shape.kv_heads * shape.head_dim
    outputs = positions if training.trained_blocks > 1 else batch.trained
    dropped = 2 if getattr(training.settings, "dropout", 0) else 0
    backward = positions * width + outputs * ((2 + dropped) * width + 3 * inner)
    if training.lora and training.lora.dropout:  # a copy of a layer's input for each thread
        backward += threads * max(positions * width, outputs * inner)
    backward += (queries + shape.heads + features) * pitch(positions) + queries * batch.trained
    forward = 0
    if training.recomputes or training.trained_blocks < shape.layers:
        forward = kept_bytes(shape, positions, 0) // 4
    tile = min(TILE, -(-positions // threads))
    longest = batch.longest or batch.length
    group = shape.heads // shape.kv_heads
    scores = max(SCORES, group * min(QUERY_TILE, longest) * longest)
    per_thread = tile * (4 * inner + 6 * width + 2 * queries) + 2 * scores
    return 4 * (backward + forward + _merged(training, features, queries) + threads * per_thread + logits)


def _merged(training: Training, features: int, queries: int) -> int:
    """Return the numbers of one block's weights that are copied with their adapter, or dequantised."""
    shape = training.shape
    matrix = shape.width * shape.inner
    sizes = {"o_proj": shape.width * queries, "gate_proj": matrix, "up_proj": matrix, "down_proj": matrix}
    targets = training.lora.target_modules if training.lora else ()
    merged = features * shape.width + sum(size for name, size in sizes.items() if name in targets)
    packed = bool(shape.quantized_parameters) and not training.plain
    return merged + (features * shape.width + sum(sizes.values()) if packed else 0)


class Decoding(NamedTuple):
    """A model that answers.

    Attributes:
        shape: the model.
        rows: number of rows decoded together.
        prompt: tokens of the longest prompt.
        answer: maximum tokens of an answer.
        item: bytes of a number in the cache and in the activations.
        cpu: whether the memory is that of the process.
        weights: bytes of the weights.
        tokenizer_bytes: size of `tokenizer.json`.
        logits: positions whose logits are held at once, if they are more than one of each row.
    """

    shape: Shape
    rows: int
    prompt: int
    answer: int
    item: int
    cpu: bool
    weights: int
    tokenizer_bytes: int = 0
    logits: int = 0


def kv_bytes(shape: Shape, tokens: int, item: int) -> int:
    """Return the bytes of the keys and values of some tokens in every block."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * item


def decoding_budget(decoding: Decoding) -> Budget:
    """Return the memory of an evaluation: weights, KV cache, and one pass over the prompts of all rows."""
    shape, rows, item = decoding.shape, decoding.rows, decoding.item
    columns = 128 * math.ceil((decoding.prompt + decoding.answer) / 128)
    positions = rows * decoding.prompt
    features = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    parts = process_parts(cpu=decoding.cpu, tokenizer_bytes=decoding.tokenizer_bytes) | {
        "weights": decoding.weights,
        "kv cache": kv_bytes(shape, rows * columns, item),
        "logits": 2 * 4 * max(rows, decoding.logits) * shape.vocabulary,
        "activations": item * positions * (3 * shape.width + features + 2 * shape.inner),
    }
    return Budget({"decoding": parts})
