import json
from pathlib import Path

import pytest
from gguf import GGUFWriter, TokenType

from smidgen.data.token_ids import UnknownTokenId
from smidgen.errors import ModelError
from smidgen.export.gguf.write_tokenizer import add_vocabulary, read_vocabulary
from smidgen.models.load import resolve

CONFIG = {"vocab_size": 310}


def edited(folder: Path, change) -> Path:
    """The tokenizer of a folder, its tokenizer.json changed in place."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_tokens_types_and_ends_are_those_of_the_tokenizer():
    folder = resolve("smidgen:nano")
    vocabulary = read_vocabulary(folder, {"vocab_size": 3080})
    assert vocabulary.pre == "qwen2" and vocabulary.bos is None and not vocabulary.add_bos
    assert vocabulary.tokens[3067:3074] == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "[PAD3072]", "[PAD3073]",
    ]  # fmt: skip
    assert vocabulary.types[3069:3073] == [
        TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.USER_DEFINED, TokenType.UNUSED,
    ]  # fmt: skip
    assert vocabulary.eos == (3069, 3067) and vocabulary.pad == 3067
    assert vocabulary.chat_template == (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert all(merge.count(" ") == 1 for merge in vocabulary.merges)


def test_a_token_that_opens_every_text_is_found(make_tokenizer_dir):
    def begin(content):
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
            },
        }

    vocabulary = read_vocabulary(edited(make_tokenizer_dir(), begin), CONFIG)
    assert vocabulary.bos == 0 and vocabulary.add_bos


PATTERNS = {
    "llama-bpe": (r"\p{N}{1,3}", True),
    "smaug-bpe": (r"\p{N}{1,3}", False),
    "qwen2": (r"\p{N}", False),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_pre_tokenizer_is_named_as_llama_cpp_names_it(name: str, make_tokenizer_dir):
    digits, whole_words = PATTERNS[name]

    def change(content):
        split = content["pre_tokenizer"]["pretokenizers"][0]
        split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"|\p{N}|", f"|{digits}|")
        content["model"]["ignore_merges"] = whole_words

    assert read_vocabulary(edited(make_tokenizer_dir(), change), CONFIG).pre == name


def no_split(content):
    content["pre_tokenizer"] = {"type": "Whitespace"}


def lowercase(content):
    content["normalizer"] = {"type": "Lowercase"}


def byte_fallback(content):
    content["model"]["byte_fallback"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_split, "splits text by .*Whitespace.*, which matches no supported pre-tokenizer of llama"),
        (lowercase, "normalises text with Lowercase, which llama"),
        (byte_fallback, r"is BPE with byte fallback \(SentencePiece\); only byte-level BPE"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(change, message: str, make_tokenizer_dir):
    with pytest.raises(ModelError, match=message):
        read_vocabulary(edited(make_tokenizer_dir(), change), CONFIG)


def test_a_tokenizer_that_is_missing_or_too_large_is_refused(make_tokenizer_dir):
    folder = make_tokenizer_dir()
    with pytest.raises(ModelError, match="has 296 tokens, but the model has 100"):
        read_vocabulary(folder, {"vocab_size": 100})
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="there is no tokenizer in"):
        read_vocabulary(folder, CONFIG)


def test_more_end_tokens_than_a_file_can_name_are_refused(make_tokenizer_dir, tmp_path: Path):
    folder = make_tokenizer_dir()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0, 10, 11, 12]}))
    with pytest.raises(ModelError, match="can name two end tokens besides eos, but this model has"):
        add_vocabulary(GGUFWriter(tmp_path / "x.gguf", "qwen3"), read_vocabulary(folder, CONFIG))


@pytest.mark.parametrize("kind", ["bos", "pad"])
@pytest.mark.parametrize("unknown", [300, 10**9, -2])
def test_special_tokens_beyond_the_vocabulary_are_left_out(make_tokenizer_dir, kind, unknown):
    folder = make_tokenizer_dir()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop(f"{kind}_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.warns(
        UnknownTokenId, match=f"has the {kind} token {unknown}, which is not in the vocabulary"
    ):
        vocabulary = read_vocabulary(folder, CONFIG | {f"{kind}_token_id": unknown})
    assert getattr(vocabulary, kind) is None


def test_no_padding_as_older_checkpoints_say_it_is_none(make_tokenizer_dir):
    folder = make_tokenizer_dir()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_vocabulary(folder, CONFIG | {"pad_token_id": -1}).pad is None


def test_end_tokens_beyond_the_vocabulary_are_left_out_of_the_file(make_tokenizer_dir, tmp_path: Path):
    folder = make_tokenizer_dir()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 151645]}))
    with pytest.warns(UnknownTokenId, match="has the end token 151645, which"):
        vocabulary = read_vocabulary(folder, CONFIG)
    assert set(vocabulary.eos) == {0, 2}
    add_vocabulary(GGUFWriter(tmp_path / "x.gguf", "qwen3"), vocabulary)


def test_a_tokenizer_without_any_end_is_refused(make_tokenizer_dir):
    def no_special(content):
        for token in content["added_tokens"]:
            token["special"] = False

    folder = edited(make_tokenizer_dir(template=None, eos=None), no_special)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match="has no end token"):
        read_vocabulary(folder, CONFIG)
