"""Worked examples in prompts: earlier turns of the conversation that show how answers look."""

import random
from collections.abc import Sequence
from dataclasses import replace

from smidgen.data.types import Message, Sample


def drawn(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Draw different prompts from samples with targets; the same for the same seed and samples."""
    different: dict[tuple[Message, ...], Sample] = {}
    for sample in random.Random(f"examples/{seed}").sample(list(samples), len(samples)):
        different.setdefault(sample.messages, sample)
    return list(different.values())[:count]


def with_examples(sample: Sample, examples: Sequence[Sample]) -> Sample:
    """Return a sample with examples as earlier turns; its own system message, if it has one, stays first."""
    system = [message for message in sample.messages if message.role == "system"]
    asked = [message for message in sample.messages if message.role != "system"]
    turns = [turn for example in examples for turn in _turns(example)]
    return replace(sample, messages=(*system, *turns, *asked))


def _turns(example: Sample) -> list[Message]:
    assert example.target is not None, example.id
    asked = [message for message in example.messages if message.role != "system"]
    return [*asked, Message("assistant", example.target)]
