"""GGUF metadata beyond tensors and tokenizer: name, licence and hyperparameters.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from typing import Any

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType, RopeScalingType

from smidgen.export.checkpoint_files import Checkpoint
from smidgen.gguf.rope import Llama3Scaling
from smidgen.models.licence import card_licence, licence_of


def add_general(writer: GGUFWriter, checkpoint: Checkpoint, name: str, file_type: LlamaFileType) -> None:
    """Add the model's name and licence."""
    writer.add_type("model")
    writer.add_name(name)
    said, licence = card_licence(checkpoint.path), licence_of(checkpoint.path, checkpoint.config)
    if licence is not None and licence.source != "README.md":
        said = {"license": "other", "license_name": licence.name} | said
    for key, add in (
        ("license", writer.add_license),
        ("license_name", writer.add_license_name),
        ("license_link", writer.add_license_link),
    ):
        if key in said:
            add(said[key])
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def add_hyperparameters(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """Add the hyperparameters: the model's shape and its RoPE settings."""
    arguments = checkpoint.graph.args
    head_dim = head_dimension(arguments)
    writer.add_vocab_size(arguments.vocab_size)
    writer.add_block_count(arguments.num_hidden_layers)
    writer.add_context_length(arguments.max_position_embeddings)
    writer.add_embedding_length(arguments.hidden_size)
    writer.add_feed_forward_length(arguments.intermediate_size)
    writer.add_head_count(arguments.num_attention_heads)
    writer.add_head_count_kv(arguments.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(arguments.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(arguments.rope_theta)
    scaling = arguments.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def head_dimension(arguments: Any) -> int:
    """Return the number of features of one head."""
    return getattr(arguments, "head_dim", None) or arguments.hidden_size // arguments.num_attention_heads


def llama3_frequency_divisors(arguments: Any) -> np.ndarray | None:
    """Return what each rotary frequency is divided by, (head_dim / 2,) float32, for scaling of Llama 3.1.

    llama.cpp has no setting for it and reads the divisors as the tensor `rope_freqs.weight`.
    """
    scaling = arguments.rope_scaling or {}
    if scaling.get("rope_type") != "llama3":
        return None
    return Llama3Scaling.of(scaling).divisors(arguments.rope_theta, head_dimension(arguments))
