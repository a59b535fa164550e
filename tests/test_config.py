from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from smidgen import config
from smidgen.cli.reference import tables
from smidgen.config import (
    ModelConfig,
    OneOf,
    PretrainConfig,
    PretrainRecipe,
    Recipe,
    Section,
    SftConfig,
    TaskConfig,
    TrainConfig,
    methods,
    parse_recipe,
    parse_table,
    read_recipe,
    resolved_toml,
)
from smidgen.errors import ConfigError

SECTIONS = [
    s for s in vars(config).values() if isinstance(s, type) and issubclass(s, Section) and s is not Section
]
RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
PRETRAIN = {
    "model": {"architecture": {"hidden_size": 64}},
    "train": {"method": "pretrain", "total_tokens": 9},
}
FULL = {
    "name": "full",
    "task": "judge",
    "model": {"base": "owner/repo:folder", "thinking": True},
    "data": {"train": "rows.jsonl", "train_splits": ["a", "b"], "train_limit": 10},
    "train": {"lora": {"rank": 4, "target_modules": ["q_proj"]}, "betas": [0.8, 0.9], "epochs": 2},
    "evaluate": {"temperature": 0.5},
    "quantize": {"bits": 8},
    "export": {"formats": ["peft", "gguf"]},
    "track": {"to": ["tensorboard"]},
}


def wrong(table: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        pretrains = (
            "architecture" in table.get("model", {}) if isinstance(table.get("model"), dict) else False
        )
        base = {"name": "a"} if pretrains else {"name": "a", "task": "judge"}
        parse_recipe(base | table, source="recipe.toml")


@pytest.mark.parametrize("section", SECTIONS)
def test_every_table_and_field_is_documented(section: type[Section]):
    assert section.__doc__
    undocumented = [
        name for name, field in section.model_fields.items() if not (field.description or "").endswith(".")
    ]
    assert not undocumented


@pytest.mark.parametrize(
    "table",
    [{"name": "a", "task": "judge"}, FULL, {"name": "a"} | PRETRAIN],
    ids=["least", "full", "pretraining"],
)
def test_a_resolved_recipe_is_the_same_recipe(table: dict[str, Any], tmp_path: Path):
    recipe = parse_recipe(table, source="recipe.toml")
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "config.toml").write_text(resolved_toml(recipe), encoding=encoding)
        assert read_recipe(tmp_path / "config.toml") == recipe


def test_a_resolved_recipe_names_every_default():
    for root, table in ((Recipe, FULL), (PretrainRecipe, {"name": "a", "track": FULL["track"]} | PRETRAIN)):
        text = resolved_toml(parse_recipe(table, source="recipe.toml"))
        for _, section, _ in tables(root):
            missing = [name for name in section.model_fields if name not in text]
            fields = [section.model_fields[name] for name in missing]  # absent unless given
            defaults = [field.get_default(call_default_factory=True) for field in fields]
            assert all(default in (None, {}, ()) for default in defaults if section is not TaskConfig)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_project_loads_and_opens_with_its_command(path: Path):
    assert read_recipe(path).name == path.stem
    assert f"recipes/{path.name}" in path.read_text(encoding="utf-8")[:500]


def test_a_recipe_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        parse_recipe({"name": "a", "task": "judge"}, source="recipe.toml").name = "b"  # pyright: ignore


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"tsak": "judge"}, r"unknown key 'tsak'\. Did you mean 'task'\? Known: name, description"),
        (
            {"train": {"lerning_rate": 1}},
            r"unknown key 'train\.lerning_rate'\. Did you mean 'learning_rate'\?",
        ),
        ({"train": {"lora": {"rnk": 1}}}, r"unknown key 'train\.lora\.rnk'\. Did you mean 'rank'\?"),
        ({"quantize": {"zzz": 1}}, r"unknown key 'quantize\.zzz'\. Known: bits, group_size"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(table: dict[str, Any], match: str):
    wrong(table, match)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"train": 3}, r"'train' is 3: input should be a table"),
        ({"train": {"batch_size": 8.5}}, r"'train\.batch_size' is 8\.5: input should be a valid integer"),
        ({"train": {"batch_size": "8"}}, r"'train\.batch_size' is '8': input should be a valid integer"),
        ({"train": {"batch_size": True}}, r"'train\.batch_size' is True: input should be a valid integer"),
        ({"train": {"epochs": "1e-3"}}, r"'train\.epochs' is '1e-3': input should be a valid number"),
        ({"train": {"lora": True}}, r"'train\.lora' is True: input should be a table"),
        ({"train": {"betas": [0.9]}}, r"'train\.betas\.1' is missing"),
        ({"data": {"train_splits": "train"}}, r"'data\.train_splits' is 'train'"),
        ({"model": {"thinking": "yes"}}, r"'model\.thinking' is 'yes': input should be a valid boolean"),
    ],
)
def test_a_wrong_type_is_refused(table: dict[str, Any], match: str):
    wrong(table, match)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        (
            {"task": None},
            r"there is neither 'task' nor \[\[tasks\]\]; expected exactly one of them, such as task",
        ),
        ({"tasks": [{"name": "a", "task": "judge"}]}, r"there is both 'task' and \[\[tasks\]\]; expected"),
        (
            {"task": None, "tasks": [{"name": "a", "task": "judge"}] * 2},
            r"two of \[\[tasks\]\] have the name 'a'; names must be unique",
        ),
        (
            {"task": None, "tasks": [{"name": "a", "task": "judge"}], "data": {}},
            r"\[data\] belongs to a single task; move it into each of \[\[tasks\]\]",
        ),
        ({"train": {"batch_size": 0}}, r"'train\.batch_size' is 0: input should be greater than 0"),
        ({"train": {"warmup": 1.5}}, r"'train\.warmup' is 1\.5: input should be less than or equal to 1"),
        ({"train": {"learning_rate": float("nan")}}, r"'train\.learning_rate' is nan"),
        ({"train": {"learning_rate": float("inf")}}, r"'train\.learning_rate' is inf"),
        ({"train": {"seed": -1}}, r"'train\.seed' is -1: input should be greater than or equal to 0"),
        (
            {"quantize": {"bits": 4, "recipe": "mixed_3_6"}},
            r"'bits' and 'recipe' each set the bits of every",
        ),
        (
            {"quantize": {"bits": 4, "target_bits": 4.0}},
            r"'bits' and 'target_bits' each set .*; keep only one of them",
        ),
        ({"quantize": {"mode": "mxfp4", "bits": 4}}, r"'mode' is mxfp4, which fixes .*; leave 'bits' out"),
        ({"quantize": {"mode": "nvfp4", "group_size": 32}}, r"'mode' is nvfp4, .*; leave 'group_size' out"),
        (
            {"quantize": {"mode": "mxfp8", "target_bits": 8.5}},
            r"'mode' is mxfp8, .*; leave 'target_bits' out",
        ),
        ({"quantize": {"calibration": "a.jsonl"}}, r"'calibration' is only used with 'target_bits'"),
        ({"quantize": {"candidate_bits": [4]}}, r"'candidate_bits' is only used with 'target_bits'"),
        (
            {"quantize": {"target_bits": 4.0, "candidate_bits": [4, 7]}},
            r"'candidate_bits' is \[4, 7\]; expected some of 2, 3, 4, 5, 6, 8",
        ),
        ({"quantize": {"head_bits": 7}}, r"'quantize\.head_bits' is 7: .*; 'quantize\.head_bits' is 7: "),
        ({"quantize": {"bits": 7}}, r"'quantize\.bits' is 7: input should be 2, 3, 4, 5, 6 or 8"),
        ({"name": "../up"}, r"'name' is '\.\./up': string should match pattern"),
    ],
)
def test_a_wrong_value_is_refused(table: dict[str, Any], match: str):
    wrong(table, match)


def test_every_fault_is_named_at_once():
    wrong({"taks": 1, "train": {"batch_size": 0}}, r"(?s)'train\.batch_size' is 0.*; unknown key 'taks'")


def test_a_name_is_required():
    with pytest.raises(ConfigError, match=r"^recipe\.toml: 'name' is missing$"):
        parse_recipe({"task": "judge"}, source="recipe.toml")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no recipe at .*none\.toml; see the folder recipes/"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"name: a\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml is not a readable TOML file: "):
        read_recipe(tmp_path / "bad.toml")


def test_a_folder_is_no_recipe(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a readable TOML file"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"task": "judge", "model": {"architecture": {}}},
            r"'model\.architecture'\. Only method = \"pretrain\" uses it",
        ),
        (
            {"task": None, "train": {"method": "pretrain", "total_tokens": 9}},
            r"the table \[model\.architecture\] is missing",
        ),
        (PRETRAIN | {"train": {"method": "pretrain"}}, r"'train\.total_tokens' is missing"),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"total_tokens": 0}},
            "is 0: .* greater than 0",
        ),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"epochs": 2}},
            r"'train\.epochs'\. Only method = \"sft\" uses it; leave it out or change the method",
        ),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"lora": {"rank": 2}}},
            r"'train\.lora'\. Only",
        ),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"max_length": 4096}},
            r"train.max_length is 4096, more than max_position_embeddings \(2048\); lower it",
        ),
        (PRETRAIN | {"task": "judge", "quantize": {}}, r"'task'\. Only .*; unknown key 'quantize'\. Only"),
        (PRETRAIN | {"data": {"train": "a.jsonl"}}, r"'data\.train' is 'a\.jsonl': input should be 'world'"),
        (PRETRAIN | {"data": {"train_limit": 9}}, r"unknown key 'data\.train_limit'\. Only"),
        ({"train": {"total_tokens": 9}}, r"'train\.total_tokens'\. Only method = \"pretrain\" uses it"),
        ({"train": {"dropout": 0.1, "lora": {}}}, r"\[train\]: .* with lora, set lora.dropout"),
        ({"export": {}}, r'export.formats contains "peft", but without \[train.lora\] there is no adapter'),
        (
            {"train": {"method": "pretrian"}},
            r"'pretrian'\. Did you mean 'pretrain'\? Known: sft, pretrain",
        ),
        ({"train": {"method": 3}}, r"'train\.method' is 3\. Known: sft, pretrain"),
    ],
)
def test_settings_that_nothing_reads_are_refused(table: dict[str, Any], message: str):
    wrong(table, message)
    parse_recipe({"name": "a"} | PRETRAIN, source="recipe.toml")


def test_the_method_decides_the_shape_of_a_recipe():
    assert {name: shape.train for name, shape in methods().items()} == {
        "pretrain": PretrainConfig,
        "sft": SftConfig,
    }
    for name, (recipe, train) in methods().items():
        table = {"name": "a"} | (
            PRETRAIN if name == "pretrain" else {"task": "judge", "train": {"method": name}}
        )
        read = parse_recipe(table, source="recipe.toml")
        assert (type(read), type(read.train), read.train.method) == (recipe, train, name)


class Distilled(TrainConfig):
    """A method as another file would add it."""

    method: Literal["distilled"]
    """It."""
    teacher: ModelConfig = ModelConfig()
    """From whom."""


class Wider(Section):
    """A recipe with one method more."""

    train: Annotated[SftConfig | Distilled, OneOf("method", default="sft")] = SftConfig()
    """How it learns."""


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"method": "distilled", "teacher": {"bse": "x"}}, r"'train\.teacher\.bse'\. Did you mean 'base'\?"),
        ({"method": "distilled", "epochs": 2}, r"unknown key 'train\.epochs'\..* Known: batch_size"),
        ({"batch_size": 0}, r"^a: 'train\.batch_size' is 0: input should be greater than 0$"),
        ({"teacher": {}}, r"unknown key 'train\.teacher'\. Known: .*, mask, packing, dropout$"),
        (
            {"method": "dist"},
            r"is 'dist'\. Did you mean 'distilled'\? Known: sft, distilled$",
        ),
        (3, r"'train' is 3: input should be a table$"),
    ],
)
def test_faults_inside_one_of_several_tables_are_its_own(train: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_table(Wider, {"train": train}, "a")
    read = parse_table(Wider, {"train": {"method": "distilled", "teacher": {"base": "x"}}}, "a")
    assert read == Wider(train=Distilled(method="distilled", teacher=ModelConfig(base="x")))
    assert parse_table(Wider, {"train": {"epochs": 2.0}}, "a") == Wider(train=SftConfig(epochs=2.0))
