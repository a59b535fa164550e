"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, each an optional dependency.

A tracker is a copy: what it shows is in the run folder too. Each keeps its own settings (`WANDB_MODE`,
`WANDB_ENTITY`, `MLFLOW_TRACKING_URI`, and so on).
"""
