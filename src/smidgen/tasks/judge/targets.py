"""The completions that a judge learns from labels alone: the verdict, without preceding words."""

from smidgen.data.items import Pair
from smidgen.errors import ConfigError, DataError
from smidgen.tasks.judge.forms import Choice, JudgeParseError, JudgeTemplate, Verdict
from smidgen.tasks.judge.judgements import SHOWN
from smidgen.tasks.judge.published_templates import TwoScores
from smidgen.tasks.judge.rubric import Rubric


def check_targets(form: JudgeTemplate) -> None:
    """Refuse a template that has no completion that is only a verdict.

    Raises:
        ConfigError: it has none.
    """
    if form.name != TwoScores.name and form.target(Verdict("first")) is None:
        raise ConfigError(
            f"a judge cannot be trained with the template {form.name}, which has no completion that is "
            f"only a verdict; use verdict, {TwoScores.name} with scores, or {Rubric.name} with gold "
            "judgements"
        )


def target_of(form: JudgeTemplate, pair: Pair, order: str, source: str) -> str:
    """Return the target completion of a labelled pair in one order.

    Args:
        form: the template, which has such completions.
        pair: with its label, and for a template with scores with those of both answers.
        order: the order in which the answers are shown, `ab` or `ba`.
        source: names the rows in errors.

    Raises:
        DataError: the pair has no scores, scores that the template would not parse, or that contradict its
            label.
    """
    label = Verdict(_position(pair, order))
    if (text := form.target(label)) is not None:
        return text
    if pair.scores is None:
        raise DataError(
            f"{source}: the pair '{pair.id}' has no scores; training with the template {form.name} needs "
            "'scores', two numbers for a and for b, or the template verdict, which needs the label alone"
        )
    first, second = pair.scores if order == "ab" else reversed(pair.scores)
    text = form.target(Verdict.of_scores(first, second)) or ""
    try:
        said = form.parse(text)
    except JudgeParseError as error:
        raise DataError(
            f"{source}: the scores {text} of the pair '{pair.id}' cannot be learnt: {error}"
        ) from None
    if not isinstance(said, Verdict) or said.preferred != label.preferred:
        raise DataError(
            f"{source}: the pair '{pair.id}' has the scores {list(pair.scores)}, but 'better' is "
            f"'{pair.better}'; they must agree"
        )
    return text


def _position(pair: Pair, order: str) -> Choice:
    """Return the place of the better answer."""
    if pair.better == "tie":
        return "tie"
    return "first" if SHOWN[order][0] == pair.better else "second"
