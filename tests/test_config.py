from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from smidgen import config
from smidgen.cli.reference import REPEATED, tables
from smidgen.config import (
    DistillConfig,
    DpoConfig,
    GrpoConfig,
    JacobiConfig,
    ModelConfig,
    OneOf,
    PretrainConfig,
    PretrainRecipe,
    Recipe,
    Section,
    SftConfig,
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
DISTILL = {"method": "distill"}
PRETRAIN = {
    "model": {"architecture": {"hidden_size": 64}},
    "train": {"method": "pretrain", "total_tokens": 9},
}
FULL = {
    "name": "full",
    "task": "judge",
    "model": {"base": "owner/repo:folder", "thinking": True},
    "data": {"train": "rows.jsonl", "train_splits": ["a", "b"], "train_limit": 10},
    "teacher": {"model": "http://localhost:8000/v1", "keep": "judge", "judge": {"model": "owner/judge"}},
    "train": DISTILL | {"lora": {"rank": 4, "target_modules": ["q_proj"]}, "betas": [0.8, 0.9], "epochs": 2},
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
    teacher = {"teacher": {"model": "larger"}}
    pretrain = {"name": "a", "track": FULL["track"]} | PRETRAIN
    taught = [table | {"train": table["train"] | teacher} for table in (FULL, pretrain)]
    preferring = {"name": "a", "task": "judge", "train": {"method": "dpo", "lora": {}}}
    guessing = {"name": "a", "task": "judge", "train": {"method": "jacobi"}}
    rewarded = {"name": "a", "task": "judge", "train": {"method": "grpo"}}
    for root, of_root in (
        (Recipe, [taught[0], preferring, guessing, rewarded]),
        (PretrainRecipe, [taught[1]]),
    ):
        text = "".join(resolved_toml(parse_recipe(table, source="recipe.toml")) for table in of_root)
        for _, section, _ in tables(root):
            missing = [name for name in section.model_fields if name not in text]
            fields = [section.model_fields[name] for name in missing]  # absent unless given
            defaults = [field.get_default(call_default_factory=True) for field in fields]
            assert all(default in (None, {}, ()) for default in defaults if section not in REPEATED)


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
            r"the table \[model\] is missing",
        ),
        (PRETRAIN | {"train": {"method": "pretrain"}}, r"neither 'total_tokens' nor \[\[train\.phases\]\]"),
        (PRETRAIN | {"model": {}}, r"\[model\]: there is neither 'base' nor \[model\.architecture\]"),
        (PRETRAIN | {"model": PRETRAIN["model"] | {"base": "a"}}, r"there is both 'base' and \[model\.arch"),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"total_tokens": 0}},
            "is 0: .* greater than 0",
        ),
        (
            PRETRAIN | {"train": PRETRAIN["train"] | {"epochs": 2}},
            r"'train\.epochs'\. Only method = \"sft\" or \"distill\" or \"dpo\" or \"jacobi\" uses it; leave",
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
        (PRETRAIN | {"data": {"train_limit": 9}}, r"unknown key 'data\.train_limit'\. Only"),
        ({"train": {"total_tokens": 9}}, r"'train\.total_tokens'\. Only method = \"pretrain\" uses it"),
        ({"train": {"dropout": 0.1, "lora": {}}}, r"\[train\]: .* with lora, set lora.dropout"),
        ({"export": {}}, r'export.formats contains "peft", but without \[train.lora\] there is no adapter'),
        (
            {"train": {"method": "pretrian"}},
            r"'pretrian'\. Did you mean 'pretrain'\? Known: sft, distill, dpo, jacobi, grpo, pretrain",
        ),
        ({"train": DISTILL}, r'method = "distill" needs a table \[teacher\] with the model to learn from'),
        ({"teacher": {"model": "a"}}, r'\[teacher\] is used by method = "distill" only; set train.method'),
        (PRETRAIN | {"teacher": {"model": "a"}}, r"unknown key 'teacher'\. Only method = .* uses it"),
        ({"train": DISTILL, "teacher": {}}, r"'teacher\.model' is missing"),
        (
            {"train": DISTILL, "teacher": {"model": "a", "temperature": 0.0}},
            r"\[teacher\]: 4 candidates at temperature 0 would all be equal; .* or candidates = 1$",
        ),
        (
            {"train": DISTILL, "teacher": {"model": "a", "keep": "judge"}},
            r'keep is "judge" without a table \[teacher\.judge\]; name the judge there$',
        ),
        (
            {"train": DISTILL, "teacher": {"model": "a", "judge": {"model": "b"}}},
            r'\[teacher\.judge\] is given, but keep is "gold"; set keep = "judge" or remove the table$',
        ),
        (
            {"train": DISTILL, "teacher": {"model": "a", "at_most": 5}},
            r"at_most is 5, more than the 4 candidates per sample; lower it$",
        ),
        (
            {"train": {"method": 3}},
            r"'train\.method' is 3\. Known: sft, distill, dpo, jacobi, grpo, pretrain",
        ),
        (
            {"train": {"method": "grpo", "batch_size": 12}},
            r"batch_size · gradient_accumulation is 12, not a multiple of num_generations \(8\); a step",
        ),
        (
            {"train": {"method": "grpo", "max_completion_length": 512, "max_length": 512}},
            r"max_completion_length is 512, which leaves no room for a prompt in max_length \(512\)",
        ),
        (
            {"train": {"method": "grpo", "beta": 0.1}},
            r"beta compares with the base, .*; add \[train.lora\] or set beta = 0",
        ),
        (
            {"train": {"method": "grpo", "num_iterations": 2, "lora": {"dropout": 0.1}}},
            r"with num_iterations > 1 .* set lora.dropout = 0 or num_iterations = 1",
        ),
        (
            {"train": {"method": "grpo", "rewards": [{"name": "score", "weight": 0.0}]}},
            r"rewards has no part with a weight; give at least one",
        ),
        (
            {"train": {"method": "grpo", "rewards": [{"name": "score"}, {"name": "score"}]}},
            r"rewards names 'score' twice; keep one, with the sum of the weights",
        ),
        (
            {"train": {"method": "grpo", "trunk_cache": "float32"}},
            r"'trunk_cache' is for rows that are the same in every epoch, unlike answers; leave it out",
        ),
        (
            {"train": {"method": "dpo"}},
            r"learnt against the base, which is the model with its adapter switched off; add \[train.lora\]",
        ),
        (
            {"train": {"method": "dpo", "lora": {}, "loss": "ipo", "label_smoothing": 0.1}},
            r'label_smoothing is for loss = "sigmoid" only; leave it out',
        ),
        ({"train": {"lora": {"plus": 0.5}}}, r"'train\.lora\.plus' is 0\.5: input should be greater than or"),
        ({"train": {"teacher": {}}}, r"'train\.teacher\.model' is missing"),
    ],
)
def test_settings_that_nothing_reads_are_refused(table: dict[str, Any], message: str):
    wrong(table, message)
    parse_recipe({"name": "a"} | PRETRAIN, source="recipe.toml")


SOURCES = [{"name": "web", "path": "a.jsonl"}, {"name": "code", "path": "b.parquet", "weight": 2}]


def mixed(*phases: dict[str, Any], sources: Any = SOURCES, **train: Any) -> dict[str, Any]:
    table = {"method": "pretrain", "batch_size": 1, "max_length": 16, **train}
    table |= {"phases": list(phases)} if phases else {"total_tokens": 64}
    return PRETRAIN | {"data": {"sources": sources}, "train": table}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            mixed({"tokens": 16, "weights": {"wbe": 1}}),
            r"phase 1 has a weight for 'wbe', which is not one of .*\. Did you mean 'web'\?",
        ),
        (
            mixed({"tokens": 16}, {"tokens": 16, "weights": {"web": 0, "code": 0}}),
            r"all weights of phase 2 are 0; give one source a weight above 0",
        ),
        (
            mixed(sources=[source | {"weight": 0} for source in SOURCES]),
            r"all weights of \[\[data\.sources\]\] are 0; give",
        ),
        (
            mixed({"tokens": 16, "weights": {"web": 1}}),
            r"the source 'code' is never drawn; give it a weight above 0, or remove it",
        ),
        (
            mixed({"tokens": 16, "weights": {"web": -1}}),
            r"'train\.phases\.0\.weights.* is -1: .* or equal to 0",
        ),
        (mixed(sources=[SOURCES[0] | {"weight": -1}]), r"'data\.sources\.0\.weight' is -1: "),
        (mixed(sources=[SOURCES[0]] * 2), r"two of \[\[data\.sources\]\] have the name 'web'; names must be"),
        (mixed(sources=[{"name": "a b", "path": "x"}]), r"'data\.sources\.0\.name' is 'a b'"),
        (mixed(sources=[{"name": "a"}]), r"'data\.sources\.0\.path' is missing"),
        (
            mixed(sources=[{"name": "a", "path": "world", "text": "{{ b }}"}]),
            r"the source 'a' is generated, so it has no fields; leave 'text' out",
        ),
        (
            PRETRAIN | {"data": {"train": "a.jsonl", "sources": SOURCES}},
            r"there are both 'train' and \[\[data\.sources\]\]; move 'train' into a source",
        ),
        (mixed({"tokens": 15}), r"phase 1 has 15 tokens, but one step takes 16 \(batch_size x gradient_acc"),
        (
            mixed({"tokens": 16}, {"tokens": 32}, total_tokens=50),
            r"'total_tokens' is 50, but the phases have 48 tokens together; leave total_tokens out",
        ),
        (
            mixed(warmup=0.1, warmup_steps=2),
            r"'warmup' and 'warmup_steps' each set the length of the warm-up",
        ),
        (
            PRETRAIN | {"model": {"architecture": {"no_rope_layer_interval": 4}}},
            r"no_rope_layer_interval is for llama4_text, and model_type is qwen3; leave it out",
        ),
        (
            PRETRAIN
            | {"model": {"architecture": {"model_type": "llama4_text", "initialization": "induction"}}},
            r'initialization = "induction" is for qwen3, and model_type is llama4_text; use "normal"',
        ),
    ],
)
def test_a_mix_that_cannot_be_drawn_is_refused(table: dict[str, Any], message: str):
    wrong(table, message)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"data": {"sources": [SOURCES[0]] * 2}}, r"two of \[\[data\.sources\]\] have the name 'web'"),
        ({"data": {"sources": SOURCES, "train": "world"}}, r"there are both 'train' and \[\[data\.sources"),
        (
            {"data": {"sources": [source | {"weight": 0} for source in SOURCES]}},
            r"all weights of \[\[data\.sources\]\] are 0; give one source a weight above 0",
        ),
        (
            {"data": {"sources": [SOURCES[0], SOURCES[1] | {"weight": 0}]}},
            r"the source 'code' is never drawn; give it a weight above 0, or remove it",
        ),
        (
            {"data": {"sources": SOURCES}, "train": {"method": "dpo", "lora": {}}},
            r'method = "dpo" does not mix \[\[data\.sources\]\]; mix the files with `smidgen data mix`',
        ),
        (
            {"task": None, "tasks": [{"name": "b", "task": "judge", "data": {"sources": SOURCES}}]},
            r"the task 'b' has \[\[data\.sources\]\], which are for a single task; mix the files",
        ),
    ],
)
def test_a_mix_of_rows_that_cannot_be_drawn_is_refused(table: dict[str, Any], message: str):
    wrong(table, message)


def test_a_mix_of_rows_is_the_same_when_resolved(tmp_path: Path):
    recipe = parse_recipe({"name": "a", "task": "judge", "data": {"sources": SOURCES}}, source="a")
    assert isinstance(recipe, Recipe)
    assert [source.weight for source in recipe.data.all_sources] == [1.0, 2.0]
    (tmp_path / "config.toml").write_text(resolved_toml(recipe))
    assert read_recipe(tmp_path / "config.toml") == recipe


def test_phases_fill_in_their_weights_and_tokens(tmp_path: Path):
    recipe = parse_recipe(
        {"name": "a"} | mixed({"tokens": 16}, {"tokens": 32, "weights": {"code": 1}}, warmup_steps=0),
        source="a",
    )
    assert isinstance(recipe, PretrainRecipe)
    assert recipe.train.tokens == 48
    assert [phase.weights for phase in recipe.all_phases] == [{"web": 1.0, "code": 2.0}, {"code": 1.0}]
    assert recipe.train.warmup_of(1000) == 0
    (tmp_path / "config.toml").write_text(resolved_toml(recipe))
    assert read_recipe(tmp_path / "config.toml") == recipe
    alone = parse_recipe({"name": "a"} | PRETRAIN | {"data": {"train": "a.txt"}}, source="a")
    assert isinstance(alone, PretrainRecipe)
    assert [(source.name, source.path) for source in alone.data.all_sources] == [("train", "a.txt")]
    assert [(phase.tokens, phase.weights) for phase in alone.all_phases] == [(9, {"train": 1.0})]


def test_the_method_decides_the_shape_of_a_recipe():
    assert {name: shape.train for name, shape in methods().items()} == {
        "pretrain": PretrainConfig,
        "sft": SftConfig,
        "distill": DistillConfig,
        "dpo": DpoConfig,
        "jacobi": JacobiConfig,
        "grpo": GrpoConfig,
    }
    for name, (recipe, train) in methods().items():
        table = {"name": "a"} | (
            PRETRAIN if name == "pretrain" else {"task": "judge", "train": {"method": name, "lora": {}}}
        )
        table |= {"teacher": {"model": "smidgen:nano"}} if name == "distill" else {}
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
        ({"from": {}}, r"unknown key 'train\.from'\. Known: .*, packing, dropout, teacher$"),
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
