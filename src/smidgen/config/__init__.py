"""Configuration schemas: the tables of a recipe and of a price file, with every default.

These models are the only place where defaults are defined. The string under a field is its documentation and
becomes `docs/configuration.md`. Unknown keys are errors.
"""

from smidgen.config.base import OneOf, Section, parse_table, read_toml, sections_of, selector
from smidgen.config.data_table import (
    WORLD,
    DataConfig,
    PretrainDataConfig,
    RowSourceConfig,
    SourceConfig,
)
from smidgen.config.distill_table import (
    AnswerJudgeConfig,
    AskedModelConfig,
    AskedTeacherConfig,
    DistillConfig,
)
from smidgen.config.dpo_table import DpoConfig
from smidgen.config.evaluate_table import EvaluateConfig
from smidgen.config.export_table import ExportConfig
from smidgen.config.grpo_table import GrpoConfig, RewardConfig
from smidgen.config.jacobi_table import JacobiConfig
from smidgen.config.model_table import ArchitectureConfig, ModelConfig, NewModelConfig
from smidgen.config.pretrain_table import PhaseConfig, PretrainConfig
from smidgen.config.prices_table import ApiPrice, MachineRate, Prices, read_prices
from smidgen.config.quantize_table import DEFAULT_BITS, DEFAULT_GROUP_SIZE, QuantizeConfig
from smidgen.config.recipe import (
    AnyRecipe,
    PretrainRecipe,
    Recipe,
    methods,
    parse_recipe,
    read_recipe,
    resolved_toml,
)
from smidgen.config.sft_table import SftConfig
from smidgen.config.task_table import TaskConfig
from smidgen.config.teacher_table import TeacherConfig, TopTeacherConfig
from smidgen.config.track_table import TrackConfig, TrackerName
from smidgen.config.train_table import FinetuneConfig, LoraConfig, TrainConfig

__all__ = [
    "DEFAULT_BITS",
    "DEFAULT_GROUP_SIZE",
    "WORLD",
    "AnswerJudgeConfig",
    "AnyRecipe",
    "ApiPrice",
    "ArchitectureConfig",
    "AskedModelConfig",
    "AskedTeacherConfig",
    "DataConfig",
    "DistillConfig",
    "DpoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "GrpoConfig",
    "JacobiConfig",
    "LoraConfig",
    "MachineRate",
    "ModelConfig",
    "NewModelConfig",
    "OneOf",
    "PhaseConfig",
    "PretrainConfig",
    "PretrainDataConfig",
    "PretrainRecipe",
    "Prices",
    "QuantizeConfig",
    "Recipe",
    "RewardConfig",
    "RowSourceConfig",
    "Section",
    "SftConfig",
    "SourceConfig",
    "TaskConfig",
    "TeacherConfig",
    "TopTeacherConfig",
    "TrackConfig",
    "TrackerName",
    "TrainConfig",
    "methods",
    "parse_recipe",
    "parse_table",
    "read_prices",
    "read_recipe",
    "read_toml",
    "resolved_toml",
    "sections_of",
    "selector",
]
