"""The GGUF file of a model and its tokenizer.

A model folder is converted once; the file is kept in the cache folder under a hash of the weights, so a
changed folder is always converted again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Codec

from smidgen.cache import cache_dir
from smidgen.data.templates import KNOWN_ENDS, Tokenizer, load_tokenizer
from smidgen.data.token_ids import known_ids
from smidgen.errors import ConfigError, ModelError
from smidgen.export.gguf import write_gguf
from smidgen.export.gguf.tokenizer import PRE_TOKENIZERS
from smidgen.files import atomic_folder, content_hash, sha256_json, write_json
from smidgen.inference.llama_cache import converted
from smidgen.models.licence import warn_of_licence
from smidgen.models.load import read_config, resolve

FORMAT = 3
"""Version of the converted files; increment it when the conversion changes, to invalidate the cache."""
DTYPE, DTYPE_OF_QUANTISED = "F16", "Q8_0"
"""Target dtypes of conversions: precise enough that answers change only by rounding."""
CONTROL, USER_DEFINED = 3, 4  # token types, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md


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
        adapter: an adapter folder, merged into the weights during conversion, or a `.gguf` adapter.
        dtype: target dtype of a conversion; default: F16, or Q8_0 if the weights are quantised.

    Raises:
        ConfigError: an adapter folder was given for a GGUF file.
        ModelError: there is no such model, or llama.cpp does not support its architecture.
    """
    if name.endswith(".gguf"):
        if adapter is not None and adapter.suffix != ".gguf":
            raise ConfigError(
                f"the adapter {adapter} is a folder and {name} a GGUF file; "
                "give a GGUF adapter, or the model folder that the adapter was trained on"
            )
        return _from_file(Path(name).expanduser(), adapter)
    path = resolve(name)
    config = read_config(path)
    warn_of_licence(path, config)
    kind = dtype or (DTYPE_OF_QUANTISED if config.get("quantization") else DTYPE)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    fused = adapter if adapter is not None and adapter.suffix != ".gguf" else None
    return LlamaModel(
        file=_converted(name, path, kind, fused),
        adapter=None if adapter is fused else adapter,
        tokenizer=load_tokenizer(path),
        context=int(config.get("max_position_embeddings") or 2**31),
        bytes_per_token=_bytes_per_token(
            config["num_hidden_layers"],
            config.get("num_key_value_heads") or config["num_attention_heads"],
            head_dim,
            4 if kind == "F32" else 2,
        ),
        head_dim=head_dim,
        name=name,
        is_exact=kind == "F32",
    )


def _converted(name: str, path: Path, dtype: str, adapter: Path | None) -> Path:
    """Return the GGUF file of a folder, converting it if it is not in the cache."""
    parts = [FORMAT, content_hash(path), dtype, content_hash(adapter) if adapter else None]
    file = cache_dir() / "gguf" / f"{sha256_json(parts)[:32]}.gguf"
    return converted(file, lambda: write_gguf(name, file, dtype=dtype, adapter=adapter))


def _from_file(file: Path, adapter: Path | None) -> LlamaModel:
    metadata = _read_metadata(file)
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


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        fields = GGUFReader(file).fields
        return {"general.architecture": ""} | {name: field.contents() for name, field in fields.items()}
    except FileNotFoundError:
        raise ModelError(f"there is no file {file}; check the path") from None
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"{file} is not a complete GGUF file ({error}); convert or download it again"
        ) from None


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
    folder = cache_dir() / "gguf" / f"tokenizer-{sha256_json([FORMAT, content])[:32]}"
    if not folder.exists():
        codec = _codec(file, content)
        with atomic_folder(folder) as partial:
            codec.save(str(partial / "tokenizer.json"))
            _write_settings(partial, file, content)
    return load_tokenizer(folder)


def _codec(file: Path, content: dict[str, Any]) -> Codec:
    """Return the byte-level BPE tokenizer described by a file's metadata."""
    kind, pre = content.get("tokenizer.ggml.model"), content.get("tokenizer.ggml.pre")
    known = {
        name: (steps[1], whole) for (steps, whole), name in PRE_TOKENIZERS.items() if steps[0] == "split"
    }
    if "tokenizer.ggml.merges" not in content and kind == "gpt2":
        raise ModelError(f"{file} has no tokenizer merges; it is damaged, so convert or download it again")
    if kind != "gpt2" or pre not in known:
        raise ModelError(
            f"the tokenizer in {file} is of the kind {kind} {pre}; expected gpt2 with one of "
            f"{', '.join(known)}, or the model's tokenizer.json and tokenizer_config.json next to the file"
        )
    pattern, ignore_merges = known[pre]
    tokens, types = content["tokenizer.ggml.tokens"], content["tokenizer.ggml.token_type"]
    added = [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    codec = Codec(
        models.BPE(
            vocab={text: i for i, text in enumerate(tokens)},
            merges=[tuple(pair.split(" ")) for pair in content["tokenizer.ggml.merges"]],
            ignore_merges=ignore_merges,
        )
    )
    codec.normalizer = normalizers.NFC() if pre.startswith("qwen") else None  # as Qwen's tokenizer.json
    codec.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    codec.decoder = decoders.ByteLevel()
    if content.get("tokenizer.ggml.add_bos_token") and (bos := _special(file, content, "bos")) is not None:
        codec.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    codec.add_tokens([AddedToken(tokens[i], special=types[i] == CONTROL, normalized=False) for i in added])
    return codec


def _special(file: Path, content: dict[str, Any], kind: str) -> int | None:
    """Return the id of a special token from a file's metadata, if it is a valid token id."""
    value = content.get(f"tokenizer.ggml.{kind}_token_id")
    known = range(len(content["tokenizer.ggml.tokens"])).__contains__
    return None if value is None else next(iter(known_ids([value], known, f"{kind} token", file)), None)


def _write_settings(folder: Path, file: Path, content: dict[str, Any]) -> None:
    """Write the special tokens, end tokens and chat template next to `tokenizer.json`."""
    tokens = content["tokenizer.ggml.tokens"]
    ends = {i for kind in ("eos", "eot", "eom") if (i := _special(file, content, kind)) is not None}
    ends |= {i for i, text in enumerate(tokens) if text in KNOWN_ENDS}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (token := _special(file, content, key)) is not None:
            settings[f"{kind}_token"] = tokens[token]
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", {"eos_token_id": sorted(ends)})
    if template := content.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
