"""What judgements cost here and elsewhere."""

from typing import Any

import pytest

from smidgen.config import ApiPrice, Prices, read_prices
from smidgen.errors import ConfigError
from smidgen.evaluation.cost import cost_table

PRICES = Prices(
    machine_per_hour=0.36,
    api=(
        ApiPrice(name="dear", input_per_million=10.0, output_per_million=100.0),
        ApiPrice(name="free", input_per_million=0.0, output_per_million=0.0),
    ),
)


def evaluation(**speed: Any) -> dict[str, Any]:
    known = {"prompt_tokens": 20_000, "completion_tokens": 5_000, "seconds": 10.0, "peak_memory_bytes": 7}
    return {"n": 100, "speed": known | speed}


def test_time_costs_here_and_tokens_cost_elsewhere():
    table = cost_table(
        {"after": evaluation(), "logits": evaluation(completion_tokens=0, seconds=1.0)}, PRICES
    )
    assert table is not None
    after, logits = table["ways"]["after"], table["ways"]["logits"]
    assert (after["prompt_tokens"], after["completion_tokens"]) == (200, 50)
    assert after["seconds_per_1000"] == pytest.approx(100)
    assert after["money_per_1000"] == pytest.approx(100 / 3600 * 0.36)
    assert logits["money_per_1000"] == pytest.approx(after["money_per_1000"] / 10)
    assert table["apis"][0] == {
        "name": "dear",
        "money_per_1000": pytest.approx(1000 * (200 * 10 + 50 * 100) / 1e6),
        "cheaper_here_after": 0,
    }


def test_the_model_has_to_win_back_what_its_training_took():
    table = cost_table({"after": evaluation()}, PRICES, training_seconds=36_000)
    assert table is not None
    assert table["making"]["money"] == pytest.approx(3.6)
    dear, free = table["apis"]
    assert dear["cheaper_here_after"] == 516  # 3.6 / (0.007 - 0.00001 · 2), rounded up
    assert free["cheaper_here_after"] is None


def test_a_recording_has_no_cost():
    assert cost_table({"after": evaluation(prompt_tokens=None, completion_tokens=None)}, PRICES) is None


def test_prices_are_read_from_a_file(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(
        'currency = "EUR"\nmachine_per_hour = 1.5\n'
        '[[api]]\nname = "x"\ninput_per_million = 1.0\noutput_per_million = 2.0\n'
    )
    prices = read_prices(path)
    assert (prices.currency, prices.machine_per_hour, prices.api[0].name) == ("EUR", 1.5, "x")
    assert read_prices(None) == Prices()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("machines = 1.0", r"prices\.toml: unknown key 'machines'.*Known: currency, machine_per_hour, api"),
        ("machine_per_hour = -1.0", "'machine_per_hour' is -1.0: input should be greater than or equal to 0"),
        ("[[api]]\nname = 'x'\ninput_per_million = 1.0", "'api.0.output_per_million' is missing"),
        (
            "[[api]]\nname = 'x'\ninput_per_million = 1.0\noutput_per_million = 1.0\ncache = 1.0",
            "unknown key 'api.0.cache'.* Known: name, input_per_million, output_per_million",
        ),
        ("currency =", "is not a readable TOML file"),
    ],
)
def test_a_wrong_file_of_prices_is_refused(tmp_path, text: str, match: str):
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_prices(path)


def test_a_missing_file_of_prices_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no price file at .*none\.toml; see docs"):
        read_prices(tmp_path / "none.toml")
