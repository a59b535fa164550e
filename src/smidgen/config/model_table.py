"""`[model]`: the base model of a recipe, or the architecture of a model to pretrain."""

from typing import Literal, Self

from pydantic import Field, model_validator

from smidgen.config.base import Section


class ArchitectureConfig(Section):
    """The architecture of a model that is pretrained from random weights."""

    model_type: Literal["qwen3", "llama4_text"] = "qwen3"
    """Architecture; `qwen3` is supported by every target runtime. `llama4_text` is MobileLLM-R1's."""
    hidden_size: int = Field(default=192, gt=0, multiple_of=32)
    """Width of the residual stream."""
    num_hidden_layers: int = Field(default=5, gt=0)
    """Number of transformer blocks."""
    num_attention_heads: int = Field(default=6, gt=0)
    """Number of query heads."""
    num_key_value_heads: int = Field(default=2, gt=0)
    """Number of key and value heads, shared by groups of query heads."""
    head_dim: int = Field(default=32, gt=0, multiple_of=2)
    """Width of one attention head."""
    intermediate_size: int = Field(default=448, gt=0, multiple_of=32)
    """Width of the SwiGLU feed-forward layer."""
    vocab_size: int = Field(default=3072, gt=0)
    """Number of rows of the embedding: the tokens of the tokenizer that is trained with the model; at least
    those of `model.tokenizer`, if it is given."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary embedding."""
    no_rope_layer_interval: int = Field(default=0, ge=0)
    """`llama4_text` only: every Nth layer has no rotary embedding; 0, as in MobileLLM-R1, gives it to all."""
    initialization: Literal["normal", "induction"] = "normal"
    """Initial weights: random, or random with an induction circuit, which tiny models are slow to learn."""
    max_position_embeddings: int = Field(default=2048, gt=0)
    """Context length that the model declares."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.model_type != "llama4_text" and self.no_rope_layer_interval:
            raise ValueError(
                f"no_rope_layer_interval is for llama4_text, and model_type is {self.model_type}; "
                "leave it out"
            )
        if self.model_type != "qwen3" and self.initialization == "induction":
            raise ValueError(
                f'initialization = "induction" is for qwen3, and model_type is {self.model_type}; '
                'use "normal"'
            )
        if self.initialization == "induction":
            group = self.num_attention_heads // self.num_key_value_heads
            room = 1 + self.head_dim * (1 + group)
            if self.num_hidden_layers < 3 or self.head_dim < 16 or self.hidden_size < room:
                raise ValueError(
                    f'initialization = "induction" needs at least 3 layers, heads of 16 and a hidden_size of '
                    f"{room} for groups of {group} query heads of {self.head_dim}"
                )
        return self


class ModelConfig(Section):
    """The base model of a recipe."""

    base: str = "smidgen:nano"
    """A folder, a `.gguf` file, a hub id (`owner/repo` or `owner/repo:subfolder`), `smidgen:nano` or
    `smidgen:smollm2`."""
    thinking: bool = False
    """Enable the chat template's thinking mode; an error if the template has no such switch."""


class NewModelConfig(Section):
    """The model that a pretraining recipe trains: a new one, or one that exists."""

    architecture: ArchitectureConfig | None = None
    """The architecture of a new model with random weights."""
    tokenizer: str | None = None
    """The model whose tokenizer a new model gets, named like `base`, such as its teacher for
    `[train.teacher]`; default: a tokenizer of `vocab_size` tokens is trained on the corpus."""
    base: str | None = None
    """The model whose weights the training goes on from, and whose tokenizer it keeps, as in `[model]` of
    other recipes."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.architecture is None) == (self.base is None):
            given = "neither 'base' nor" if self.base is None else "both 'base' and"
            raise ValueError(
                f"there is {given} [model.architecture]; expected exactly one, the model to go on from or a "
                "new one"
            )
        if self.base is not None and self.tokenizer is not None:
            raise ValueError(
                f"'tokenizer' is for a new model, and {self.base} keeps its own; leave 'tokenizer' out"
            )
        return self
