import pytest

from smidgen.evaluation.curve_reading import read_curve

STEPS = range(1, 101)
FALLING = [(float(step), 1.0 / step) for step in STEPS]
RISING = [(float(step), 0.5 + step / 100) for step in STEPS]


def validations(*losses: float) -> list[tuple[float, float]]:
    return [(10.0 * number, loss) for number, loss in enumerate(losses, start=1)]


@pytest.mark.parametrize(
    ("training", "losses", "chosen", "said"),
    [
        (
            FALLING,
            (1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
            60,
            "was still falling at the end, by 29% over the last third",
        ),
        (FALLING, (1.0, 0.5, 0.401, 0.4, 0.4, 0.399), 60, "has levelled off: further training of this kind"),
        (FALLING, (1.0, 0.5, 0.4, 0.401, 0.403), 30, "has levelled off"),
        (
            FALLING,
            (1.0, 0.5, 0.4, 0.5, 0.6),
            30,
            "rises after step 30 while the training loss falls: it overfits",
        ),
        (RISING, (1.0, 0.5, 0.4, 0.5, 0.6), 30, "Both losses rise after step 30: the training is unstable"),
        (FALLING, (1.0, 0.5), 20, "too few validations to see a trend; lower train.validate_every"),
    ],
)
def test_every_shape_has_its_sentence(training, losses, chosen, said):
    assert said in read_curve(training, validations(*losses), chosen_step=chosen)


def test_the_gap_is_that_to_the_smoothed_training_loss():
    flat = [(float(step), 0.25 + (0.1 if step % 2 else -0.1)) for step in STEPS]
    said = read_curve(flat, validations(*[0.5] * 10), chosen_step=50.0)
    assert said.startswith("At the kept step 50 the validation loss is 0.5, 0.27 above the training loss.")
    below = read_curve(flat, validations(*[0.05] * 10), chosen_step=50.0)
    assert "0.18 below the training loss" in below


def test_patience_is_told():
    said = read_curve(FALLING, validations(1.0, 0.5, 0.6), chosen_step=20.0, planned_steps=400.0)
    assert said.endswith("Patience stopped it at step 100 of 400.")
    assert "Patience" not in read_curve(
        FALLING, validations(1.0, 0.5, 0.6), chosen_step=20.0, planned_steps=100
    )


def test_nothing_is_read_from_nothing():
    assert read_curve(FALLING, [], chosen_step=None) == read_curve([], validations(1.0), chosen_step=10) == ""


def test_a_step_that_the_metric_chose_is_said_with_the_lower_loss_of_another():
    training = [(float(step), 2.0) for step in range(1, 13)]
    said = read_curve(training, [(3.0, 8.0), (6.0, 7.0), (9.0, 6.0), (12.0, 5.0)], chosen_step=3.0)
    assert "The metric chose it; the validation loss is lowest at step 12, 5." in said
