"""What each stage of a specialist's life does; `smidgen run` decides which of them are due."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from smidgen.cli.console import say
from smidgen.cli.evaluate import disagreements, prove
from smidgen.cli.exports import Artefact
from smidgen.cli.options import Engine
from smidgen.cli.sources import (
    all_rows,
    data_facts,
    examine,
    refuse_shared_rows,
    test_rows,
    training_rows,
)
from smidgen.cli.train import follow
from smidgen.config import Prices, Recipe
from smidgen.errors import ConfigError, DataError
from smidgen.files import read_json, write_jsonl
from smidgen.runs import Run

if TYPE_CHECKING:
    from smidgen.data.types import Sample, Sampling
    from smidgen.models.load import LoadedModel
    from smidgen.tasks import Task
    from smidgen.training.batches import RowBatches

EXAMPLES = 10


@dataclass(frozen=True)
class Life:
    """One recipe in its run folder, with what its stages share."""

    recipe: Recipe
    run: Run
    prices: Prices = field(default_factory=Prices)

    @cached_property
    def task(self) -> "Task":
        """The task, knowing the labels of every row."""
        from smidgen.tasks import find_task

        task = find_task(self.recipe.task)
        data = self.recipe.data
        return task.prepare(
            [row for source in {data.train, data.test} for row in all_rows(task.name, source)],
            source=data.train,
        )

    @cached_property
    def train_rows(self) -> list[dict[str, Any]]:
        """Rows to learn from, the validation rows among them."""
        data = self.recipe.data
        return training_rows(
            self.recipe.task, data.train, splits=data.train_splits, limit=data.train_limit, seed=data.seed
        )

    @cached_property
    def test_rows(self) -> list[dict[str, Any]]:
        """Held-out rows."""
        data = self.recipe.data
        return test_rows(
            self.recipe.task, data.test, splits=data.test_splits, limit=data.test_limit, seed=data.seed
        )

    @cached_property
    def test_samples(self) -> "list[Sample]":
        """What the model is asked before and after."""
        return self.task.samples(self.test_rows, source=self.recipe.data.test)

    @cached_property
    def split_samples(self) -> "tuple[list[Sample], list[Sample]]":
        """Training and validation samples, split by row, so that the two orders of a pair stay together."""
        data = self.recipe.data
        if len(self.train_rows) < 2:
            raise DataError(
                f"{data.train} has {len(self.train_rows)} rows to train on; expected at least 2, one of them "
                f"for validation"
            )
        rows = random.Random(f"validation/{data.seed}").sample(self.train_rows, len(self.train_rows))
        held_back = min(data.validation_limit, max(1, round(len(rows) * data.validation_fraction)))
        learnt, validation = (
            self.task.training_samples(part, source=data.train, seed=data.seed)
            for part in (rows[held_back:], rows[:held_back])
        )
        return learnt, validation

    def check(self) -> None:
        """Read every row and look at every setting that a later stage could refuse.

        Raises:
            UserError: something about the recipe or its rows is wrong; nothing was written.
        """
        from smidgen.inference.sampling import check_sampling
        from smidgen.models.load import load
        from smidgen.models.quantize import make_plan, quantizable
        from smidgen.models.save import stored_dtype
        from smidgen.models.sensitivity import affordable

        data = self.recipe.data
        check_sampling(self.sampling)
        _ = self.split_samples, self.test_samples
        refuse_shared_rows(data.train, data.test, data.train_splits, data.test_splits)
        if self.recipe.quantize is not None:
            loaded = load(self.recipe.model.base)
            settings = self.recipe.quantize
            plan = make_plan(loaded.model, loaded.config, settings)
            if settings.target_bits is not None:
                free = [name for name in quantizable(loaded.model, loaded.config) if name not in plan]
                affordable(loaded.model, settings, plan, stored_dtype(loaded.path), free)
                self.calibration(loaded)
        prepare_training(self)

    @property
    def sampling(self) -> "Sampling":
        """How answers are drawn in every evaluation."""
        from smidgen.data.types import Sampling

        settings = self.recipe.evaluate
        return Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature, seed=settings.seed)

    @property
    def best(self) -> Path:
        """Where the trained adapter or model stands."""
        return self.run.path("best")

    def calibration(self, loaded: "LoadedModel") -> list[list[int]]:
        """Rows of tokens to measure quantised layers on: those that are learnt, unless a file is named."""
        from smidgen.cli.calibration import calibration_rows, sample_rows

        settings, thinking = self.recipe.quantize, self.recipe.model.thinking
        assert settings is not None
        source, num_tokens = settings.calibration, settings.calibration_tokens
        if source is None:
            return sample_rows(self.split_samples[0], loaded.tokenizer, num_tokens, thinking=thinking)
        return calibration_rows(source, loaded.tokenizer, num_tokens, thinking=thinking)

    def trained(self) -> dict[str, Any]:
        """The trained model, as the arguments that load it."""
        if self.recipe.train.lora is not None:
            return {"model": self.recipe.model.base, "adapter": self.best}
        return {"model": str(self.best), "adapter": None}


def data(life: Life) -> None:
    """Write the samples down, as they will be trained and evaluated."""
    learnt, held_back = life.split_samples
    for name, samples in (("train", learnt), ("validation", held_back), ("test", life.test_samples)):
        write_jsonl(life.run.path(f"data/{name}.jsonl"), [asdict(sample) for sample in samples])
    findings = examine(life.recipe.task, life.train_rows, life.test_rows)
    for finding in findings:
        say(f"data: {finding}")
    life.run.write_json(
        "data/facts.json",
        {
            "findings": findings,
            "train": data_facts(life.recipe.data.train, life.train_rows) | {"samples": len(learnt)},
            "test": data_facts(life.recipe.data.test, life.test_rows) | {"samples": len(life.test_samples)},
        },
    )


def before(life: Life) -> None:
    """Evaluate the base model."""
    _evaluate(life, "before", model=life.recipe.model.base)


def train(life: Life) -> None:
    """Fine-tune, going on from the last checkpoint."""
    from smidgen.models.graph import named_arrays
    from smidgen.training.batches import fixed_batches, plan_training
    from smidgen.training.loop import train as train_model
    from smidgen.training.objectives.likelihood import Likelihood
    from smidgen.training.sft import saver

    loaded, learnt, held_back, batches = prepare_training(life)
    settings = life.recipe.train
    results = train_model(
        loaded.model,
        Likelihood(settings.dropout),
        batches,
        settings,
        run_dir=life.run.folder,
        validation=fixed_batches(held_back.rows, settings.batch_size),
        save=saver(loaded, settings),
    )
    planned = plan_training(learnt.rows, batches)
    follow(results, batches.num_steps)
    counts = {
        name: sum(array.size for array in named_arrays(tree).values())
        for name, tree in (
            ("parameters", loaded.model.parameters()),
            ("trained_parameters", loaded.model.trainable_parameters()),
        )
    }
    life.run.write_json("training.json", {"plan": asdict(planned), "cut_rows": learnt.cut_rows, **counts})


def prepare_training(life: Life) -> "tuple[LoadedModel, Any, Any, RowBatches]":
    """The model with its adapter, the training and validation rows, and the batches."""
    from smidgen.models.load import load
    from smidgen.models.lora import add_lora
    from smidgen.training.batches import RowBatches
    from smidgen.training.sft import sft_rows

    settings, thinking = life.recipe.train, life.recipe.model.thinking
    loaded = load(life.recipe.model.base)
    context = loaded.config.get("max_position_embeddings") or settings.max_length
    if settings.max_length > context:
        raise ConfigError(
            f"train.max_length is {settings.max_length}, and the context of {loaded.name} has {context} "
            "tokens; lower it"
        )
    if settings.lora is not None:
        add_lora(loaded.model, settings.lora, settings.seed)
    samples, held_back = life.split_samples
    learnt = sft_rows(samples, loaded.tokenizer, settings, thinking=thinking)
    validation = sft_rows(held_back, loaded.tokenizer, settings, thinking=thinking)
    batches = RowBatches(
        learnt.rows,
        batch_size=settings.batch_size,
        gradient_accumulation=settings.gradient_accumulation,
        epochs=settings.epochs,
        seed=settings.seed,
    )
    return loaded, learnt, validation, batches


def after(life: Life) -> None:
    """Evaluate the trained model."""
    _evaluate(life, "after", **life.trained())


def quantize(life: Life) -> None:
    """Make the trained model smaller."""
    from smidgen.cli.quantize import shrink, write_sensitivity
    from smidgen.models.load import load, resolve
    from smidgen.models.lora import fuse
    from smidgen.models.save import save_model, stored_dtype

    assert life.recipe.quantize is not None
    source = life.trained()
    loaded = load(source["model"], adapter=source["adapter"])
    fuse(loaded.model)
    dtype = stored_dtype(resolve(life.recipe.model.base))  # what is trained as a whole is kept in float32
    done = shrink(
        loaded,
        life.recipe.quantize,
        lambda: life.calibration(loaded),
        dtype=dtype,
        record=life.run.path("sensitivity.jsonl"),
    )
    save_model(life.run.path("quantized"), loaded.model, done.config, loaded.path, dtype=dtype)
    write_sensitivity(life.run.path("quantized"), done)
    life.run.write_json("quantize.json", done.facts())


def quantized(life: Life) -> None:
    """Evaluate the smaller model, which is what ships."""
    _evaluate(life, "quantized", model=str(life.run.path("quantized")), engine="mlx")


def make(life: Life, artefact: Artefact) -> None:
    """Make what others load."""
    assert artefact.make is not None
    facts = artefact.make(life, life.run.path(artefact.folder))
    life.run.write_json(f"exports/{artefact.name}.json", facts)


def exported(life: Life, artefact: Artefact) -> None:
    """Evaluate what others load, as they load it."""
    _evaluate(life, artefact.name, **artefact.loaded(life, life.run.path(artefact.folder)))


def examples(life: Life, names: Sequence[str]) -> list[dict[str, Any]]:
    """A few evaluated samples with what each stage answered, evenly spaced over the test rows."""
    from smidgen.evaluation import read_records

    by_stage = {
        name: {record.sample.id: record for record in read_records(_records(life, name))} for name in names
    }
    step = max(1, len(life.test_rows) // EXAMPLES)
    per_row = max(1, len(life.test_samples) // len(life.test_rows))
    chosen = []
    for index, row in list(enumerate(life.test_rows))[::step][:EXAMPLES]:
        sample = life.test_samples[index * per_row]
        answers = {
            name: {
                "text": records[sample.id].completion.text,
                "answer": records[sample.id].score.answer,
                "right": records[sample.id].score.value == 1.0,
            }
            for name, records in by_stage.items()
        }
        chosen.append({"id": sample.id, **_shown(row), **answers})
    return chosen


def comparison(life: Life, first: str, second: str) -> dict[str, Any]:
    """The paired difference of two stages in the task's first metric, with every other metric's beside it."""
    from smidgen.evaluation import compare, read_records

    found = compare(
        life.task,
        read_records(_records(life, first)),
        read_records(_records(life, second)),
        seed=life.recipe.evaluate.seed,
    )
    metrics = {name: compared.to_json() for name, compared in found.items()}
    headline = next(iter(metrics))
    return {"metric": headline, **metrics[headline], "metrics": metrics}


def evaluation(life: Life, name: str) -> dict[str, Any]:
    """What a finished evaluation found."""
    return read_json(life.run.path(f"evaluations/{name}/evaluation.json"))


def by_logits(life: Life) -> None:
    """Ask the trained judge again for the probabilities of its answers, unwritten."""
    _evaluate(life, "logits", **life.trained(), method="logits")


def _evaluate(
    life: Life,
    name: str,
    *,
    model: str,
    adapter: Path | None = None,
    engine: Engine = "auto",
    method: Literal["generate", "logits"] = "generate",
) -> None:
    result, records = prove(
        life.task,
        life.test_samples,
        life.sampling,
        _records(life, name),
        model=model,
        adapter=adapter,
        thinking=life.recipe.model.thinking,
        batch_size=life.recipe.evaluate.batch_size,
        data=life.recipe.data.test,
        stage=name,
        engine=engine,
        method=method,
    )
    result["disagreements"] = disagreements(life.task, life.test_rows, records)
    life.run.write_json(f"evaluations/{name}/evaluation.json", result)


def _records(life: Life, name: str) -> Path:
    return life.run.path(f"evaluations/{name}/records.jsonl")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """What a report shows of a row, whatever its format."""
    from smidgen.data.formats import PAIR_FORMATS, pairs

    if any(all(field in row for field in known.fields) for known in PAIR_FORMATS):
        (pair,) = pairs([row])
        return {"prompt": pair.prompt, "a": pair.a, "b": pair.b, "better": pair.better}
    return {"prompt": row["text"], "target": row["intent"]}
