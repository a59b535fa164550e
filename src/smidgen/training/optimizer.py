"""AdamW and its learning-rate schedule.

AdamW (https://arxiv.org/abs/1711.05101) with bias correction and decoupled weight decay on matrices only.
Moments and master weights are float32 whatever the dtype of the model: a bfloat16 weight cannot take a step
below 1/256 of itself, and mlx.optimizers would round it away.
"""

import math

from mlx.utils import tree_unflatten

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.config import TrainConfig
from smidgen.models.graph import named_arrays


class AdamW:
    """AdamW over the trainable parameters of a model; `state` is flat, so that a checkpoint is one file."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._config = config
        self.state: dict[str, mx.array] = {}
        for name, value in named_arrays(model.trainable_parameters()).items():
            self.state[f"m.{name}"] = mx.zeros(value.shape, mx.float32)
            self.state[f"v.{name}"] = mx.zeros(value.shape, mx.float32)
            if value.dtype != mx.float32:
                self.state[f"master.{name}"] = value.astype(mx.float32)

    def update(
        self, model: nn.Module, gradients: dict, step: int, learning_rate: float, scale: float
    ) -> None:
        """Move the parameters of `model` by one step.

        Args:
            model: whose trainable parameters are moved.
            gradients: tree as `nn.value_and_grad` returns it.
            step: 1 for the first.
            learning_rate: of this step.
            scale: multiplies every gradient (clipping).
        """
        parameters = named_arrays(model.trainable_parameters())
        named = named_arrays(gradients)
        if cpu_kernels.usable(*parameters.values(), *named.values()):
            self._move_on_cpu(model, parameters, named, step, learning_rate, scale)
            return
        moved = [
            (
                name,
                self._move(name, parameters[name], gradient.astype(mx.float32) * scale, step, learning_rate),
            )
            for name, gradient in named.items()
        ]
        model.update(tree_unflatten(moved))

    def _move_on_cpu(
        self, model: nn.Module, parameters: dict[str, mx.array], gradients: dict[str, mx.array],
        step: int, learning_rate: float, scale: float,
    ) -> None:  # fmt: skip
        """The same, of float32 parameters, in one pass over memory."""
        names = list(gradients)
        decay = self._config.weight_decay
        moved = cpu_kernels.adamw(
            [parameters[name] for name in names],
            list(gradients.values()),
            [self.state[f"m.{name}"] for name in names],
            [self.state[f"v.{name}"] for name in names],
            [decay if parameters[name].ndim >= 2 else 0.0 for name in names],
            cpu_kernels.AdamWStep(step, learning_rate, self._config.betas, self._config.eps, scale),
        )
        for name, after in zip(names, moved, strict=True):
            self.state[f"m.{name}"], self.state[f"v.{name}"] = after.first, after.second
        model.update(tree_unflatten([(name, after.value) for name, after in zip(names, moved, strict=True)]))

    def _move(
        self, name: str, value: mx.array, gradient: mx.array, step: int, learning_rate: float
    ) -> mx.array:
        beta1, beta2 = self._config.betas
        m = beta1 * self.state[f"m.{name}"] + (1 - beta1) * gradient
        v = beta2 * self.state[f"v.{name}"] + (1 - beta2) * mx.square(gradient)
        self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v
        master = self.state.get(f"master.{name}", value)
        if value.ndim >= 2 and self._config.weight_decay:
            master = master * (1 - learning_rate * self._config.weight_decay)
        deviation = mx.sqrt(v) * (1 / math.sqrt(1 - beta2**step)) + self._config.eps
        master = master - (learning_rate / (1 - beta1**step)) * (m / deviation)
        if value.dtype != mx.float32:
            self.state[f"master.{name}"] = master
        return master.astype(value.dtype)


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the rate of a step, 1 for the first of `num_steps`.

    It rises linearly over the warm-up, whose last step has the peak, then decays towards
    `min_learning_rate_ratio` of it, which the step after the last would have.
    """
    warmup = round(config.warmup * num_steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    done = (step - 1 - warmup) / (num_steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        config.schedule
    ]
    floor = 1.0 if config.schedule == "constant" else config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * shape)
