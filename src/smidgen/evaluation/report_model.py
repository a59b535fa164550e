"""What `report.json` holds, as types: the content of a run's report and of the report of one evaluation.

Every key is optional but the few that each report has; a reader may rely on the types of those that are
there. A task may add entries of its own to an evaluation (`Task.analyses`), so there unknown keys are kept.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    """A part of a report without unknown keys."""

    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    """A part to which tasks, methods and exports add entries of their own."""

    model_config = ConfigDict(extra="allow")


class MetricFacts(_Part):
    """A metric with its 95 % interval over `n` units."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class EvaluationFacts(_Open):
    """One evaluation: what `evaluation.json` holds."""

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
    graded_alone: bool
    settings: dict[str, Any] = {}


class ComparisonFacts(_Open):
    """The paired difference of two evaluations in the metric that is named, and in every other."""

    metric: str
    difference: MetricFacts
    p_value: float | None
    metrics: dict[str, Any]


class ExportFacts(_Open):
    """One artefact: where it is, its size, and what it scores."""

    path: str
    format: str
    bytes: int
    metrics: dict[str, MetricFacts]


class TaskEvidence(_Part):
    """What was found of one task."""

    task: str = ""
    before: EvaluationFacts | None = None
    after: EvaluationFacts | None = None
    logits: EvaluationFacts | None = None
    quantized: EvaluationFacts | None = None
    comparisons: dict[str, ComparisonFacts] = {}
    exports: dict[str, ExportFacts] = {}
    examples: list[dict[str, Any]] = []
    cost: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class Provenance(_Part):
    """Versions, seeds and fingerprints of what the figures come from."""

    versions: dict[str, str | None]
    git_revision: dict[str, Any] | None
    seeds: dict[str, int]
    data: dict[str, Any]
    base_model: dict[str, Any] | None = None


class ModelFacts(_Part):
    """The base, and how it was trained."""

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


class TrainingFacts(_Part):
    """The training: how long, how fast, and its loss curve."""

    steps: int
    epochs: float
    chosen_step: int
    seconds: float
    tokens_per_second: float
    curve: list[CurvePoint]
    validation: list[CurvePoint]


class Report(TaskEvidence):
    """The whole of `report.json`; a recipe of one task has its evidence at the top level."""

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
        """The content of `report.json`, without what was not measured."""
        return self.model_dump(mode="json", exclude_unset=True)
