"""Formatting of numbers, and SVG figures, for reports and model cards."""
