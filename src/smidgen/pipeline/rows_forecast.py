"""Time and cost of answering many rows with a recipe's model: here, and on machines whose rates are given.

Tokens per row are those of the recipe's own test rows, asked as its evaluations ask them: a judge in both
orders. For this machine the time is that of its two measured rates (`times`). For any other the rate has to
be given, since none is assumed: prompt and generated tokens per second together, which vLLM's benchmark calls
total token throughput.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from smidgen.config import MachineRate
from smidgen.errors import ConfigError
from smidgen.pipeline.asking import PLAIN
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.task_context import TaskContext
from smidgen.pipeline.times import Times

HERE = "this machine"
GIVEN = "--rate"
RATE = re.compile(r"(?P<name>[^=]+)=(?P<tokens>[0-9.eE+]+)(:(?P<price>[0-9.]+))?(x(?P<count>[0-9]+))?")


@dataclass(frozen=True)
class Place:
    """Where rows can be answered.

    Attributes:
        name: name of the machine or the API.
        count: number of such machines.
        tokens_per_second: prompt and generated tokens per second of all of them; None if it is unknown.
        seconds: the time; None if it is unknown.
        cost: the price; None if it is unknown.
        source: where the rate is from.
    """

    name: str
    count: int
    tokens_per_second: float | None
    seconds: float | None
    cost: float | None
    source: str


@dataclass(frozen=True)
class RowsForecast:
    """What answering many rows takes.

    Attributes:
        task: name of the task.
        rows: number of rows.
        answers_per_row: answers of each; a judge gives one in each order.
        retried: share of the requests that are asked twice.
        requests: number of requests, those asked twice included.
        prompt_tokens: mean tokens of a prompt.
        shared_tokens: those of its beginning that all prompts share.
        completion_tokens: mean tokens of an answer.
        tokens: tokens of all requests.
        currency: currency of the prices.
        places: time and cost, this machine first.
        assumptions: one sentence each.
    """

    task: str
    rows: int
    answers_per_row: float
    retried: float
    requests: int
    prompt_tokens: float
    shared_tokens: int
    completion_tokens: float
    tokens: int
    currency: str
    places: list[Place]
    assumptions: list[str]


class AskedRows(NamedTuple):
    """A number of rows, the machines that may answer them, and the share of requests that are asked twice."""

    number: int
    machines: Sequence[MachineRate] = ()
    retried: float = 0.0


class Rates(NamedTuple):
    """What `--rate` gives: the rate of the training, if any, and those of machines."""

    training: float | None
    machines: list[MachineRate]


def parse_rates(given: tuple[str, ...]) -> Rates:
    """Parse `TOKENS_PER_S`, the rate of the training, and `NAME=TOKENS_PER_S[:PRICE_PER_HOUR][xCOUNT]`.

    Raises:
        ConfigError: one is neither, or the training has two rates.
    """
    training, machines = [], []
    for text in given:
        found = RATE.fullmatch(text)
        try:
            if found is None:
                training.append(_above_zero(text))
                continue
            machines.append(
                MachineRate(
                    name=found["name"],
                    tokens_per_second=_above_zero(found["tokens"]),
                    per_hour=float(found["price"]) if found["price"] else None,
                    count=int(found["count"] or 1),
                    source=GIVEN,
                )
            )
        except ValueError:
            raise ConfigError(
                f"--rate is {text}; expected tokens per second above 0 of the training, as 2500, or those of "
                "a machine, its price per hour and the number of such, as a100=9000:1.8 or vllm=9000:1.8x8"
            ) from None
    if len(training) > 1:
        raise ConfigError(
            f"--rate gives {len(training)} rates of the training; give one, and machines as NAME=TOKENS_PER_S"
        )
    return Rates(training[0] if training else None, machines)


def forecast_rows(times: Times, asked: AskedRows) -> RowsForecast:
    """Compute what answering rows of a recipe's task with its trained model takes.

    Args:
        times: the recipe's times on this machine.
        asked: the rows, and other machines than this one.

    Raises:
        ConfigError: the recipe has not exactly one task, or its rows cannot be read.
    """
    budgets, task = times.budgets, only_task(times.budgets)
    prompts = budgets.prompts(task, PLAIN)
    if prompts.tokens is None:
        raise ConfigError(
            f"the rows of {budgets.context.recipe.name} cannot be read, so the tokens of a row are unknown; "
            "give rows like those to be answered, as --data pairs.jsonl"
        )
    per_row = prompts.number / len(task.test_rows)
    requests = round(asked.number * per_row * (1 + asked.retried))
    scores = task.blank.methods[0] != "generate"
    read = prompts.tokens / prompts.number
    written = 0.0 if scores else times.written(prompts)
    tokens = round(requests * (read + written))
    here = times.evaluation(task, budgets.context.trained_engine, scores=scores, requests=lambda: requests)
    prices = budgets.context.prices
    places = [
        Place(HERE, 1, here and tokens / here, here, _cost(here, prices.machine_per_hour), "measured now"),
        *(_place(one, tokens) for one in (*prices.machine, *asked.machines)),
    ]
    bought = (round(requests * read), round(requests * written))
    places += [Place(api.name, 1, None, None, api.money(*bought), "price list") for api in prices.api]
    return RowsForecast(
        task=task.blank.name,
        rows=asked.number,
        answers_per_row=per_row,
        retried=asked.retried,
        requests=requests,
        prompt_tokens=read,
        shared_tokens=prompts.shared,
        completion_tokens=written,
        tokens=tokens,
        currency=prices.currency,
        places=places,
        assumptions=_assumptions(task, len(task.test_rows), per_row, asked.retried),
    )


def _above_zero(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise ValueError(text)
    return value


def only_task(budgets: Budgets) -> TaskContext:
    """Return the task of the rows.

    Raises:
        ConfigError: the recipe has several.
    """
    if len(budgets.context.tasks) != 1:
        raise ConfigError(
            f"--rows needs a recipe with one task, and {budgets.context.recipe.name} has "
            f"{len(budgets.context.tasks)}; give one with the task of the rows"
        )
    return budgets.context.tasks[0]


def _place(machine: MachineRate, tokens: int) -> Place:
    """Return time and cost on several of a machine, as many times as fast as one."""
    rate, per_hour = machine.tokens_per_second * machine.count, machine.per_hour
    cost = _cost(tokens / rate, None if per_hour is None else per_hour * machine.count)
    return Place(machine.name, machine.count, rate, tokens / rate, cost, machine.source)


def _cost(seconds: float | None, per_hour: float | None) -> float | None:
    return None if seconds is None or per_hour is None else seconds / 3600 * per_hour


def _assumptions(task: TaskContext, measured: int, per_row: float, retried: float) -> list[str]:
    return [
        f"rows are like the {measured:,} test rows of the recipe, in tokens of its base; each is asked "
        f"{per_row:g} times",
        f"{retried:.1%} of the requests are asked twice because a server or a worker failed (--retried); "
        "answers that do not parse are not asked again",
        "answers are as long as those of the rows, or evaluate.max_tokens where rows have none or a model "
        "thinks first",
        "this machine: two rates, measured now, and a beginning that all prompts share computed once",
        "other machines: the rate that was given counts prompt and generated tokens together, with whatever "
        "the server saves on shared beginnings, and several machines are as many times as fast",
        "starting machines, loading models and idle time are not counted",
    ]
