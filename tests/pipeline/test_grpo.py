"""Training on rewards: from the recipe to the report, resumed, and refused where nothing can be learnt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.backend import device
from smidgen.config import GrpoConfig, parse_recipe
from smidgen.data.types import Completion, Sample
from smidgen.errors import ConfigError, DataError, Paused, WorkError
from smidgen.evaluation.rollout_section import rollout_section
from smidgen.files import sha256_file
from smidgen.pipeline import RunContext, run_recipe, stages_of
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.events import MessageEvent, result_of
from smidgen.pipeline.grpo_job import prepare_grpo
from smidgen.pipeline.rewarding import Rewarding
from smidgen.pipeline.rolling import TaskRoller
from smidgen.pipeline.runner import inputs_hash
from smidgen.runs import Run
from smidgen.tasks.answers import Answers
from smidgen.tasks.rewards import Answered
from smidgen.training.loop import Step

LORA = {"rank": 4, "alpha": 8.0}
TRAIN: dict[str, Any] = {
    "method": "grpo", "steps": 3, "batch_size": 8, "num_generations": 4, "max_length": 160, "lora": LORA,
    "max_completion_length": 8, "learning_rate": 0.01, "metric_every": 0, "choose": "loss",
    "checkpoint_every": 1,
}  # fmt: skip
REWARDS = """
def vowels(sample, completion):
    return sum(letter in "aeiou" for letter in completion.text) / (1 + len(completion.text))

def constant(sample, completion):
    return 0.5

def broken(sample, completion):
    return completion.nothing

def text(sample, completion):
    return "much"

def huge(sample, completion):
    return 10**400

def leaves(sample, completion):
    raise SystemExit(3)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(REWARDS)
    return tmp_path / "own.py"


def table(own: Path, reward: str = "vowels", **train: Any) -> dict[str, Any]:
    parts = [{"name": f"{own}:{reward}"}]
    return {
        "task": "answers",
        "data": {"train_limit": 8, "validation_limit": 2, "test_limit": 2},
        "train": {**TRAIN, "rewards": parts, **train},
    }


def context_of(folder: Path, recipe: dict[str, Any]) -> RunContext:
    return RunContext(parse_recipe({"name": "tried", **recipe}, source="test"), Run(folder))


def trained(context: RunContext, share: float = 1.0) -> list[str]:
    """Run data and training; return what was told."""
    context = RunContext(context.recipe, context.run, train_share=share)
    events = list(run_recipe(context, only=("data", "train")))
    return [event.text for event in events if isinstance(event, MessageEvent)]


def test_a_recipe_trains_on_the_rewards_of_a_function(tmp_path: Path, own: Path):
    context = context_of(tmp_path / "run", table(own))
    told = trained(context)
    assert any("checked: mean reward" in sentence for sentence in told)
    assert [sentence.partition(",")[0] for sentence in told if " answer, to " in sentence] == [
        "best answer", "worst answer",
    ], "of the first step, and of those with a measurement"  # fmt: skip
    steps = context.run.read_jsonl("metrics.jsonl")
    assert len(steps) == 3 and "kl" not in steps[0]["metrics"], "it would be 0 by construction"
    assert {f"rewards/{own}:vowels/mean", "reward", "reward_std", "frac_reward_zero_std", "entropy"} <= steps[
        0
    ]["metrics"].keys()
    if device().kind == "cpu":
        assert max(step["metrics"]["engine_gap"] for step in steps) < 1e-3, "sampling and training agree"
    rows = context.run.read_jsonl("rollouts.jsonl")
    assert [(row["step"], row["which"]) for row in rows[:2]] == [(1, "best"), (1, "worst")]
    assert rows[0]["reward"] >= rows[1]["reward"]
    (stage,) = [stage for stage in stages_of(context) if stage.name == "train"]
    entry = stage.entry(context)
    assert entry["model"]["method"] == "LoRA rank 4, alpha 8, on rewards of its own answers"
    section = rollout_section(entry)
    assert "Reward" in [curve["name"] for curve in section["reward_curves"]]
    assert len(section["rollouts"]) == 6
    before = inputs_hash(context, stage)
    own.write_text(REWARDS + "\n# changed\n")
    assert inputs_hash(context, stage) != before, "another function under the same name"


@pytest.mark.slow
def test_a_paused_training_goes_on_as_if_it_had_not_been(tmp_path: Path, own: Path):
    whole, halves = (
        context_of(tmp_path / name, table(own, num_iterations=2, learning_rate=0.001))
        for name in ("whole", "halves")
    )
    trained(whole)
    with pytest.raises(Paused, match="paused after step 1 of 3"):
        trained(halves, share=0.1)
    trained(halves)
    names = ("metrics.jsonl", "rollouts.jsonl")
    first, second = ([run.run.read_jsonl(name) for name in names] for run in (whole, halves))
    for rows in (*first, *second):
        for row in rows:
            row.pop("seconds", None)
    assert first == second
    assert sha256_file(whole.best / "adapters.safetensors") == sha256_file(
        halves.best / "adapters.safetensors"
    )


def test_a_model_that_cannot_learn_is_told_so_before_the_first_step(tmp_path: Path, own: Path):
    context = context_of(tmp_path / "run", table(own, "constant"))
    wanted = r"nothing can be learnt: in each of 8 groups all answers got the same reward \(mean 0.5; .*"
    with pytest.raises(WorkError, match=wanted):
        trained(context)
    assert not context.run.path("best").exists()


def test_functions_of_the_user_that_fail_are_named(tmp_path: Path, own: Path):
    for reward, wanted in (
        ("broken", r"own.py:broken of an answer to '.*' failed: AttributeError: .*nothing"),
        ("text", r"own.py:text of an answer to '.*' is 'much', expected a number of at most 1,000,000"),
        ("huge", r"own.py:huge of an answer to '.*' is '1000.*', expected a number of at most 1,000,000"),
        ("leaves", r"own.py:leaves of an answer to '.*' failed: SystemExit: 3"),
    ):
        with pytest.raises(WorkError, match=wanted):
            trained(context_of(tmp_path / reward, table(own, reward)))


def test_rewards_that_are_not_there(tmp_path: Path, own: Path):
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    for name, wanted in (
        (
            "scroe",
            r"'scroe' is not a reward of this task. Did you mean 'score'\? It has score; FILE.py:FUNCTION",
        ),
        (f"{tmp_path}/none.py:f", r"none.py does not exist; give the path of a Python file"),
        (f"{own}:vowls", r"own.py has no function 'vowls'; define vowls\(sample, completion\)"),
        (f"{tmp_path}/bad.py:f", r"bad.py cannot be loaded: ModuleNotFoundError"),
    ):
        recipe = table(own)
        recipe["train"]["rewards"] = [{"name": name}]
        with pytest.raises(ConfigError, match=wanted):
            prepare_grpo(context_of(tmp_path / "run", recipe))


def test_prompts_that_leave_no_room_are_left_out_or_refused(tmp_path: Path, own: Path):
    job = prepare_grpo(context_of(tmp_path / "run", table(own)))
    assert job.cut_rows == 0
    with pytest.raises(DataError, match=r"no prompt leaves room .* of 8 tokens within max_length \(16\)"):
        prepare_grpo(context_of(tmp_path / "run", table(own, max_length=16)))


def test_a_start_from_an_adapter_is_where_that_training_ended(tmp_path: Path, own: Path):
    first = context_of(tmp_path / "first", table(own))
    trained(first)
    recipe = table(own, lora={**LORA, "start": str(first.best)}, steps=1)
    second = context_of(tmp_path / "second", recipe)
    assert second.base_engine.adapter == first.best
    job = prepare_grpo(second)
    assert any(abs(layer.lora_b).sum().item() for _, layer in _adapted(job.model))
    trained(second)
    (stage,) = [stage for stage in stages_of(second) if stage.name == "train"]
    assert stage.entry(second)["model"]["method"].startswith(f"LoRA rank 4, alpha 8, from {first.best}, on")


def _adapted(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if "lora_b" in module]


def test_the_reward_is_gated_weighted_and_shortened():
    config = GrpoConfig(
        method="grpo", rewards=({"name": "score", "weight": 2.0},), length_penalty=0.5, 
        max_completion_length=10,
    )  # fmt: skip
    task = Answers()
    sample = Sample("1", (), "7", {"accepted": ["7"], "subset": None})

    def answered(text: str, tokens: int) -> Answered:
        completion = Completion(text, tuple(range(tokens)))
        return Answered(sample, completion, task.score(sample, completion))

    group = [answered("7", 10), answered("8", 2), answered("", 4)]
    found = Rewarding(task, config).of(group)
    assert found.totals.tolist() == pytest.approx([2.0 - 0.5, -0.1, -0.1]), "never above a readable one"
    assert found.parts["parsed"].tolist() == [1, 1, 0]
    assert found.parts["score"].tolist() == [1, 0, 0]
    lengths = Rewarding(task, config).of([answered("", 2), answered("", 8)]).totals
    assert not lengths.any(), "nothing is learnt from the length of what cannot be read"
    ungated = config.model_copy(update={"format_gate": False})
    assert Rewarding(task, ungated).of(group).totals.tolist() == pytest.approx([1.5, -0.1, -0.2])


def test_a_plan_counts_the_answers_as_long_as_they_may_be(tmp_path: Path, own: Path):
    context = context_of(tmp_path / "run", table(own))
    budgets = Budgets(context)
    assert {"step", "sampling"} <= budgets.training().budget.moments.keys()
    assert budgets.batches.trained_tokens == 3 * 8 * 8
    assert budgets.training().budget.moments["step"]["masks"] > 0, "answers share their prompt's tokens"


def test_a_step_that_is_refused_leaves_no_checkpoint(tmp_path: Path, own: Path):
    context = context_of(tmp_path / "run", table(own, num_iterations=2, learning_rate=0.05))
    with pytest.raises(WorkError, match=r"step 2: the divergence has exploded"):
        trained(context)
    assert not list(context.run.path("checkpoints").iterdir()), "neither the step's, nor the weights it met"
    calmer = context_of(tmp_path / "run", table(own, num_iterations=2, learning_rate=0.0005))
    trained(calmer)
    assert len(calmer.run.read_jsonl("metrics.jsonl")) == 3


def test_both_orders_are_asked_equally_often(tmp_path: Path, own: Path):
    recipe = table(own, rewards=[{"name": "score"}], num_generations=3, batch_size=9)
    with pytest.raises(ConfigError, match=r"num_generations is 3, .* are 2, .* multiple of 2"):
        prepare_grpo(context_of(tmp_path / "run", {**recipe, "task": "judge"}))


def test_attacks_of_the_settings_are_in_the_prompts_too(tmp_path: Path):
    recipe = {
        "task": "judge",
        "settings": {"attacks": ["flattery"], "attack_share": 1.0},
        "data": {"train_limit": 8, "validation_limit": 2, "test_limit": 2},
        "train": TRAIN,
    }
    with_attacks = context_of(tmp_path / "run", recipe).tasks[0].split_samples[0]
    without = context_of(tmp_path / "run", {**recipe, "settings": {}}).tasks[0].split_samples[0]
    assert [one.id for one in with_attacks] == [one.id for one in without]
    changed = [a.messages != b.messages for a, b in zip(with_attacks, without, strict=True)]
    assert all(changed) and all(one.target is None for one in with_attacks)


@pytest.mark.parametrize(
    ("norm", "rises", "wanted"),
    [
        (0.0, 0.1, "the gradient of a good answer is zero"),
        (1.0, -0.1, "a good answer made it less"),
    ],
)
def test_a_step_that_teaches_nothing_is_refused(
    norm: float, rises: float, wanted: str, tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
):
    job = prepare_grpo(context_of(tmp_path / "run", table(own)))
    monkeypatch.setattr("smidgen.pipeline.grpo_job.optimizer_step", lambda *_, **__: Step(0.0, norm, {}))
    values = iter((-1.0, -1.0 + rises))
    monkeypatch.setattr(TaskRoller, "logprobs", lambda *_: np.full((2, 3), next(values)))
    assert job.begin is not None
    with pytest.raises(WorkError, match=wanted):
        job.begin(resumed=False)


def test_grpo_runs_in_one_process(tmp_path: Path, own: Path):
    class Two:
        size = 2

    context = context_of(tmp_path / "run", table(own))
    with pytest.raises(ConfigError, match=r'method = "grpo" trains in one process, and there are 2'):
        prepare_grpo(RunContext(context.recipe, context.run, group=Two()))  # type: ignore[arg-type]
    result_of(run_recipe(context, only=("data",)))
