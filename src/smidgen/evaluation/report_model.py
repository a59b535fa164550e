"""Schema of `report.json`, for the report of a run and of a single evaluation.

Fields with a default are optional. Unknown keys are kept in evaluations, comparisons and exports, since tasks
may add their own entries (`Task.analyses`).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    """A part of a report without unknown keys."""

    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    """A part that may have additional keys, added by tasks, methods and exports."""

    model_config = ConfigDict(extra="allow")


class MetricFacts(_Part):
    """A metric with its 95 % interval over `n` units."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class EvaluationFacts(_Open):
    """One evaluation: the content of `evaluation.json`."""

    task: str
    version: int
    variant: str
    model: str
    data: str
    n: int
    metrics: dict[str, MetricFacts]
    baselines: dict[str, MetricFacts]
    subsets: dict[str, dict[str, MetricFacts]]
    details: dict[str, Any]
    speed: dict[str, Any]
    method: str
    has_right_answers: bool = True
    settings: dict[str, Any] = {}


class ComparisonFacts(_Open):
    """The paired difference of two evaluations in their headline metric, and in every other metric."""

    metric: str
    difference: MetricFacts
    p_value: float | None
    metrics: dict[str, Any]


class ExportFacts(_Open):
    """One export: path, format, size and metrics."""

    path: str
    format: str
    bytes: int
    metrics: dict[str, MetricFacts]


class BestBase(_Part):
    """The base evaluation with the largest headline metric, which the trained model is compared with.

    Attributes:
        name: its key in the report.
        description: the base model, as it was asked.
        ways: number of ways in which the base model was asked.
    """

    name: str
    description: str
    ways: int


class TaskEvidence(_Part):
    """The results of one task; `skipped` says why an evaluation of the base was left out, by its name."""

    task: str = ""
    before: EvaluationFacts | None = None
    base_constrained: EvaluationFacts | None = None
    base_examples: EvaluationFacts | None = None
    skipped: dict[str, str] = {}
    best_base: BestBase | None = None
    after: EvaluationFacts | None = None
    logits: EvaluationFacts | None = None
    quantized: EvaluationFacts | None = None
    teacher: EvaluationFacts | None = None
    distillation: dict[str, Any] | None = None
    decoding: dict[str, Any] | None = None
    comparisons: dict[str, ComparisonFacts] = {}
    exports: dict[str, ExportFacts] = {}
    examples: list[dict[str, Any]] = []
    cost: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class Provenance(_Part):
    """Versions, seeds and fingerprints of the inputs of a run."""

    versions: dict[str, str | None]
    git_revision: dict[str, Any] | None
    seeds: dict[str, int]
    data: dict[str, Any]
    base_model: dict[str, Any] | None = None


class ModelFacts(_Part):
    """The base model and its training method."""

    base: str
    thinking: bool
    parameters: int
    trained_parameters: int
    method: str
    path: str


class CurvePoint(_Part):
    """The loss of one step, in nats per token."""

    step: int
    loss: float | None


class SourceLosses(_Part):
    """The losses of one source of a mix."""

    name: str
    curve: list[CurvePoint]
    validation: list[CurvePoint]


class MetricPoint(_Part):
    """The task's metric after one step."""

    step: int
    value: float


class RolloutFacts(_Part):
    """Curves of a training on rewards by name, and the best and the worst answers of some steps."""

    curves: dict[str, list[MetricPoint]]
    answers: list[dict[str, Any]]


class TrainingFacts(_Part):
    """Duration, speed and curves of the training; `metric` is of the answers to validation rows.

    `sources` has the curves of each source of a mix, `phases` the first step of each of several phases.
    """

    steps: int
    planned_steps: int | None = None
    epochs: float
    chosen_step: int
    chosen_by: str = "loss"
    seconds: float
    tokens_per_second: float
    curve: list[CurvePoint]
    validation: list[CurvePoint]
    sources: list[SourceLosses] = []
    phases: list[int] = []
    changes: list[str] = []
    metric: list[MetricPoint] = []
    metric_name: str = ""
    metric_rows: int = 0
    rollouts: RolloutFacts | None = None


class Report(TaskEvidence):
    """The content of `report.json`; a recipe with one task has its results at the top level."""

    name: str
    description: str = ""
    created: str
    command: str
    machine: dict[str, Any]
    provenance: Provenance
    model: ModelFacts | None = None
    data: dict[str, Any] | None = None
    training: TrainingFacts | None = None
    quantize: dict[str, Any] | None = None
    sizes: dict[str, int] = {}
    recipe: str = ""
    limits: list[str] = []
    stages: list[dict[str, Any]] = []
    tasks: dict[str, TaskEvidence] = {}

    def to_json(self) -> dict[str, Any]:
        """Return the content of `report.json`, without fields that were not set."""
        return self.model_dump(mode="json", exclude_unset=True)
