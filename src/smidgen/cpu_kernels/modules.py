"""The kernels as modules that replace mlx-lm's blocks in place, with MLX's ops as the fallback."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Any, cast

import numpy as np
from mlx.nn.utils import checkpoint

from smidgen.backend import blas_library, device, mx, nn
from smidgen.cpu_kernels.backward import Backward
from smidgen.cpu_kernels.block import LINEARS, BlockPlan, Linear
from smidgen.cpu_kernels.block_forward import Forward
from smidgen.cpu_kernels.packing import Packing
from smidgen.cpu_kernels.rotary import Rotary, apart, longest_text, read_rotary
from smidgen.cpu_kernels.team import usable

FEW_TOKENS = 32
"""Minimum number of tokens; below, the overhead of leaving MLX outweighs the gain."""

LONG_TEXT = 8191
"""Tokens below which `llama4_text` is plain causal attention by the defaults of transformers."""

ANGLES_STEP = 64
"""Rotary angles are kept for lengths that are multiples of this."""

_Linears = tuple[tuple[str, Linear], ...]
_ARCHITECTURES = (
    "mlx_lm.models.qwen3", "mlx_lm.models.qwen2", "mlx_lm.models.llama", "smidgen.models.mobilellm",
)  # fmt: skip


def accelerate(model: nn.Module) -> None:
    """Replace the blocks of a Qwen3, Qwen2, Llama or MobileLLM-R1 with the kernels; does nothing on a GPU.

    Parameters keep their names, and layers that are replaced later (low-rank updates) are respected.
    """
    if blas_library() is None or device().kind != "cpu":
        return
    layers = cast(Any, model).model.layers
    for index, layer in enumerate(layers):
        if type(layer).__module__ in _ARCHITECTURES and not getattr(layer, "use_sliding", False):
            layers[index] = FusedBlock(layer)


def recomputed(module: nn.Module, run: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """Return `run`, which calls a module, which the backward pass runs again instead of keeping values.

    The second run draws the random numbers of the first, and leaves the generator as it was.
    """
    state, calls = _random_state(), count()

    def call(x: mx.array) -> mx.array:
        if next(calls) == 0:
            return run(x)
        now = _random_state()
        mx.random.seed(state)
        y = run(x)
        mx.random.seed(now)
        return y

    return checkpoint(module, call)


def _random_state() -> int:
    """Return the state of MLX's random generator as the seed that restores it."""
    high, low = np.array(cast(list[mx.array], mx.random.state)[0]).tolist()
    return (high << 32) | low


class FusedBlock(nn.Module):
    """A transformer block that runs as one kernel if it is supported."""

    self_attn: Any
    input_layernorm: Any
    post_attention_layernorm: Any

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(block.__dict__)
        dict.update(self, block)
        # Not a plain dict, because nn.Module would treat its arrays as parameters.
        self._angles: UserDict[int, Rotary | None] = UserDict()

    def __call__(
        self,
        x: mx.array,
        mask: mx.array | str | None = None,
        cache: Any = None,
        *,
        dropout: float = 0.0,
        chosen: mx.array | None = None,
        packing: Packing | None = None,
        keep: bool = True,
    ) -> mx.array:
        """Run the block.

        Args:
            x: (B, L, D).
            mask: as in mlx-lm; the kernels support `"causal"`.
            cache: as in mlx-lm; the kernels support None.
            dropout: rate on the block's output before it is added to `x`, in training mode.
            chosen: distinct positions (n,) in the flattened batch, if only these tokens are needed.
            packing: segments and positions of packed rows; `mask` is `"causal"` then.
            keep: whether values for the gradient are stored in training mode; otherwise it recomputes them.

        Returns:
            (B, L, D), or (n, D) of the chosen tokens.
        """
        dropout = dropout if self.training else 0.0
        arrays, linears = self._kernel_inputs(x, mask, cache, packing)
        if not linears:

            def unfused(x: mx.array) -> mx.array:
                return self._unfused(x, mask, cache, dropout, chosen, packing)

            return unfused(x) if keep or not self.training else recomputed(self, unfused)(x)
        if packing is not None:
            arrays["segments"] = mx.array(packing.segments.reshape(-1))
            arrays["positions"] = mx.array(packing.positions.reshape(-1))
            if packing.barred is not None:
                arrays["barred"] = packing.barred
        if chosen is not None:
            arrays["chosen"] = chosen
        if dropout or any(linear.dropout for _, linear in linears):
            arrays["seed"] = mx.random.randint(0, 1 << 30, (1,))
        attention = self.self_attn
        plan = BlockPlan(
            heads=attention.n_heads,
            kv_heads=attention.n_kv_heads,
            head_dim=2 * arrays["cosine"].shape[0],
            scale=attention.scale,
            eps=(self.input_layernorm.eps, self.post_attention_layernorm.eps, _head_eps(attention)),
            head_norms="q_norm" in arrays,
            linears=linears,
            dropout=dropout,
            chosen=chosen is not None,
            keeps=self.training and keep,
        )
        return _function(plan)(x, arrays)["y"]

    def _unfused(
        self,
        x: mx.array,
        mask: Any,
        cache: Any,
        dropout: float,
        chosen: mx.array | None,
        packing: Packing | None,
    ) -> mx.array:
        """Run the block with MLX's ops."""
        normed = self.input_layernorm(x)
        if packing is None:
            middle = x + self.self_attn(normed, mask, cache)
        else:
            middle = x + packing.attend(self.self_attn, normed)
        if chosen is not None:
            x, middle = (array.reshape(-1, array.shape[-1])[chosen] for array in (x, middle))
        y = middle + self._mlp(self.post_attention_layernorm(middle))
        return x + nn.Dropout(dropout)(y - x) if dropout else y

    def _kernel_inputs(
        self, x: mx.array, mask: Any, cache: Any, packing: Packing | None
    ) -> tuple[dict[str, mx.array], _Linears]:
        """Return the block's arrays and linear layers; empty if the kernels do not support the call."""
        if not (isinstance(mask, str) and mask == "causal") or cache is not None:
            return {}, ()
        length = x.shape[1] if packing is None else packing.num_positions
        if length > longest_text(self.self_attn) or x.shape[0] * x.shape[1] < FEW_TOKENS:
            return {}, ()
        angles = self._rotation(-(-length // ANGLES_STEP) * ANGLES_STEP)
        if angles is None:
            return {}, ()
        arrays = {name: self[name].weight for name in ("input_layernorm", "post_attention_layernorm")}
        for name in ("q_norm", "k_norm"):
            if name in self.self_attn:
                arrays[name] = self.self_attn[name].weight
            elif getattr(self.self_attn, "norm_eps", None) is not None:  # a norm without a weight
                arrays[name] = mx.ones(2 * len(angles.cosine))
        linears, packed = [], []
        for name in LINEARS:
            module = self._linear(name)
            linear = _describe(module, module.training)
            if linear is None:
                return {}, ()
            linears.append((name, linear))
            base = module.linear if linear.rank else module
            weights = {"weight": base.weight}
            if linear.quantization is not None:
                weights |= {part: base[part] for part in ("scales", "biases") if part in base}
                packed += [f"{name}.{part}" for part in weights]
            arrays |= {f"{name}.{part}": array for part, array in weights.items()}
            if linear.bias:
                arrays[f"{name}.bias"] = base.bias
            if linear.rank:
                arrays |= {f"{name}.lora_a": module.lora_a, f"{name}.lora_b": module.lora_b}
        if not usable(x, *(array for name, array in arrays.items() if name not in packed)):
            return {}, ()
        if angles.neighbours:
            arrays |= _half_a_head_apart(arrays, len(angles.cosine))
        return arrays | {"cosine": angles.cosine, "sine": angles.sine}, tuple(linears)

    @property
    def _mlp(self) -> Any:
        return self["mlp"] if "mlp" in self else self["feed_forward"]

    def _linear(self, name: str) -> Any:
        return (self.self_attn if name in self.self_attn else self._mlp)[name]

    def _rotation(self, length: int) -> Rotary | None:
        """Return the rotation of each position; None if the kernels do not support it."""
        if length not in self._angles:
            keys = self.self_attn.k_proj
            rows = (keys.linear if "linear" in keys else keys).weight.shape[0]
            half = rows // self.self_attn.n_kv_heads // 2
            self._angles[length] = read_rotary(self.self_attn.rope, half, length)
        return self._angles[length]


def fuses(block: nn.Module) -> bool:
    """Return whether a block runs as one kernel in training, however long its texts are up to `LONG_TEXT`."""
    if not isinstance(block, FusedBlock) or longest_text(block.self_attn) < LONG_TEXT:
        return False
    return all(_describe(block._linear(name), training=True) for name in LINEARS)


@lru_cache(64)
def _function(plan: BlockPlan) -> Any:
    @mx.custom_function
    def block(x: mx.array, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        return Forward(plan, x, arrays).run()

    @block.vjp
    def gradient(
        primals: tuple[mx.array, dict[str, mx.array]],
        cotangents: dict[str, mx.array],
        kept: dict[str, mx.array],
    ) -> tuple[mx.array, dict[str, mx.array]]:
        x, arrays = primals
        keeping = replace(plan, keeps=True)
        if not plan.keeps:
            kept = Forward(keeping, x, arrays).run()
        with np.errstate(all="ignore"):
            dx, darrays = Backward(keeping, x, arrays).run(kept, cotangents["y"])
        return dx, {name: darrays.get(name, mx.zeros_like(value)) for name, value in arrays.items()}

    return block


def _head_eps(attention: Any) -> float:
    """Return the eps of the head norms, with or without weights; 0 if there are none."""
    return attention.q_norm.eps if "q_norm" in attention else getattr(attention, "norm_eps", None) or 0.0


def _half_a_head_apart(arrays: dict[str, mx.array], half: int) -> dict[str, mx.array]:
    """Return the arrays of the query and key projections with their outputs reordered for the kernels."""
    reordered = {}
    for name, array in arrays.items():
        if name.startswith(("q_proj.", "k_proj.")) and not name.endswith(".lora_a"):
            reordered[name] = apart(array.T, half).T if name.endswith(".lora_b") else apart(array, half)
    return reordered


def _describe(module: Any, training: bool) -> Linear | None:
    """Return the kernels' description of a linear layer; None if they do not support it."""
    base, update = module, {}
    if type(module).__name__ == "LoRALinear":
        dropout = 1 - module.dropout._p_1 if training else 0.0
        base, update = (
            module.linear,
            {"rank": module.lora_a.shape[1], "scale": module.scale, "dropout": dropout},
        )
    if type(base) is nn.QuantizedLinear:
        quantization = base.group_size, base.bits, base.mode
        return Linear(True, "bias" in base, **update, quantization=quantization)
    if type(base) is not nn.Linear:
        return None
    return Linear("weight" in base._no_grad, "bias" in base, **update)
