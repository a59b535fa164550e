from pathlib import Path

from smidgen.data.templates import load_tokenizer
from smidgen.export.gguf.modelfile import go_template, modelfile
from smidgen.models.load import resolve


def test_the_bundled_model_gets_its_template_and_its_end(tmp_path: Path):
    text = modelfile("nano.gguf", resolve("smidgen:nano"), "apache-2.0")
    assert text.startswith('FROM ./nano.gguf\nTEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n')
    assert 'PARAMETER stop "<|im_end|>"\nLICENSE """apache-2.0"""\n' in text


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
