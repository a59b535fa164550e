"""The process that compares expressions: ended when it takes too long, and started again."""

from threading import Thread

import pytest

from smidgen.errors import WorkError
from smidgen.tasks import math_verifier
from smidgen.tasks.math_verifier import Verifier
from smidgen.tasks.math_worker import compare


@pytest.mark.slow
def test_what_takes_too_long_is_different_and_what_follows_is_compared():
    verifier = Verifier(seconds=1.0)
    try:
        for endless in ("9^{9^{9^9}}", "100000000!"):
            assert not verifier.compare("7", endless)
        assert verifier._process is None
        verifier._seconds = 60.0  # a busy machine may be slow
        assert verifier.compare("4", r"\sqrt{16}")
    finally:
        verifier.close()


def test_threads_share_it():
    verifier, found = Verifier(seconds=60.0), {}

    def ask(number: int) -> None:
        found[number] = (
            verifier.compare(str(number), rf"\sqrt{{{number**2}}} + 0"),
            verifier.compare("1", "x=2"),
        )

    threads = [Thread(target=ask, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verifier.close()
    verifier.close()
    assert found == dict.fromkeys(range(1, 5), (True, False))


def test_a_worker_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "worker.py").write_text("")
    monkeypatch.setattr(math_verifier, "_WORKER", tmp_path / "worker.py")
    with pytest.raises(WorkError, match="math-verify does not start; try `python -c 'import math_verify'`"):
        Verifier().compare("1", "2")


def test_any_failure_of_the_library_means_no():
    assert compare("2", r"\frac{4}{2}")
    assert not any(compare("2", said) for said in ("", r"\frac{", r"\left(", "}{"))
