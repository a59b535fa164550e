"""Configuration schemas: the tables of a recipe and of a price file, with every default.

These models are the only place where defaults are defined. The string under a field is its documentation and
becomes `docs/configuration.md`. Unknown keys are errors.
"""

from smidgen.config.base import OneOf, Section, parse_table, read_toml, sections_of, selector
from smidgen.config.data import DataConfig, PretrainDataConfig
from smidgen.config.evaluate import EvaluateConfig
from smidgen.config.export import ExportConfig
from smidgen.config.model import ArchitectureConfig, ModelConfig, NewModelConfig
from smidgen.config.pretrain import PretrainConfig
from smidgen.config.prices import ApiPrice, Prices, read_prices
from smidgen.config.quantize import DEFAULT_BITS, DEFAULT_GROUP_SIZE, QuantizeConfig
from smidgen.config.recipe import (
    AnyRecipe,
    PretrainRecipe,
    Recipe,
    methods,
    parse_recipe,
    read_recipe,
    resolved_toml,
)
from smidgen.config.sft import SftConfig
from smidgen.config.task import TaskConfig
from smidgen.config.train import FinetuneConfig, LoraConfig, TrainConfig

__all__ = [
    "DEFAULT_BITS",
    "DEFAULT_GROUP_SIZE",
    "AnyRecipe",
    "ApiPrice",
    "ArchitectureConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneConfig",
    "LoraConfig",
    "ModelConfig",
    "NewModelConfig",
    "OneOf",
    "PretrainConfig",
    "PretrainDataConfig",
    "PretrainRecipe",
    "Prices",
    "QuantizeConfig",
    "Recipe",
    "Section",
    "SftConfig",
    "TaskConfig",
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
