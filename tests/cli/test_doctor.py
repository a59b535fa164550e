import copy

import pytest

from smidgen import backend
from smidgen.cli.doctor import examine, problems, show

FACTS = {
    "device": {"kind": "cpu", "name": "a cpu", "memory_bytes": 8e9},
    "cpu": {"name": "a cpu", "cores": 2},
    "memory": {"total_bytes": 8e9, "available_bytes": 4e9},
    "blas": {
        "name": "OpenBLAS",
        "path": None,
        "threads": 2,
        "fast": True,
        "gflops": 150.0,
        "numpy_gflops": 160.0,
    },
    "disk": {"folder": ".", "free_bytes": 50e9},
    "cache": {"folder": "/c/gguf", "files": 1, "bytes": 3e9, "bound_bytes": 20e9},
    "imported": {"folder": "/c/imported", "models": 2, "bytes": 1e9},
    "engines": [{"text": "mlx for a model, 16 rows"}],
    "versions": {"smidgen": "0.1.0", "mlx": "0.32.4"},
    "problems": [],
}


def changed(room: str, **values: object) -> dict:
    facts = copy.deepcopy(FACTS)
    facts[room] |= values
    return facts


def test_a_sound_machine_has_no_problem():
    assert problems(FACTS) == []


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        (
            changed("blas", gflops=20.0),
            "MLX multiplies at 20 GFLOP/s and numpy at 160; close other programs",
        ),
        (changed("versions", mlx=None), "not installed: mlx; install with `pip install mlx`"),
        (changed("disk", free_bytes=1e9), "only 1.0 GB of disk space free in"),
    ],
)
def test_a_problem_says_what_mends_it(facts: dict, problem: str):
    (found,) = problems(facts)
    assert found.startswith(problem)


def test_a_slow_library_is_reported_once_with_its_own_remedy():
    assert problems(changed("blas", gflops=1.4), "no OpenBLAS; mend it") == ["no OpenBLAS; mend it"]


def test_this_machine_can_be_examined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "measure_gflops", lambda **_: backend.Gflops(150.0, 160.0))
    facts = examine()
    assert set(facts) == set(FACTS)
    assert facts["memory"]["total_bytes"] >= facts["memory"]["available_bytes"] > 0


def test_facts_go_to_stdout_and_problems_to_stderr(capsys: pytest.CaptureFixture[str]):
    show(FACTS | {"problems": ["something is missing"]})
    out, err = capsys.readouterr()
    assert "150 GFLOP/s; numpy on the same product 160" in out
    shown = " ".join(out.split())
    assert "1 converted model, 3.0 GB of at most 20.0 GB in /c/gguf" in shown
    assert "2 models of GGUF files, 1.0 GB in /c/imported; it may be deleted at any time" in shown
    assert "engine auto mlx for a model, 16 rows" in shown
    assert err == "problem: something is missing\n"
    show(FACTS | {"engines": []})
    assert "engine auto no model measured yet" in " ".join(capsys.readouterr().out.split())
