import pytest
from transformers import AutoConfig

from smidgen.errors import ModelError
from smidgen.models.architectures import ARCHITECTURES, HARMLESS, HARMLESS_AT, build_arguments, build_graph

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 320,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
}
OWN: dict[str, dict] = {"llama4_text": {"intermediate_size_mlp": 64, "moe_layers": []}}
"""What an architecture must be told besides the shape: llama4_text is a mixture of experts otherwise."""
QWEN3 = {**SHAPE, "model_type": "qwen3", "head_dim": 8, "rope_theta": 1e6, "tie_word_embeddings": True}


def test_every_architecture_takes_a_plain_config():
    for kind in ARCHITECTURES:
        config = {**SHAPE, **OWN.get(kind, {}), "model_type": kind}
        assert build_arguments(config, "config.json").model_type == kind


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_key_that_transformers_writes_is_known(kind: str):
    config = AutoConfig.for_model(kind, **SHAPE, **OWN.get(kind, {})).to_dict()
    arguments = build_arguments(config, "config.json")
    assert arguments.hidden_size == 32


def test_harmless_keys_and_nulls_change_nothing():
    noise = {name: "anything" for name in HARMLESS}
    noise |= {name: allowed[0] for name, allowed in HARMLESS_AT.items()}
    noise |= {"sliding_window": None, "layer_types": ["full_attention"] * 2, "some_new_key": None}
    assert build_arguments({**QWEN3, **noise}, "x") == build_arguments(QWEN3, "x")


@pytest.mark.parametrize("name", sorted(HARMLESS_AT))
def test_a_key_that_is_harmless_at_one_value_is_refused_at_another(name: str):
    with pytest.raises(ModelError, match=rf"x is not supported as qwen3: '{name}' is 'odd', only .* is supp"):
        build_arguments({**QWEN3, name: "odd"}, "x")


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ModelError, match=r"unknown key 'rope_thetta' = 5\. Did you mean 'rope_theta'\?"):
        build_arguments({**QWEN3, "rope_thetta": 5}, "x")


def test_all_faults_are_told_at_once():
    config = {**QWEN3, "hidden_act": "gelu", "experts": 8}
    del config["vocab_size"]
    with pytest.raises(ModelError, match=r"'hidden_act' is 'gelu'.*'experts' = 8.*'vocab_size' is missing"):
        build_arguments(config, "x")


def test_an_unknown_architecture_is_refused_with_the_nearest_known_one():
    with pytest.raises(
        ModelError,
        match=r"model_type 'qwen33', expected one of llama, llama4_text, mistral, qwen2, qwen3\. Did",
    ):
        build_arguments({**QWEN3, "model_type": "qwen33"}, "x")
    with pytest.raises(ModelError, match=r"x has model_type None"):
        build_arguments({}, "x")


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_rope_parameters_of_transformers_5_reach_the_model(kind: str):
    config = {**SHAPE, "model_type": kind, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    arguments = build_arguments(config, "x")
    assert arguments.rope_theta == 5e5
    assert arguments.rope_scaling is None
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    arguments = build_arguments({**config, "rope_parameters": scaled}, "x")
    assert arguments.rope_scaling == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_silence_means_what_transformers_means_by_it(kind: str):
    arguments = build_arguments({**SHAPE, "model_type": kind}, "x")
    assert arguments.rope_theta == 10_000
    assert not arguments.tie_word_embeddings


def test_windows_are_refused_unless_they_are_off():
    build_arguments({**QWEN3, "sliding_window": 4096, "use_sliding_window": False}, "x")
    with pytest.raises(ModelError, match=r"'sliding_window' is 256, only full attention is supported"):
        build_arguments({**QWEN3, "sliding_window": 256}, "x")
    with pytest.raises(ModelError, match=r"'layer_types' has \['sliding_attention'\], only full_attention"):
        build_arguments({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, "x")
    with pytest.raises(ModelError, match=r"'layer_types' has .*, only full_attention is supported"):
        build_arguments({**QWEN3, "layer_types": [["full_attention"]]}, "x")


def test_a_window_as_long_as_the_context_is_none():
    config = {**SHAPE, "model_type": "mistral"}
    assert build_arguments({**config, "sliding_window": 512}, "x").hidden_size == 32
    with pytest.raises(ModelError, match=r"'sliding_window' is 511, only full attention is supported"):
        build_arguments({**config, "sliding_window": 511}, "x")
    long = {**config, "max_position_embeddings": 32_768}
    build_arguments({**long, "sliding_window": None}, "x")
    with pytest.raises(ModelError, match=r"'sliding_window' is 4096, only full"):
        build_arguments(long, "x")  # what transformers takes where the file says nothing


def test_a_head_dim_that_qwen2_cannot_have_is_refused():
    config = {**SHAPE, "model_type": "qwen2"}
    build_arguments({**config, "head_dim": 8}, "x")
    with pytest.raises(ModelError, match=r"'head_dim' is 16, only hidden_size / num_attention_heads = 8 is"):
        build_arguments({**config, "head_dim": 16}, "x")


def test_values_that_make_no_graph_are_refused():
    with pytest.raises(ModelError, match=r"config.json has values that do not define a qwen3 model: "):
        build_graph({**QWEN3, "hidden_size": "wide"}, "config.json")


ORIGINAL = {"factor": 2.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("rope", "fault"),
    [
        ({"rope_type": "yarn", **ORIGINAL, "attention_factor": 3.0}, "has 'attention_factor' = 3.0"),
        ({"rope_type": "yarn", "factor": 2.0}, "lacks 'original_max_position_embeddings'"),
        ({"rope_type": "yarn", **ORIGINAL, "truncate": False}, "has 'truncate' = False"),
        ({"rope_type": "dynamic", "factor": 2.0}, "is of the kind 'dynamic', supported are default, linear"),
        ({"rope_type": "default", "type": "linear", "factor": 2.0}, "is of the kind 'default' and 'linear'"),
        ({"full_attention": {"rope_theta": 1e6}}, "has 'full_attention' = "),
        ({"rope_type": "default", "bogus": 1}, "has 'bogus' = 1"),
        ({"rope_type": ["linear"]}, "is of the kind .*linear.*, supported are default"),
        ({"rope_type": "default", "rope_theta": 5.0}, r"'rope_theta' is 1000000\.0, and 5\.0 in"),
        ([1], r"'rope_parameters' is \[1\], expected a table"),
    ],
)
def test_rotary_settings_are_used_or_refused(rope: object, fault: str):
    with pytest.raises(ModelError, match=fault):
        build_arguments({**QWEN3, "rope_parameters": rope}, "config.json")


def test_rotary_settings_at_null_are_absent():
    config = {
        **QWEN3,
        "rope_theta": None,
        "rope_parameters": {"rope_theta": 5e5, "type": "linear", "factor": 2},
    }
    arguments = build_arguments(config, "x")
    assert arguments.rope_theta == 5e5
    assert arguments.rope_scaling == {"rope_type": "linear", "factor": 2}
    full = {"rope_type": "yarn", **ORIGINAL, "beta_fast": 32.0, "truncate": True, "attention_factor": None}
    assert build_arguments({**QWEN3, "rope_scaling": full}, "x").rope_scaling["beta_fast"] == 32.0


@pytest.mark.parametrize("change", [{"num_attention_heads": 0}, {"layer_types": 5}, {"hidden_size": None}])
def test_odd_shapes_are_model_errors(change: dict):
    with pytest.raises(ModelError):
        build_graph({**SHAPE, "model_type": "qwen2", "head_dim": 8, **change}, "config.json")
