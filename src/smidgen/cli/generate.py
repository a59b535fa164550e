"""`smidgen generate`: try a model on one prompt."""

from smidgen.cli.options import Model


def generate(*, model: Model = "smidgen:nano") -> None:
    """Answer one prompt."""
