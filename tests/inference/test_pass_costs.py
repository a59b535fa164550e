import json

import numpy as np
import pytest

from smidgen.inference import pass_costs as module
from smidgen.inference.decoder import Decoder
from smidgen.inference.forward import forward_of
from smidgen.inference.pass_costs import PassCosts, measure, pass_costs


def test_times_between_and_beyond_the_measured_widths():
    costs = PassCosts({1: 1.0, 2: 3.0, 4: 2.0, 8: 4.0})
    # what is wider and took less bounds the time of what is narrower
    assert costs(np.array([1, 2, 3, 4, 6, 8, 16])) == pytest.approx([1, 2, 2, 2, 3, 4, 8])
    assert costs.of(6) == 3


def test_a_measurement_leaves_the_decoder_as_it_was(loaded):
    decoder = Decoder(forward_of(loaded.model))
    found = measure(decoder, 20, (1, 4))
    assert found.keys() == {1, 4} and min(found.values()) > 0
    assert decoder.num_rows == 0


def test_times_are_kept_unless_the_machine_is_busy(loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path)
    calls = []
    monkeypatch.setattr(module, "measure", lambda *args: calls.append(args) or {1: 1.0, 2: 1.5})
    forward, load = forward_of(loaded.model), [99.0]
    monkeypatch.setattr(module.os, "getloadavg", lambda: (load[0], 0, 0))
    assert pass_costs(forward, {"a": 1}).of(2) == 1.5
    assert not list(tmp_path.rglob("*.json"))
    load[0] = 0.0
    for _ in range(3):
        assert pass_costs(forward, {"a": 1}).of(2) == 1.5
    assert len(calls) == 2
    (file,) = tmp_path.rglob("*.json")
    for damaged in ("", "{}", json.dumps({"seconds": {"1": 1}}), json.dumps({"seconds": {"x": 1, "2": 2}})):
        file.write_text(damaged)
        assert pass_costs(forward, {"a": 1}).of(1) == 1.0
    assert len(calls) == 6
    pass_costs(forward, {"a": 2})
    assert len(calls) == 7
