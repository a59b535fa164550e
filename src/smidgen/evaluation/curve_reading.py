"""What the curves of a training say in a sentence: train longer, it has levelled off, or it overfits."""

from smidgen.figures.step_axes import Points, running_mean, window_of

FEWEST = 3
"""Validations from which a trend is told."""
FALLING = 0.02
"""Share by which the validation loss falls over the last third if it is still falling."""
RISING = 0.01
"""Share above its lowest value from which the validation loss has risen; less is noise."""


def read_curve(
    training: Points, validation: Points, *, chosen_step: float | None, planned_steps: float | None = None
) -> str:
    """Return what the losses say about the length of the training; empty without a validation.

    Args:
        training: (step, loss) of every step.
        validation: (step, loss) in order.
        chosen_step: the step whose weights are kept.
        planned_steps: steps of the whole training, if it may have stopped before.
    """
    if not validation or not training:
        return ""
    smooth = dict(running_mean(training, window_of(len(training))))
    kept = dict(validation).get(chosen_step) if chosen_step is not None else None
    sentences = []
    if chosen_step is not None and kept is not None and chosen_step in smooth:
        gap = kept - smooth[chosen_step]
        sentences.append(
            f"At the kept step {chosen_step:,.0f} the validation loss is {kept:.3g}, {abs(gap):.2g} "
            f"{'above' if gap >= 0 else 'below'} the training loss."
        )
    lowest_step, lowest = min(validation, key=lambda point: (point[1], point[0]))
    if kept is not None and kept > lowest * (1 + RISING):
        sentences.append(
            f"The metric chose it; the validation loss is lowest at step {lowest_step:,.0f}, {lowest:.3g}."
        )
    stopped = planned_steps is not None and training[-1][0] < planned_steps
    end = f" Patience stopped it at step {training[-1][0]:,.0f} of {planned_steps:,.0f}." if stopped else ""
    return " ".join([*sentences, _trend(smooth, validation) + end])


def _trend(smooth: dict[float, float], validation: Points) -> str:
    """Say whether the validation loss still falls, has levelled off, or rises."""
    if len(validation) < FEWEST:
        return "There are too few validations to see a trend; lower train.validate_every."
    best_step, best = min(validation, key=lambda point: (point[1], point[0]))
    last_step, last = validation[-1]
    if last > best * (1 + RISING):
        learns = smooth.get(last_step, 0.0) < smooth.get(best_step, 0.0)
        if learns:
            return (
                f"The validation loss rises after step {best_step:,.0f} while the training loss falls: it "
                "overfits, and more data or fewer steps would help more than further training."
            )
        return (
            f"Both losses rise after step {best_step:,.0f}: the training is unstable; lower "
            "train.learning_rate."
        )
    start = validation[0][0]
    then = [loss for step, loss in validation if step <= start + (last_step - start) * 2 / 3][-1]
    if then > last * (1 + FALLING):
        fall = 1 - last / then
        return (
            f"The validation loss was still falling at the end, by {fall:.0%} over the last third: train "
            "longer."
        )
    return "The validation loss has levelled off: further training of this kind would gain little."
