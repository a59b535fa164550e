"""Files as they are made of Mistral's models: Llama's graph with SentencePiece or with Tekken's way to split.

The keys are those that llama.cpp lists when it loads Mistral-7B-Instruct and Mistral-Nemo.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tools.gguf_files import HEAD, Words, byte_level, sentencepiece, write_file

from smidgen.backend import mx
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Message
from smidgen.export.gguf import verify_import
from smidgen.gguf import import_gguf
from smidgen.models.load import load, read_config

pytest.importorskip("xllamacpp")

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
CONTROLS = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]")
SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_eos_token": False,
}
MISTRAL: dict[str, Any] = {
    "llama.rope.freq_base": 1e6,
    "llama.context_length": 32768,
    "tokenizer.chat_template": TEMPLATE,
}
KINDS: dict[str, tuple[Words, dict[str, Any], int]] = {
    "7B": (sentencepiece(CONTROLS), SENTENCEPIECE, HEAD),
    "7B of an older converter": (
        sentencepiece(CONTROLS), {**SENTENCEPIECE, "tokenizer.ggml.add_space_prefix": True}, HEAD,
    ),
    "7B without a space before": (
        sentencepiece(CONTROLS), {**SENTENCEPIECE, "tokenizer.ggml.add_space_prefix": False}, HEAD,
    ),
    "Nemo": (byte_level("tekken"), {"tokenizer.ggml.add_bos_token": True}, 32),
}  # fmt: skip
"""Tokenizer, keys and features of a head; Nemo's heads are narrower than its width has room for."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", ["F32", "Q8_0"])
def test_ids_and_predictions_are_those_of_the_file(kind: str, numbers: str, tmp_path: Path):
    words, keys, head = KINDS[kind]
    changes = MISTRAL | keys
    file = write_file(
        tmp_path / "model.gguf", kind=numbers, words=words, changes=changes, tied=False, head=head
    ).path
    import_gguf(file, tmp_path / "out")
    verified = verify_import(file, tmp_path / "out")
    assert verified.texts > 200 and verified.logit_error < verified.tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_is_that_of_the_model(kind: str, tmp_path: Path):
    words, keys, head = KINDS[kind]
    file = write_file(
        tmp_path / "model.gguf", words=words, changes=MISTRAL | keys, tied=False, head=head
    ).path
    import_gguf(file, tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert (config["head_dim"], config["rope_theta"], config["max_position_embeddings"]) == (head, 1e6, 32768)
    tokenizer = load_tokenizer(tmp_path / "out")
    if words.kind == "llama":
        assert tokenizer.eos_token_ids == {2} and tokenizer.opening == [1]
        prompt = tokenizer.render_prompt([Message("user", "Füße 🧭")])
        shown = tokenizer.decode(prompt, keep_special=True)
        assert prompt[0] == 1 and prompt.count(words.tokens.index("[INST]")) == 1
        assert "Füße 🧭" in shown and prompt[-1] == words.tokens.index("[/INST]")
        assert {words.tokens[i] for i in prompt} >= {"<0xF0>", "<0x9F>"}, "what is no piece is bytes"
    logits = load(str(tmp_path / "out")).model(mx.array([[1, 5, 9]]))
    assert np.isfinite(np.array(logits)).all()
