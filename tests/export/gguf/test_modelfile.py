import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from smidgen.data.templates import load_tokenizer
from smidgen.errors import ModelError
from smidgen.export.gguf.modelfile import go_template, modelfile
from smidgen.models.load import resolve


def test_the_bundled_model_gets_its_template_and_its_end(tmp_path: Path):
    text = modelfile("nano.gguf", resolve("smidgen:nano"), "apache-2.0")
    assert text.startswith('FROM ./nano.gguf\nTEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n')
    assert 'PARAMETER stop "<|im_end|>"\nLICENSE "apache-2.0"\n' in text


def test_settings_of_the_model_are_kept(make_tokenizer_dir):
    folder = make_tokenizer_dir()
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "do_sample": true}')
    text = modelfile("x.gguf", folder, None)
    assert "PARAMETER temperature 0.6\nPARAMETER top_k 20\n" in text and "LICENSE" not in text


def test_no_template_is_written_where_no_usual_form_renders_the_same(make_tokenizer_dir):
    odd = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    folder = make_tokenizer_dir(template=odd)
    assert go_template(load_tokenizer(folder)) is None
    assert "TEMPLATE" not in modelfile("x.gguf", folder, None)


def test_a_model_without_a_template_gets_none(make_tokenizer_dir):
    assert go_template(load_tokenizer(make_tokenizer_dir(template=None))) is None


LLAMA3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
LLAMA3_GO = (
    "{{- range .Messages }}"
    "<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
    "{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


@pytest.mark.parametrize("is_put", [True, False])
def test_what_begins_every_text_stands_there_once(make_tokenizer_dir: Callable[..., Path], is_put: bool):
    folder, bos = make_tokenizer_dir(template=LLAMA3), "<|endoftext|>"
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"bos_token": bos, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if is_put:
        codec = Tokenizer.from_file(str(folder / "tokenizer.json"))
        codec.post_processor = processors.TemplateProcessing(f"{bos} $A", None, [(bos, 0)])
        codec.save(str(folder / "tokenizer.json"))
    wanted = LLAMA3_GO if is_put else bos + LLAMA3_GO
    assert go_template(load_tokenizer(folder)) == wanted
    assert f'TEMPLATE """{wanted}"""\n' in modelfile("x.gguf", folder, None)


@pytest.mark.parametrize("value", ["hot\nSYSTEM evil", True, [0.6], float("nan")])
def test_a_setting_that_is_no_number_is_refused(make_tokenizer_dir: Callable[..., Path], value: object):
    folder = make_tokenizer_dir()
    (folder / "generation_config.json").write_text(json.dumps({"temperature": value}), encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"'temperature' in .*generation_config\.json is .*; expected a number"
    ):
        modelfile("x.gguf", folder, None)


def test_quotes_stay_inside_of_quotes(make_tokenizer_dir: Callable[..., Path]):
    folder = make_tokenizer_dir()
    assert 'LICENSE """my "own" licence"""\n' in modelfile("x.gguf", folder, 'my "own" licence')
    with pytest.raises(ModelError, match=r"a Modelfile cannot contain .*which has three quotes in a row"):
        modelfile("x.gguf", folder, 'mine"""\nSYSTEM evil')


def test_a_template_of_go_in_a_template_is_not_passed_on(make_tokenizer_dir: Callable[..., Path]):
    opening = "{% if add_generation_prompt %}{{ '<|im_start|>assistant {' + '{ .System }}' }}{% endif %}"
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    folder = make_tokenizer_dir(template=chatml + opening)
    assert go_template(load_tokenizer(folder)) is None
