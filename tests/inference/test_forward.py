import numpy as np
import pytest

from smidgen.backend import mx, nn
from smidgen.config import LoraConfig
from smidgen.errors import ConfigError
from smidgen.inference import cpu_forward
from smidgen.inference.cpu_forward import CpuForward, Unsupported
from smidgen.inference.forward import MlxForward, forward_of
from smidgen.inference.kv_cache import Pass, QuantisedSlotCache
from smidgen.models.architectures import build_graph
from smidgen.models.lora import add_lora

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "rope_theta": 10_000.0,
}
QWEN3 = {**SHAPE, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True}
QWEN2 = {**SHAPE, "model_type": "qwen2", "tie_word_embeddings": True}
LLAMA = {
    **SHAPE,
    "model_type": "llama",
    "tie_word_embeddings": False,
    "attention_bias": True,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
MOBILE = {
    **SHAPE, "model_type": "llama4_text", "intermediate_size_mlp": 96, "head_dim": 32, "moe_layers": [],
    "no_rope_layers": [1, 0], "floor_scale": 8, "attn_scale": 0.7, "attention_chunk_size": 12,
    "attention_bias": True,
}  # fmt: skip


def make(config: dict) -> nn.Module:
    """A model with random weights of some size everywhere, biases and norms included."""
    mx.random.seed(0)
    model = build_graph(config, "config.json")
    model.apply(lambda x: x + mx.random.uniform(-0.3, 0.3, x.shape))
    mx.eval(model.parameters())
    return model.eval()


def with_lora() -> nn.Module:
    model = make(QWEN3)
    add_lora(model, LoraConfig(rank=4), seed=0)
    model.apply(lambda x: x + mx.random.uniform(-0.05, 0.05, x.shape))
    return model.eval()


def quantized(config: dict) -> nn.Module:
    model = make(config)
    nn.quantize(model, group_size=32, bits=4)
    return model


BUILDERS = {
    "qwen3": lambda: make(QWEN3),
    "qwen2 with biases": lambda: make(QWEN2),
    "llama with scaled rotation and its own head": lambda: make(LLAMA),
    "low-rank update": with_lora,
    "quantised": lambda: quantized(QWEN3),
    "quantised llama": lambda: quantized(LLAMA),
    "layers without positions, chunks": lambda: make(MOBILE),
    "positions nowhere": lambda: make(MOBILE | {"no_rope_layers": [0, 0]}),
    "chunks everywhere": lambda: make(MOBILE | {"no_rope_layers": [1, 1], "tie_word_embeddings": True}),
    "quantised mobile": lambda: quantized(MOBILE),
}


def ragged_logits(forward, rows: list[list[int]], splits: list[int]) -> list[np.ndarray]:
    """Logits of every token of every row, run in passes that bring different numbers of tokens to each."""
    caches = forward.new_caches()
    for cache in caches:
        cache.reserve(len(rows) + 1, max(map(len, rows)))
    parts: list[list[np.ndarray]] = [[] for _ in rows]
    held = [0] * len(rows)
    for split in splits:
        chunks = [row[h : h + split + i] for i, (row, h) in enumerate(zip(rows, held, strict=True))]
        at = Pass(1, held, [len(chunk) for chunk in chunks])
        logits = np.array(forward.logits(forward.hidden(chunks, at, caches)))
        for part, rest in zip(parts, np.split(logits, np.cumsum(at.counts)[:-1]), strict=True):
            part.append(rest)
        held = [h + len(chunk) for h, chunk in zip(held, chunks, strict=True)]
    return [np.concatenate(part) for part in parts]


class RoundedAlike(QuantisedSlotCache):
    """A quantised cache that compares keys and values with others before they are rounded, and holds those.

    A passage in three passes and one in a single pass multiply matrices of other sizes, so their sums differ
    in the last bits, and what lies between two steps of the grid may be rounded either way.
    """

    def __init__(self, cache: QuantisedSlotCache, rows: list[list[np.ndarray]]):
        """Take the place of `cache`; `rows` has keys and values (L, K, D) for the row of each slot."""
        vars(self).update(vars(cache))
        self._rows = rows
        self.written = 0

    def write(self, at: Pass, keys: mx.array, values: mx.array) -> None:
        places = list(zip(at.slots, at.columns, strict=True))
        self.written += len(places)
        held = []
        for half, got in enumerate((keys, values)):
            wanted = np.stack([self._rows[slot - at.start][half][column] for slot, column in places])
            assert np.array(got) == pytest.approx(wanted, abs=1e-4)
            held.append(mx.array(wanted))
        super().write(at, *held)


@pytest.mark.parametrize("kind", [CpuForward, MlxForward])
@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS.keys())
def test_cached_logits_equal_those_of_the_whole(kind, builder):
    model = builder()
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 128, 40).tolist() for _ in range(3)]
    got = ragged_logits(kind(model), rows, [5, 11, 3])
    for row, logits in zip(rows, got, strict=True):
        whole = np.array(model(mx.array([row[: len(logits)]]))[0])
        assert logits == pytest.approx(whole, abs=2e-4)


@pytest.mark.parametrize("kind", [CpuForward, MlxForward])
@pytest.mark.parametrize("config", [QWEN3, MOBILE])
def test_single_steps_of_rows_of_different_lengths(kind, config: dict):
    model = make(config)
    rng = np.random.default_rng(1)
    lengths = [3, 30, 17, 8]
    rows = [rng.integers(0, 128, length + 4).tolist() for length in lengths]
    forward = kind(model)
    caches = forward.new_caches()
    for cache in caches:
        cache.reserve(len(rows), 40)
    for i, length in enumerate(lengths):
        forward.hidden([rows[i][:length]], Pass(i, [0], [length]), caches)
    for step in range(4):
        tokens = [[row[length + step]] for row, length in zip(rows, lengths, strict=True)]
        at = Pass(0, [length + step for length in lengths], [1] * 4)
        got = np.array(forward.logits(forward.hidden(tokens, at, caches)))
        for row, length, logits in zip(rows, lengths, got, strict=True):
            whole = np.array(model(mx.array([row[: length + step + 1]]))[0, -1])
            assert logits == pytest.approx(whole, abs=2e-4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "builder", ["qwen3", "low-rank update", "quantised", "layers without positions, chunks"]
)
def test_quantised_keys_and_values_equal_those_of_mlx_lm(builder, bits, monkeypatch):
    from mlx_lm.models.cache import QuantizedKVCache  # only once smidgen.backend is there

    class Recording(QuantizedKVCache):
        def update_and_fetch(self, keys, values):
            self.unrounded = [np.array(x[0].swapaxes(0, 1)) for x in (keys, values)]  # (L, K, D)
            return super().update_and_fetch(keys, values)

    model = BUILDERS[builder]()
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 128, 19 + 3 * i).tolist() for i in range(3)]
    recorded = [[Recording(group_size=32, bits=bits) for _ in model.model.layers] for _ in rows]
    wanted = [
        np.array(model(mx.array([row]), cache=cache)[0]) for row, cache in zip(rows, recorded, strict=True)
    ]
    forward = MlxForward(model, kv_bits=bits)
    caches = [
        RoundedAlike(cache, [row[layer].unrounded for row in recorded])
        for layer, cache in enumerate(forward.new_caches())
    ]
    monkeypatch.setattr(forward, "new_caches", lambda: caches)
    got = ragged_logits(forward, rows, [5, 11, 3])
    assert [cache.written for cache in caches] == [sum(map(len, rows))] * len(caches)
    for logits, expected in zip(got, wanted, strict=True):
        assert logits == pytest.approx(expected, abs=2e-4)


def test_keys_and_values_in_8_bits_change_little_and_take_less_memory():
    model = make(QWEN3)
    row = [np.random.default_rng(4).integers(0, 128, 40).tolist()]
    plain, eight, four = (MlxForward(model, kv_bits=bits) for bits in (None, 8, 4))
    exact = ragged_logits(plain, row, [19])[0]
    errors = [np.abs(ragged_logits(one, row, [19])[0] - exact).max() / exact.std() for one in (eight, four)]
    assert 0 < 8 * errors[0] < errors[1] < 2
    sizes = [one.new_caches()[0].bytes_per_token for one in (plain, eight, four)]
    assert sizes == [512, 2 * 2 * (32 + 8), 2 * 2 * (16 + 8)]


def test_heads_too_narrow_to_be_held_in_few_bits():
    with pytest.raises(
        ConfigError, match=r"kv_bits needs a head width .* multiple of 32; .* is 16, so leave"
    ):
        forward_of(make(LLAMA), kv_bits=8)


def test_shares_of_the_cores_add_up(monkeypatch):
    forward = CpuForward(make(QWEN3))
    rng = np.random.default_rng(2)
    rows = [rng.integers(0, 128, 20).tolist() for _ in range(7)]
    monkeypatch.setattr(forward, "_cores", 1)
    alone = ragged_logits(forward, rows, [9, 1])
    monkeypatch.setattr(forward, "_cores", 3)
    together = ragged_logits(forward, rows, [9, 1])
    for a, b in zip(alone, together, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_rotation_grows_with_the_context():
    model = make(QWEN3)
    row = np.random.default_rng(3).integers(0, 128, 530).tolist()
    (logits,) = ragged_logits(CpuForward(model), [row], [260, 260, 10])
    assert logits == pytest.approx(np.array(model(mx.array([row]))[0]), abs=1e-3)


def test_unknown_parts_are_left_to_mlx(monkeypatch):
    class OtherLinear(nn.Linear):
        pass

    strange_linear, strange_norm, strange_rope = make(QWEN3), make(QWEN3), make(QWEN3)
    strange_block = make(QWEN3)
    del strange_block.model.layers[1]["mlp"]
    strange_linear.model.layers[1].mlp.up_proj = OtherLinear(64, 96, bias=False)
    strange_norm.model.norm = nn.LayerNorm(64)
    strange_rope.model.layers[0].self_attn.rope = nn.RoPE(32, traditional=True)
    for model in (strange_linear, strange_norm, strange_rope, strange_block):
        with pytest.raises(Unsupported):
            CpuForward(model)
        assert isinstance(forward_of(model), MlxForward)
    model = make(QWEN3)
    assert isinstance(forward_of(model), CpuForward)
    assert isinstance(forward_of(model, in_numpy=False), MlxForward)
    monkeypatch.setattr(cpu_forward, "LARGEST", 1000)
    assert isinstance(forward_of(model), MlxForward)
    assert cpu_forward._num_weights(model) == cpu_forward._num_weights(quantized(QWEN3))


def test_one_long_row_is_split_among_the_cores(monkeypatch):
    forward = CpuForward(make(QWEN3))
    row = [np.random.default_rng(5).integers(0, 128, 200).tolist()]
    monkeypatch.setattr(forward, "_cores", 1)
    (alone,) = ragged_logits(forward, row, [120, 60])
    monkeypatch.setattr(cpu_forward, "SHARE", 1)
    monkeypatch.setattr(forward, "_cores", 3)
    (together,) = ragged_logits(forward, row, [120, 60])
    assert alone == pytest.approx(together, abs=1e-4)


def test_a_fault_in_a_share_of_a_row_ends_the_others(monkeypatch):
    forward = CpuForward(make(QWEN3))
    monkeypatch.setattr(cpu_forward, "SHARE", 1)
    monkeypatch.setattr(forward, "_cores", 2)
    caches = forward.new_caches()  # without room for any token
    with pytest.raises(IndexError):
        forward.hidden([[1] * 40], Pass(0, [0], [40]), caches)


@pytest.mark.parametrize("config", [QWEN3, MOBILE])
def test_columns_shared_with_the_first_slot_are_read_there(config: dict):
    forward = CpuForward(make(config))
    random = np.random.default_rng(6)
    stem = random.integers(0, 128, 20).tolist()
    rows = [stem + random.integers(0, 128, size).tolist() for size in (3, 9, 5)]
    caches = forward.new_caches()
    for cache in caches:
        cache.reserve(4, 64)
    for slot, row in enumerate([stem, *rows]):
        forward.hidden([row], Pass(slot, [0], [len(row)]), caches)
    lengths = [len(row) for row in rows]
    tokens = [[7], [8], [9]]
    own = forward.hidden(tokens, Pass(1, lengths, [1] * 3), caches)
    for shared in (1, 20):
        assert forward.hidden(tokens, Pass(1, lengths, [1] * 3, shared), caches) == pytest.approx(
            own, abs=1e-4
        )


def test_a_part_of_a_pass_has_the_same_tokens():
    at = Pass(3, [4, 0, 7], [2, 5, 1], shared=2)
    for begin in range(8):
        for end in range(begin + 1, 9):
            part = at.part(begin, end)
            assert (part.slots == at.slots[begin:end]).all()
            assert (part.columns == at.columns[begin:end]).all()
            assert part.shared == 2
