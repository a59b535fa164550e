"""AdamW and its learning-rate schedule.

AdamW (https://arxiv.org/abs/1711.05101) with bias correction and decoupled weight decay on matrices only.
LoRA+ gives the B matrices of an adapter a larger rate. Moments and master weights are float32 whatever the
dtype of the model: a bfloat16 weight cannot represent a step below 1/256 of itself, and mlx.optimizers would
round it away.
"""

import math

from mlx.utils import tree_unflatten

from smidgen import cpu_kernels
from smidgen.backend import mx, nn
from smidgen.config import FinetuneConfig, TrainConfig
from smidgen.cpu_kernels import Group
from smidgen.models.graph import named_arrays


class AdamW:
    """AdamW over the trainable parameters of a model; `state` is a flat dict of arrays, for checkpoints."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._config = config
        self._groups = parameter_groups(model, config)
        self.state: dict[str, mx.array] = {}
        for name, value in named_arrays(model.trainable_parameters()).items():
            self.state[f"m.{name}"] = mx.zeros(value.shape, mx.float32)
            self.state[f"v.{name}"] = mx.zeros(value.shape, mx.float32)
            if value.dtype != mx.float32:
                self.state[f"master.{name}"] = value.astype(mx.float32)

    def update(
        self, model: nn.Module, gradients: dict, step: int, learning_rate: float, scale: float
    ) -> None:
        """Update the parameters of `model` by one step.

        Args:
            model: the model whose trainable parameters are updated.
            gradients: tree as `nn.value_and_grad` returns it.
            step: number of the step, from 1.
            learning_rate: learning rate of this step.
            scale: factor on every gradient (clipping).
        """
        parameters = named_arrays(model.trainable_parameters())
        named = named_arrays(gradients)
        if cpu_kernels.usable(*parameters.values(), *named.values()):
            self._update_on_cpu(model, parameters, named, step, learning_rate, scale)
            return
        updated = [
            (
                name,
                self._updated(
                    name, parameters[name], gradient.astype(mx.float32) * scale, step, learning_rate
                ),
            )
            for name, gradient in named.items()
        ]
        model.update(tree_unflatten(updated))

    def _update_on_cpu(
        self, model: nn.Module, parameters: dict[str, mx.array], gradients: dict[str, mx.array],
        step: int, learning_rate: float, scale: float,
    ) -> None:  # fmt: skip
        """Do the same for float32 parameters in one pass over memory."""
        names = list(gradients)
        updated = cpu_kernels.adamw(
            [parameters[name] for name in names],
            list(gradients.values()),
            [self.state[f"m.{name}"] for name in names],
            [self.state[f"v.{name}"] for name in names],
            [self._groups[name] for name in names],
            cpu_kernels.AdamWStep(step, learning_rate, self._config.betas, self._config.eps, scale),
        )
        for name, after in zip(names, updated, strict=True):
            self.state[f"m.{name}"], self.state[f"v.{name}"] = after.first, after.second
        values = [(name, after.value) for name, after in zip(names, updated, strict=True)]
        model.update(tree_unflatten(values))

    def _updated(
        self, name: str, value: mx.array, gradient: mx.array, step: int, learning_rate: float
    ) -> mx.array:
        """Update the moments of one parameter and return its new value."""
        beta1, beta2 = self._config.betas
        m = beta1 * self.state[f"m.{name}"] + (1 - beta1) * gradient
        v = beta2 * self.state[f"v.{name}"] + (1 - beta2) * mx.square(gradient)
        self.state[f"m.{name}"], self.state[f"v.{name}"] = m, v
        master = self.state.get(f"master.{name}", value)
        group = self._groups[name]
        learning_rate = learning_rate * group.rate
        if group.decay:
            master = master * (1 - learning_rate * group.decay)
        deviation = mx.sqrt(v) * (1 / math.sqrt(1 - beta2**step)) + self._config.eps
        master = master - (learning_rate / (1 - beta1**step)) * (m / deviation)
        if value.dtype != mx.float32:
            self.state[f"master.{name}"] = master
        return master.astype(value.dtype)


def parameter_groups(model: nn.Module, config: TrainConfig) -> dict[str, Group]:
    """Return how each trainable parameter of a model is treated, by its name.

    Weight decay is for matrices, which it keeps small; a norm's weight has no reason to be small. With LoRA+
    (https://arxiv.org/abs/2402.12354) the B matrices, which start at zero, learn `lora.plus` times as fast.
    """
    lora = config.lora if isinstance(config, FinetuneConfig) else None
    plus = 1.0 if lora is None else lora.plus
    return {
        name: Group(
            rate=plus if name.endswith(".lora_b") else 1.0,
            decay=config.weight_decay if value.ndim >= 2 else 0.0,
        )
        for name, value in named_arrays(model.trainable_parameters()).items()
    }


def learning_rate_at(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the learning rate of a step; steps count from 1 to `num_steps`.

    The rate rises linearly during the warm-up, whose last step has the peak, then decays towards
    `min_learning_rate_ratio` of the peak, reached one step after the last.
    """
    warmup = config.warmup_of(num_steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    done = (step - 1 - warmup) / (num_steps - warmup)
    shape = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        config.schedule
    ]
    floor = 1.0 if config.schedule == "constant" else config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * shape)
