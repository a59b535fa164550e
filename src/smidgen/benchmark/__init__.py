"""Measure the speed of a model on this machine and compare it with the limits of the device.

work = Benchmark(EngineOptions("smidgen:nano"))
for step in work:
    print(step.engine, step.done, work.total)
print(work.result.engines["mlx"].prefill_tokens_per_second)
"""

from smidgen.benchmark.benchmark import Benchmark, BenchmarkResult, BenchmarkStep, Machine
from smidgen.benchmark.measuring import BatchSpeed, EngineSpeed, Percentiles
from smidgen.benchmark.roofline import Roofline

__all__ = [
    "BatchSpeed",
    "Benchmark",
    "BenchmarkResult",
    "BenchmarkStep",
    "EngineSpeed",
    "Machine",
    "Percentiles",
    "Roofline",
]
