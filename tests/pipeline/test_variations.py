import pytest

from smidgen.config import FinetuneConfig, parse_recipe
from smidgen.errors import ConfigError
from smidgen.pipeline.variations import Axis, axes_of, trials_of, with_settings

TABLE = {"name": "judge", "task": "judge", "train": {"batch_size": 4, "lora": {"rank": 4}}}


def test_short_names_are_those_of_training_and_adapter():
    axes = axes_of(["rank=8,16", "learning_rate=1e-4, 5e-4", "evaluate.max_tokens=64"], TABLE)
    assert axes == [
        Axis("train.lora.rank", (8, 16)),
        Axis("train.learning_rate", (1e-4, 5e-4)),
        Axis("evaluate.max_tokens", (64,)),
    ]


def test_values_are_toml_or_strings():
    (axis,) = axes_of(["schedule=cosine,linear"], TABLE)
    assert axis.values == ("cosine", "linear")
    (axis,) = axes_of(['target_modules=["q_proj"],["q_proj","v_proj"]'], TABLE)
    assert axis.values == (["q_proj"], ["q_proj", "v_proj"])
    (axis,) = axes_of(["packing=true,maybe"], TABLE)
    assert axis.values == (True, "maybe")


def test_every_combination_is_one_valid_recipe():
    axes = axes_of(["rank=8,16", "num_layers=1,2", "batch_size=2"], TABLE)
    trials = trials_of(TABLE, axes, source="judge.toml")
    assert [trial.name for trial in trials] == [
        f"rank-{rank}-num_layers-{layers}-batch_size-2" for rank in (8, 16) for layers in (1, 2)
    ]
    for trial in trials:
        assert parse_recipe(trial.table, source="test") == trial.recipe
        assert isinstance(trial.recipe.train, FinetuneConfig) and trial.recipe.train.lora is not None
        assert trial.recipe.train.lora.rank == trial.settings["train.lora.rank"]
        assert trial.recipe.name == trial.name and trial.recipe.train.batch_size == 2
    assert TABLE["train"] == {"batch_size": 4, "lora": {"rank": 4}}, "the recipe itself is left alone"


def test_names_are_distinct():
    trials = trials_of(TABLE, [Axis("description", ("a b", "a-b"))], source="judge.toml")
    assert [trial.name for trial in trials] == ["description-a-b", "description-a-b-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"nothing is varied; give keys with their values, such as --set rank=8,16"),
        (["rank"], r"--set was given 'rank'; expected a key and its values, such as --set rank=8,16"),
        (["rank="], r"--set was given 'rank='; expected"),
        (["rnk=8"], r"'rnk', which is no key of \[train\] or \[train.lora\]\. Did you mean 'rank'\?"),
        (["rank=8", "train.lora.rank=4"], r"--set was given 'train.lora.rank' twice; list all of its values"),
    ],
)
def test_what_is_no_axis_is_refused(given: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        axes_of(given, TABLE)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (Axis("train.lora.rank", (8, 0)), r"judge.toml, varied: 'train.lora.rank' is 0: input should be"),
        (Axis("train.lora.rnk", (8,)), r"unknown key 'train.lora.rnk'\. Did you mean 'rank'\?"),
    ],
)
def test_values_are_checked_like_those_of_a_recipe(axis: Axis, message: str):
    with pytest.raises(ConfigError, match=message):
        trials_of(TABLE, [axis], source="judge.toml")


def test_a_key_below_a_value_is_refused():
    with pytest.raises(
        ConfigError, match=r"'train.batch_size.x', but 'batch_size' of the recipe is not a tab"
    ):
        with_settings(TABLE, {"train.batch_size.x": 1})
