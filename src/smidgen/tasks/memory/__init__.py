"""The tasks of a memory router: classify a text, memorise it, and arbitrate a fact with stored ones."""

from smidgen.tasks.memory.arbitrate import Arbitrate
from smidgen.tasks.memory.classify import Classify, classify_sample
from smidgen.tasks.memory.comparing import arbitrate_samples
from smidgen.tasks.memory.memorize import Memorize, memorize_sample

__all__ = ["Arbitrate", "Classify", "Memorize", "arbitrate_samples", "classify_sample", "memorize_sample"]
