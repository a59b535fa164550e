"""smidgen: small language models, made into specialists you can trust."""

__version__ = "0.1.0"
