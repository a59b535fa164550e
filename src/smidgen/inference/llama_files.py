"""The GGUF file of a model and its tokenizer.

A model folder is converted once; the file is kept in the cache folder under a hash of the weights, so a
changed folder is always converted again.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smidgen.cache import cache_dir
from smidgen.data.templates import Tokenizer, load_tokenizer
from smidgen.errors import ModelError
from smidgen.export.gguf import write_gguf
from smidgen.files import atomic_folder, content_hash, sha256_json
from smidgen.gguf.read import read_metadata
from smidgen.gguf.read_tokenizer import FORMAT as TOKENIZER_FORMAT
from smidgen.gguf.read_tokenizer import write_tokenizer
from smidgen.inference.llama_cache import converted
from smidgen.models.licence import warn_of_licence
from smidgen.models.load import read_config, resolve

FORMAT = 3
"""Version of the converted files; increment it when the conversion changes, to invalidate the cache."""
DTYPE, DTYPE_OF_QUANTISED = "F16", "Q8_0"
"""Target dtypes of conversions: precise enough that answers change only by rounding."""


@dataclass(frozen=True)
class LlamaModel:
    """A GGUF model for llama.cpp with its tokenizer and dimensions.

    Attributes:
        file: the GGUF file.
        adapter: a GGUF adapter to apply.
        tokenizer: the model's tokenizer, with its chat template.
        context: maximum tokens of a row, answer included.
        bytes_per_token: KV-cache bytes per token.
        head_dim: width of one key head.
        name: the model as given by the user.
        is_exact: whether weights and KV cache are float32 instead of float16.
    """

    file: Path
    adapter: Path | None
    tokenizer: Tokenizer
    context: int
    bytes_per_token: int
    head_dim: int
    name: str
    is_exact: bool = False


def llama_model(name: str, *, adapter: Path | None = None, dtype: str | None = None) -> LlamaModel:
    """Find or make the GGUF file of a model.

    Args:
        name: a `.gguf` file, or a model as `smidgen.models.load.load` takes it.
        adapter: a folder, which is added to the weights as they are converted (a `.gguf` file is imported for
            that), or a `.gguf` adapter.
        dtype: what a folder is converted to; float16, or Q8_0 if its weights are quantised, unless given.

    Raises:
        ModelError: there is no such model, or llama.cpp has none of its kind.
    """
    if name.endswith(".gguf") and (adapter is None or adapter.suffix == ".gguf"):
        return _from_file(Path(name).expanduser(), adapter)
    path = resolve(name)
    config = read_config(path)
    warn_of_licence(path, config)
    kind = dtype or (DTYPE_OF_QUANTISED if config.get("quantization") else DTYPE)
    fused = adapter if adapter is not None and adapter.suffix != ".gguf" else None
    found = converted_model(_converted(name, path, kind, fused), path, kind, name=name)
    return found if adapter is fused else replace(found, adapter=adapter)


def converted_model(file: Path, folder: Path, dtype: str, *, name: str) -> LlamaModel:
    """Describe the GGUF file of `dtype` that a folder was converted to; reading the folder is faster.

    Raises:
        ModelError: the folder's configuration or tokenizer cannot be read.
    """
    config = read_config(folder)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return LlamaModel(
        file=file,
        adapter=None,
        tokenizer=load_tokenizer(folder),
        context=int(config.get("max_position_embeddings") or 2**31),
        bytes_per_token=_bytes_per_token(
            config["num_hidden_layers"],
            config.get("num_key_value_heads") or config["num_attention_heads"],
            head_dim,
            4 if dtype == "F32" else 2,
        ),
        head_dim=head_dim,
        name=name,
        is_exact=dtype == "F32",
    )


def _converted(name: str, path: Path, dtype: str, adapter: Path | None) -> Path:
    """Return the GGUF file of a folder, converting it if it is not in the cache."""
    parts = [FORMAT, content_hash(path), dtype, content_hash(adapter) if adapter else None]
    file = cache_dir() / "gguf" / f"{sha256_json(parts)[:32]}.gguf"
    return converted(file, lambda: write_gguf(name, file, dtype=dtype, adapter=adapter))


def _from_file(file: Path, adapter: Path | None) -> LlamaModel:
    metadata = read_metadata(file)
    family = metadata["general.architecture"]

    def number(key: str, default: int | None = None) -> int:
        value = metadata.get(f"{family}.{key}", default)
        if value is None:
            raise ModelError(f"{file} has no {family}.{key}; expected a GGUF file of a language model")
        return int(max(value) if isinstance(value, list) else value)

    heads = number("attention.head_count")
    head_dim = number("attention.key_length", number("embedding_length") // heads)
    kv_heads = number("attention.head_count_kv", heads)
    return LlamaModel(
        file=file,
        adapter=adapter,
        tokenizer=_tokenizer_of(file, metadata),
        context=number("context_length"),
        bytes_per_token=_bytes_per_token(number("block_count"), kv_heads, head_dim, 2),
        head_dim=head_dim,
        name=str(file),
    )


def _bytes_per_token(layers: int, kv_heads: int, head_dim: int, number_bytes: int) -> int:
    return 2 * layers * kv_heads * head_dim * number_bytes


def _tokenizer_of(file: Path, metadata: dict[str, Any]) -> Tokenizer:
    """Return the tokenizer next to a GGUF file, or else the embedded one, written to the cache folder.

    Raises:
        ModelError: the tokenizer next to it has other tokens, or the embedded one is of an unsupported kind.
    """
    tokens, template = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.chat_template")
    if (file.parent / "tokenizer.json").is_file():
        beside = load_tokenizer(file.parent)
        if tokens and any(i >= len(tokens) or tokens[i] != text for text, i in beside.vocabulary.items()):
            raise ModelError(
                f"the tokenizer.json next to {file} has other tokens than the file; move the file to a "
                "separate folder, or put its own tokenizer there"
            )
        if beside.has_template or not template:
            return beside
    content = {name: value for name, value in metadata.items() if name.startswith("tokenizer.")}
    folder = cache_dir() / "gguf" / f"tokenizer-{sha256_json([TOKENIZER_FORMAT, content])[:32]}"
    if not folder.exists():
        with atomic_folder(folder) as partial:
            write_tokenizer(partial, file, content)
    return load_tokenizer(folder)
