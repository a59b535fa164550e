"""Several judges as one from Python: on a pair, on a file, and as they were calibrated."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tools.judge_recordings import judge_of, letter, pair_rows, record, write_rows

from smidgen import EngineOptions, Judge, JudgeOptions, SamplingOptions
from smidgen.config import Prices
from smidgen.data.types import Sampling
from smidgen.errors import ConfigError, DataError
from smidgen.judge import Ensemble, load_ensemble
from smidgen.pipeline.ensemble_plan import EnsemblePlan, share_of_rows
from smidgen.pipeline.ensembles import evaluate_ensemble
from smidgen.pipeline.events import result_of
from smidgen.pipeline.sources import EvaluationRows
from smidgen.tasks import find_task
from smidgen.tasks.judge.combination import Combination

PAIRS = pair_rows(90)
VERDICT = JudgeOptions(template="verdict")


def said_of_one(path: Path, *letters: str) -> EngineOptions:
    """A judge of one pair: what it says with A first, then with B first."""
    rows = [
        {"id": f"0#{order}#0", "text": f"[[{x}]]"} for order, x in zip(("ab", "ba"), letters, strict=True)
    ]
    return EngineOptions(write_rows(path, rows))


def test_a_pair_is_put_to_every_judge(tmp_path: Path):
    judges = [said_of_one(tmp_path / f"{said}.jsonl", *said) for said in ("AB", "AA", "BB")]
    with Ensemble(judges, VERDICT) as ensemble:
        found = ensemble.compare("q", "x", "y")
    assert (found.verdict, found.leaning, found.consistent) == ("a", "a", False)
    assert (found.confidence, found.judgements, found.unparsed) == (2 / 6, 6, 0)
    assert [[said.verdict for said in judge] for judge in found.said] == [["a", "a"], ["a", "b"], ["b", "a"]]
    with Ensemble(judges, VERDICT, combination=Combination(threshold=0.5)) as careful:
        found = careful.compare("q", "x", "y")
    assert (found.verdict, found.leaning) == ("unsure", "a")
    with pytest.raises(ConfigError, match="the ensemble has no judge"):
        Ensemble([])


def test_one_judge_is_that_judge_on_a_file(tmp_path: Path):
    engine = EngineOptions(record(tmp_path / "said.jsonl", PAIRS, judge_of(0.8)))
    with Judge(engine, VERDICT) as judge:
        plain = judge.judge_rows(PAIRS, tmp_path / "plain.jsonl").verdicts()
    with Ensemble([engine], VERDICT) as ensemble:
        found = ensemble.judge_rows(PAIRS, tmp_path / "one.jsonl").verdicts()
    same = ("id", "verdict", "consistent", "judgements", "unparsed")
    assert [[getattr(pair, name) for name in same] for pair in found] == [
        [getattr(pair, name) for name in same] for pair in plain
    ]
    plain_rows, rows = (
        [json.loads(line) | {"elapsed": 0} for line in (tmp_path / name).read_text().splitlines()]
        for name in ("plain.jsonl", "one.jsonl")
    )
    assert rows == plain_rows


def test_a_file_is_judged_by_one_after_the_other_and_goes_on(tmp_path: Path):
    judges = [
        EngineOptions(record(tmp_path / f"said-{n}.jsonl", PAIRS, judge_of(0.8, n), 2)) for n in range(3)
    ]
    settings = (judges, JudgeOptions(template="verdict", samples=2), SamplingOptions(temperature=0.7))
    with Ensemble(*settings) as ensemble:
        whole = ensemble.judge_rows(PAIRS, tmp_path / "whole.jsonl")
        assert (whole.total, whole.known, whole.labelled) == (90 * 2 * 2 * 3, 0, True)
        verdicts = whole.verdicts()
    assert len(whole.records) == whole.total and whole.speed().prompt_tokens is None
    first, second = (tmp_path / f"whole.judge-{number}.jsonl" for number in (1, 2))
    assert first.read_text().count("\n") == 360 and not (tmp_path / "whole.jsonl").exists()
    for file in (first, second):
        file.with_name(file.name.replace("whole", "part")).write_bytes(file.read_bytes())
    part = tmp_path / "part.judge-2.jsonl"
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with Ensemble(*settings) as ensemble:
        again = ensemble.judge_rows(PAIRS, tmp_path / "part.jsonl")
        assert 360 < again.known < 720
        assert again.verdicts() == verdicts
    assert (tmp_path / "part.pairs.jsonl").read_bytes() == (tmp_path / "whole.pairs.jsonl").read_bytes()
    row = json.loads((tmp_path / "whole.pairs.jsonl").read_text().splitlines()[0])
    assert row["id"] == "p0" and row["judgements"] == 12 and {"leaning", "confidence"} <= row.keys()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A calibrated ensemble of two judges that keeps a risk of 15 %."""
    return save(tmp_path, risk=0.15)


def save(tmp_path: Path, **settings: Any) -> Path:
    judges = [
        EngineOptions(record(tmp_path / f"said-{n}.jsonl", PAIRS, judge_of(0.9, n, steady=0.8)))
        for n in range(2)
    ]
    read = EvaluationRows.read(
        find_task("judge", {"template": "verdict"}), write_rows(tmp_path / "pairs.jsonl", PAIRS)
    )
    rows, used = share_of_rows(read, 0.8, seed=0)
    plan = EnsemblePlan(judges, **{"combine": "mean", **settings})
    result_of(evaluate_ensemble(rows, used, plan, Sampling(), tmp_path / "out", prices=Prices()))
    return tmp_path / "out/ensemble.json"


def changed(path: Path, **values: Any) -> Path:
    content = json.loads(path.read_text())
    for name, value in values.items():
        first, _, second = name.partition("__")
        if second:
            content[first][second] = value
        else:
            content[first] = value
    path.write_text(json.dumps(content))
    return path


def test_a_saved_ensemble_judges_as_it_was_evaluated(saved: Path, tmp_path: Path):
    result = json.loads((saved.parent / "evaluation.json").read_text())
    ids = {
        json.loads(line)["metadata"]["pair"]
        for line in (saved.parent / "judge-1/records.jsonl").read_text().splitlines()
    }
    with load_ensemble(saved) as ensemble:
        rows = [row for row in PAIRS if row["id"] in ids]
        verdicts = ensemble.judge_rows(rows, tmp_path / "verdicts.jsonl").verdicts()
    answered = [pair for pair in verdicts if pair.verdict != "unsure"]
    labels = {row["id"]: row["better"] for row in PAIRS}
    wrong = sum(pair.verdict != labels[pair.id] for pair in answered)
    assert len(answered) / len(verdicts) == pytest.approx(result["metrics"]["coverage"]["value"])
    assert wrong / len(answered) == pytest.approx(result["metrics"]["risk"]["value"])
    assert 0 < len(answered) < len(verdicts)


def test_swapped_answers_get_swapped_verdicts(saved: Path, tmp_path: Path):
    """The same judges, asked about the same pairs with the answers exchanged."""
    other = {"a": "b", "b": "a", "tie": "tie", "unsure": "unsure", None: None}
    ensemble = load_ensemble(saved)
    with ensemble:
        plain = ensemble.judge_rows(PAIRS, tmp_path / "plain.jsonl").verdicts()
    exchanged = []
    for number in range(2):
        said = judge_of(0.9, number, steady=0.8)

        def exchange(row: dict[str, Any], order: str, time: int, said: Any = said) -> str:
            return said(row, order[::-1], time)  # ba of the exchanged pair shows what ab of the pair shows

        exchanged.append(EngineOptions(record(tmp_path / f"swapped-{number}.jsonl", PAIRS, exchange)))
    rows = [{**row, "a": row["b"], "b": row["a"], "better": other[row["better"]]} for row in PAIRS]
    with Ensemble(exchanged, VERDICT, combination=ensemble.combination) as swapped:
        found = swapped.judge_rows(rows, tmp_path / "swapped.jsonl").verdicts()
    assert [other[pair.verdict] for pair in found] == [pair.verdict for pair in plain]
    assert [pair.confidence for pair in found] == [pair.confidence for pair in plain]


def test_another_judge_is_refused(saved: Path, tmp_path: Path):
    recording = tmp_path / "said-1.jsonl"
    text = recording.read_text()
    recording.write_text(text.replace("[[A]]", "[[B]]", 1))
    with pytest.raises(ConfigError, match=r"judge 2 of .*ensemble.json, .*said-1.jsonl, has other weights"):
        load_ensemble(saved)
    recording.write_text(text)
    load_ensemble(saved).close()


def test_another_template_or_version_is_refused(saved: Path):
    content = saved.read_text()
    with pytest.raises(ConfigError, match=r"the template verdict is not the one that"):
        load_ensemble(changed(saved, asking__template_sha256="0"))
    saved.write_text(content)
    with pytest.raises(ConfigError, match="with version 1 of the task judge, and this is version"):
        load_ensemble(changed(saved, asking__task_version=1))


def test_what_cannot_judge_single_pairs_is_refused(saved: Path, tmp_path: Path):
    content = saved.read_text()
    with pytest.raises(ConfigError, match="was calibrated with --method logits"):
        load_ensemble(changed(saved, asking__method="logits"))
    saved.write_text(content)
    with pytest.raises(ConfigError, match=r"keeps the risk of 0\.15, so it would answer nothing"):
        load_ensemble(changed(saved, abstention__threshold=None))


def test_files_that_are_no_ensembles(saved: Path, tmp_path: Path):
    with pytest.raises(DataError, match="there is no ensemble at"):
        load_ensemble(tmp_path / "missing.json")
    content = saved.read_text()
    with pytest.raises(
        DataError, match=r"is not an ensemble \('combine' Input should be 'majority' or 'mean'\)"
    ):
        load_ensemble(changed(saved, combine="median"))
    saved.write_text(content)
    with pytest.raises(DataError, match="has mean with other weights than its judges"):
        load_ensemble(changed(saved, weights=[1.0]))
    saved.write_text("{")
    for wrong, fault in [
        ({"asking__samples": 0}, "'asking' 'samples' Input should be greater than or equal to 1"),
        ({"asking__method": "guess"}, "'asking' 'method' String should match pattern"),
        ({"asking__settings": {"reference": "perhaps"}}, "'asking' 'settings' 'reference' Input should be a"),
        ({"asking__settings": {"refer": True}}, "'asking' 'settings' 'refer' Extra inputs"),
    ]:
        saved.write_text(content)
        with pytest.raises(DataError, match=rf"is not an ensemble \({fault}"):
            load_ensemble(changed(saved, **wrong))
    saved.write_text(content)
    judges = [{**judge, "engine": "fast"} for judge in json.loads(content)["judges"]]
    with pytest.raises(ConfigError, match="there is no engine 'fast'; expected one of auto"):
        load_ensemble(changed(saved, judges=judges))
    saved.write_text("{")
    with pytest.raises(DataError, match=r"is not an ensemble \(Invalid JSON"):
        load_ensemble(saved)


def test_judges_of_other_pairs_cannot_be_combined(tmp_path: Path):
    from smidgen.data.types import Completion, Record, Score
    from smidgen.tasks.judge.ballots import gather
    from smidgen.tasks.judge.judgements import read_judgements

    task = find_task("judge", {"template": "verdict"})
    records = [
        Record(sample, Completion(letter(PAIRS[0], "ab", "a")), Score(1.0, "first", True))
        for sample in task.samples(PAIRS[:2])
    ]
    judgements = read_judgements(records, task.form)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="only one of judge 1 and judge 2 judged the pair 'p1'"):
        gather([judgements, judgements[:2]])
