import pytest

from smidgen.models.parts import part_of


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.feed_forward.w1.weight", "mlp"),
        ("model.norm.weight", "norms"),
        ("lm_head.weight", "head"),
        ("model.rotary.inv_freq", "other"),
    ],
)
def test_names_tell_the_part(name: str, part: str):
    assert part_of(name) == part
