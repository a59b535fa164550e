"""The requests to the teacher of a distillation before any is sent: their number, tokens and price."""

from collections.abc import Sequence
from dataclasses import dataclass

from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Sample
from smidgen.files import is_url
from smidgen.models.load import describe
from smidgen.pipeline.asking import with_system
from smidgen.pipeline.budgets import Budgets
from smidgen.pipeline.teaching import questions_of


@dataclass(frozen=True)
class TeachingForecast:
    """What a teacher will be asked.

    Attributes:
        is_server: whether the teacher is behind a URL; the student's tokenizer then counts its tokens.
        requests: number of requests.
        held_out: those for the held-out rows.
        prompt_tokens: tokens of all prompts.
        likely_tokens: generated tokens if the answers are as long as those of the rows.
        most_tokens: generated tokens if every answer is cut off at `max_tokens`.
        likely_cost: price of the likely tokens; None if there is no price, as for a model on this machine,
            whose time `smidgen run --dry-run` measures.
        most_cost: price of the most tokens.
        currency: currency of the prices.
    """

    is_server: bool
    requests: int
    held_out: int
    prompt_tokens: int
    likely_tokens: int
    most_tokens: int
    likely_cost: float | None
    most_cost: float | None
    currency: str


def forecast_teaching(budgets: Budgets) -> TeachingForecast | None:
    """Return the requests to the teacher; None without a teacher, and for a recording, which is only read.

    Raises:
        UserError: the rows or the teacher's tokenizer cannot be read.
    """
    context = budgets.context
    teacher = context.recipe.teacher
    if teacher is None or teacher.model.endswith(".jsonl"):
        return None
    is_server = is_url(teacher.model)
    folder = budgets.folder if is_server else describe(teacher.model)
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    taught = [sample for task in context.tasks for sample in questions_of(context, task)[0]]
    held_out = [sample for task in context.tasks for sample in task.test_samples]

    def prompt_tokens(samples: Sequence[Sample]) -> int:
        asked = (with_system(sample, teacher.system).messages for sample in samples)
        return sum(len(tokenizer.render_prompt(messages)) for messages in asked)

    requests = teacher.candidates * len(taught) + len(held_out)
    read = teacher.candidates * prompt_tokens(taught) + prompt_tokens(held_out)
    # with the token that ends an answer; held-out samples need not have targets
    written = sum(1 + len(tokenizer.encode(sample.target or "")) for sample in taught)
    likely = round(requests * written / max(1, len(taught)))
    most, price = requests * teacher.max_tokens, context.prices.of(teacher.model_name or "")
    return TeachingForecast(
        is_server,
        requests,
        len(held_out),
        read,
        min(likely, most),
        most,
        price.money(read, min(likely, most)) if price and is_server else None,
        price.money(read, most) if price and is_server else None,
        context.prices.currency,
    )
