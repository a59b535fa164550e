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
from smidgen.cpu_kernels.team import usable

FEW_TOKENS = 32
"""Minimum number of tokens; below, the overhead of leaving MLX outweighs the gain."""

ANGLES_STEP = 64
"""Rotary angles are kept for lengths that are multiples of this."""

_Linears = tuple[tuple[str, Linear], ...]
_ARCHITECTURES = ("mlx_lm.models.qwen3", "mlx_lm.models.qwen2", "mlx_lm.models.llama")


def accelerate(model: nn.Module) -> None:
    """Replace the blocks of a Qwen3, Qwen2 or Llama of mlx-lm with the kernels; does nothing on a GPU.

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
    high, low = cast(list[mx.array], mx.random.state)[0].tolist()
    return (high << 32) | low


class FusedBlock(nn.Module):
    """A transformer block of mlx-lm that runs as one kernel if it is supported."""

    self_attn: Any
    mlp: Any
    input_layernorm: Any
    post_attention_layernorm: Any

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(block.__dict__)
        dict.update(self, block)
        # Not a plain dict, because nn.Module would treat its arrays as parameters.
        self._angles: UserDict[int, tuple[mx.array, mx.array] | None] = UserDict()

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
                if packing is None:
                    return self._unfused(x, mask, cache, dropout, chosen)
                with packing.placed(self.self_attn):
                    return self._unfused(x, packing.mask(), cache, dropout, chosen)

            return unfused(x) if keep or not self.training else recomputed(self, unfused)(x)
        if packing is not None:
            arrays["segments"] = mx.array(packing.segments.reshape(-1))
            arrays["positions"] = mx.array(packing.positions.reshape(-1))
        if chosen is not None:
            arrays["chosen"] = chosen
        if dropout or any(linear.dropout for _, linear in linears):
            arrays["seed"] = mx.random.randint(0, 1 << 30, (1,))
        attention = self.self_attn
        head_norms = "q_norm" in attention
        plan = BlockPlan(
            heads=attention.n_heads,
            kv_heads=attention.n_kv_heads,
            head_dim=2 * arrays["cosine"].shape[0],
            scale=attention.scale,
            eps=(
                self.input_layernorm.eps,
                self.post_attention_layernorm.eps,
                attention.q_norm.eps if head_norms else 0.0,
            ),
            head_norms=head_norms,
            linears=linears,
            dropout=dropout,
            chosen=chosen is not None,
            keeps=self.training and keep,
        )
        return _function(plan)(x, arrays)["y"]

    def _unfused(
        self, x: mx.array, mask: Any, cache: Any, dropout: float, chosen: mx.array | None
    ) -> mx.array:
        """Run the block with MLX's ops."""
        middle = x + self.self_attn(self.input_layernorm(x), mask, cache)
        if chosen is not None:
            x, middle = (array.reshape(-1, array.shape[-1])[chosen] for array in (x, middle))
        y = middle + self.mlp(self.post_attention_layernorm(middle))
        return x + nn.Dropout(dropout)(y - x) if dropout else y

    def _kernel_inputs(
        self, x: mx.array, mask: Any, cache: Any, packing: Packing | None
    ) -> tuple[dict[str, mx.array], _Linears]:
        """Return the block's arrays and linear layers; empty if the kernels do not support the call."""
        if not (isinstance(mask, str) and mask == "causal") or cache is not None:
            return {}, ()
        length = x.shape[1] if packing is None else packing.num_positions
        angles = self._rotation(-(-length // ANGLES_STEP) * ANGLES_STEP)
        if angles is None or x.shape[0] * x.shape[1] < FEW_TOKENS:
            return {}, ()
        arrays = {name: self[name].weight for name in ("input_layernorm", "post_attention_layernorm")}
        for name in ("q_norm", "k_norm"):
            if name in self.self_attn:
                arrays[name] = self.self_attn[name].weight
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
        return arrays | {"cosine": angles[0], "sine": angles[1]}, tuple(linears)

    def _linear(self, name: str) -> Any:
        return (self.self_attn if name in self.self_attn else self.mlp)[name]

    def _rotation(self, length: int) -> tuple[mx.array, mx.array] | None:
        """Return cosine and sine of the rotary embedding, (head_dim / 2, length); None for another layout."""
        if length not in self._angles:
            keys = self.self_attn.k_proj
            rows = (keys.linear if "linear" in keys else keys).weight.shape[0]
            half = rows // self.self_attn.n_kv_heads // 2
            self._angles[length] = _read_angles(self.self_attn.rope, half, length)
        return self._angles[length]


def fuses(block: nn.Module) -> bool:
    """Return whether a block runs as one kernel in training."""
    if not isinstance(block, FusedBlock):
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


def _read_angles(rope: Callable[..., mx.array], half: int, length: int) -> tuple[mx.array, mx.array] | None:
    """Return the cosines and sines of a rotary embedding by rotating unit vectors, whatever its scaling."""
    one, zero = mx.ones((1, 1, length, half)), mx.zeros((1, 1, length, half))
    first = rope(mx.concatenate([one, zero], axis=-1))[0, 0]
    second = rope(mx.concatenate([zero, one], axis=-1))[0, 0]
    cosine, sine = mx.contiguous(first[:, :half].T), mx.contiguous(first[:, half:].T)
    turned = mx.array_equal(second[:, half:].T, cosine) & mx.array_equal(-second[:, :half].T, sine)
    return (cosine, sine) if turned else None


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
