"""Every way to split text is llama.cpp's, and is written and read under the same name."""

from pathlib import Path

import pytest
from tests.tools.gguf_files import TEXTS, Words, byte_level, sentencepiece, write_file

from smidgen.data.templates import load_tokenizer
from smidgen.gguf import import_gguf
from smidgen.gguf.pre_tokenizers import PRE_TOKENIZERS

pytest.importorskip("xllamacpp")
from smidgen.export.gguf.llama_cpp import LlamaCpp
from smidgen.export.gguf.texts import varied_texts
from smidgen.export.gguf.write_tokenizer import read_vocabulary

ONE_OF_EACH = {way: name for name, way in reversed(PRE_TOKENIZERS.items())}


@pytest.mark.slow
@pytest.mark.parametrize("pre", [None, *ONE_OF_EACH.values()])
def test_text_is_split_as_llama_cpp_splits_it(pre: str | None, tmp_path: Path):
    compare(byte_level(pre), tmp_path)


def test_sentencepiece_is_merged_as_llama_cpp_merges_it(tmp_path: Path):
    compare(sentencepiece(), tmp_path)


def compare(words: Words, tmp_path: Path) -> None:
    file = write_file(tmp_path / "model.gguf", words=words).path
    import_gguf(file, tmp_path / "out")
    tokenizer, llama = load_tokenizer(tmp_path / "out"), LlamaCpp(file)
    for text in (*TEXTS, *varied_texts(10), "<|im_start|>user\nHi<|im_end|>\n", ""):
        assert tokenizer.encode(text) == llama.tokenize(text), text
    assert llama.tokenize("a", whole=True) == [*tokenizer.opening, *tokenizer.encode("a")]


@pytest.mark.parametrize("pre", ONE_OF_EACH.values())
def test_a_way_that_was_read_can_be_written(pre: str, tmp_path: Path):
    file = write_file(tmp_path / "model.gguf", words=byte_level(pre)).path
    import_gguf(file, tmp_path / "out")
    written = read_vocabulary(tmp_path / "out", {"vocab_size": 904}).pre
    assert PRE_TOKENIZERS[written][:2] == PRE_TOKENIZERS[pre][:2]
