"""The report: honest sentences, every number, no script, no request, the same bytes for the same evidence."""

import copy
import io
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from smidgen.evaluation import wording
from smidgen.evaluation.report import build_report, console_table
from smidgen.figures import formatting

VOID = {"meta", "br", "hr", "img", "input", "link"}
THIN = "\N{NARROW NO-BREAK SPACE}"
HOSTILE = "</pre><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


def metric(value: float | None, low: float | None = None, high: float | None = None, n: int = 240) -> dict:
    return {"value": value, "low": low, "high": high, "n": n}


def evaluation(**metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "judge",
        "model": "smidgen:nano",
        "data": "world",
        "n": 480,
        "metrics": metrics,
        "baselines": {"longer": metric(0.613, 0.549, 0.672), "first": metric(0.5, 0.5, 0.5)},
        "subsets": {
            "sums": {"accuracy": metric(0.777, 0.7, 0.84)},
            "facts": {"accuracy": metric(0.951, 0.9, 0.98)},
        },
        "speed": {
            "tokens_per_second": 812.4,
            "latency_p50": 0.412,
            "latency_p95": 1.25,
            "peak_memory_bytes": 412_000_000,
        },
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """A judge that learnt its job, as `smidgen run` would record it."""
    verdict = {"text": "<scores>\\boxed{9, 2}</scores>", "answer": "first", "right": True}
    return {
        "name": "nano-judge",
        "description": "A judge made from the bundled model.",
        "task": "judge",
        "created": "2026-11-21T14:03:22+00:00",
        "command": "smidgen run recipes/nano-judge.toml",
        "machine": {"device": "cpu", "cpu": "EPYC", "cores": 2, "memory_bytes": 25_300_000_000},
        "provenance": {
            "versions": {"mlx": "0.32.4"},
            "git_revision": "3f1c9ab",
            "seeds": {"data": 0, "train": 7},
            "data": {"train": {"path": "world", "sha256": "b1946ac9", "rows": 2000}},
            "model": {"name": "smidgen:nano", "sha256": "a948904f", "license": "Apache-2.0"},
        },
        "model": {
            "base": "smidgen:nano",
            "parameters": 2_412_000,
            "trained_parameters": 431_000,
            "method": "LoRA r16",
        },
        "data": {
            "train_rows": 2000,
            "train_tokens": 510_000,
            "trained_tokens": 212_000,
            "cut_rows": 3,
            "test_rows": 240,
        },
        "training": {
            "steps": 200,
            "epochs": 2.0,
            "chosen_step": 150,
            "seconds": 734.2,
            "tokens_per_second": 3146.0,
            "curve": [{"step": i, "loss": 2.6 * math.exp(-i / 40) + 0.1} for i in range(1, 201)],
            "validation": [{"step": i, "loss": 2.5 * math.exp(-i / 40) + 0.12} for i in (50, 100, 150, 200)],
        },
        "before": evaluation(
            accuracy=metric(0.0, 0.0, 0.016),
            accuracy_both_orders=metric(0.0, 0.0, 0.016),
            consistency=metric(0.0, 0.0, 0.016),
            prefer_first_rate=metric(None, n=0),
            unparsed_rate=metric(1.0, 0.992, 1.0),
        ),
        "after": evaluation(
            accuracy=metric(0.9125, 0.881, 0.94, 480),
            accuracy_both_orders=metric(0.867, 0.818, 0.904),
            consistency=metric(0.908, 0.865, 0.939),
            prefer_first_rate=metric(0.523, 0.497, 0.549, 478),
            tie_rate=metric(0.0125, 0.0057, 0.027, 480),
            unparsed_rate=metric(0.0042, 0.0011, 0.0151, 480),
        ),
        "quantized": evaluation(
            accuracy=metric(0.898, 0.864, 0.928, 480),
            accuracy_both_orders=metric(0.85, 0.799, 0.89),
            consistency=metric(0.892, 0.846, 0.925),
            prefer_first_rate=metric(0.546, 0.518, 0.574, 476),
            tie_rate=metric(0.0125, 0.0057, 0.027, 480),
            unparsed_rate=metric(0.0083, 0.0032, 0.0212, 480),
        ),
        "comparisons": {
            "after_vs_before": {
                "n": 240, "only_first": 219, "only_second": 0, "p_value": 1e-60,
                "difference": metric(0.9125, 0.881, 0.94),
            },
            "quantized_vs_after": {
                "n": 240, "only_first": 7, "only_second": 14, "p_value": 0.189,
                "difference": metric(-0.0146, -0.035, 0.004),
            },
        },
        "quantize": {"summary": "4 bits", "bits_per_weight": 5.02},
        "sizes": {"before": 9_500_000, "after": 9_650_000, "quantized": 1_560_000},
        "examples": [
            {
                "id": "world-1", "prompt": "What is 17 + 26?", "a": "43", "b": "44", "better": "a",
                "before": {"text": HOSTILE, "answer": None, "right": False},
                "after": verdict,
                "quantized": {"text": "<scores>\\boxed{1, 2}</scores>", "answer": "second", "right": False},
            }
        ],
        "stages": [{"name": "train", "seconds": 734.2}, {"name": "quantize", "seconds": 0.8}],
        "recipe": 'name = "nano-judge"\n',
        "limits": ["The pairs come from a small generated world."],
    }  # fmt: skip


class Page(HTMLParser):
    """Reads a page and fails on what is not well-formed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))


def with_accuracy(
    report: dict[str, Any], value: float, low: float, high: float, unparsed: float = 0.0
) -> dict[str, Any]:
    changed = copy.deepcopy(report)
    changed["after"]["metrics"] |= {
        "accuracy": metric(value, low, high),
        "unparsed_rate": metric(unparsed, 0.0, 1.0),
    }
    return changed


def intents(report: dict[str, Any]) -> dict[str, Any]:
    changed = {key: report[key] for key in ("name", "training", "model")} | {"task": "intent"}
    for stage in ("before", "after"):
        changed[stage] = evaluation(
            accuracy=metric(0.823, 0.809, 0.836, 3100),
            in_scope_accuracy=metric(0.846, 0.832, 0.858, 3000),
            macro_f1=metric(0.851, 0.84, 0.863, 3000),
            oos_recall=metric(0.13, 0.078, 0.21, 100),
            unparsed_rate=metric(0.0, 0.0, 0.001, 3100),
        ) | {"n": 3100, "baselines": {"most_frequent": metric(0.032, 0.027, 0.039)}}
    confusions = [
        {"true": "fly", "predicted": "walk", "count": 9},
        {"true": "fly", "predicted": None, "count": 3},
    ]
    changed["after"]["details"] = {"confusions": confusions}
    return changed


def test_page_is_well_formed_and_asks_for_nothing(report: dict[str, Any]) -> None:
    html = build_report(report)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        assert not {"src", "href", "action", "data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in html and "url(" not in html
    policy = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_text_of_a_model_stays_text(report: dict[str, Any]) -> None:
    report["name"] = report["recipe"] = report["examples"][0]["prompt"] = HOSTILE
    report["after"]["metrics"][HOSTILE] = metric(0.5, 0.4, 0.6)
    report["after"]["subsets"][HOSTILE] = {"accuracy": metric(0.5, 0.4, 0.6)}
    report["stages"][0]["name"] = HOSTILE
    html = build_report(report)
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "alert('x')" in Page(html).text


def test_same_report_same_bytes(report: dict[str, Any]) -> None:
    assert build_report(report) == build_report(json.loads(json.dumps(report)))


def test_every_metric_stands_with_its_interval(report: dict[str, Any]) -> None:
    text = Page(build_report(report)).text
    for stage in ("before", "after", "quantized"):
        for numbers in (*report[stage]["metrics"].values(), *report[stage]["baselines"].values()):
            assert formatting.percent(numbers["value"]) in text
            if numbers["value"] is not None:
                assert formatting.interval(numbers) in text
    for words in (
        "Accuracy",
        "Right in both orders",
        "Swap consistency",
        "Prefers the first",
        "Unreadable",
        "Ties",
    ):
        assert words in text


def test_everything_else_is_there(report: dict[str, Any]) -> None:
    text = Page(build_report(report)).text
    for shown in (
        "21 November 2026, 14:03 UTC", "LoRA r16", "2.41 M parameters", "431 k trained", "2,000 rows",
        "212,000 of 510,000 tokens", "12 min 14 s", "9.65 MB → 1.56 MB", "+91.2\N{NO-BREAK SPACE}points",
        "+88.1 to +94.0", "p < 0.001", "p = 0.19", "Trained better: 219", "Quantised better: 7",
        "step 150", "3,146 tokens/s", "412 ms", "1.2 s", "412 MB", "mlx", "0.32.4", "3f1c9ab", "seeds",
        "always the longer answer", "b1946ac9", "a948904f", "Apache-2.0",
        "smidgen run recipes/nano-judge.toml", 'name = "nano-judge"',
        "The pairs come from a small generated world.", "sums", "77.7", "always the second",
    ):  # fmt: skip
        assert shown.lower() in text.lower(), shown


def test_samples_are_marked(report: dict[str, Any]) -> None:
    page = Page(build_report(report))
    marks = [
        a["class"]
        for t, a in page.tags
        if t == "b" and str(a.get("class", "")).startswith("mark") and "title" in a
    ]
    assert marks == ["mark unreadable", "mark right", "mark wrong"] * 2
    assert "Answer A · better" in page.text
    report["examples"][0]["order"] = "ba"
    assert "B ✓" in Page(build_report(report)).text.replace("\n", " ")


def test_headline_of_a_judge_that_works(report: dict[str, Any]) -> None:
    assert wording.headline(report) == (
        f"The trained judge picks the better answer in 91.2{THIN}% of judgements (95{THIN}% interval "
        f"88.1–94.0{THIN}%) on 240 held-out pairs asked in both orders; the base model: 0.0{THIN}%, with "
        f"100.0{THIN}% of its answers unreadable."
    )


def test_headline_of_a_judge_that_may_be_guessing(report: dict[str, Any]) -> None:
    guessing = wording.headline(with_accuracy(report, 0.513, 0.462, 0.563))
    assert guessing.startswith(
        "The trained judge is not distinguishable from guessing: on 240 held-out pairs"
    )
    assert f"the 95{THIN}% interval, 46.2–56.3{THIN}%, contains 50{THIN}%" in guessing
    assert "guessing" not in wording.headline(with_accuracy(report, 0.55, 0.501, 0.6))
    worse = wording.headline(with_accuracy(report, 0.40, 0.35, 0.45))
    assert "is worse than guessing" in worse and "lies below" in worse


def test_headline_of_a_judge_that_cannot_be_read(report: dict[str, Any]) -> None:
    unread = wording.headline(with_accuracy(report, 0.013, 0.002, 0.03, unparsed=0.975))
    assert unread.startswith("The trained judge does not follow the answer format: 97.5")
    assert f"1.3{THIN}% of judgements (0.2–3.0{THIN}%)" in unread


def test_an_evaluation_without_training(report: dict[str, Any]) -> None:
    found = {"name": "m", "task": "judge", "after": report["after"]}
    found["after"]["metrics"] |= {
        "accuracy": metric(0.237, 0.198, 0.28, 480),
        "unparsed_rate": metric(0.431, 0.374, 0.492, 480),
        "accuracy_decided": metric(0.444, 0.391, 0.502, 225),
    }
    page = build_report(found)
    assert "The judge is worse than guessing: on 240 pairs" in page
    assert "Of its other verdicts, 44.4" in page
    assert "not distinguishable from guessing" in page
    assert (
        "rained" not in page.replace("constrained", "")
        and "held-out" not in page
        and "Weight size" not in page
    )
    found["task"] = "answers"
    assert wording.headline(found).startswith("The model correctly answers 23.7\u202f% of questions")


def test_headline_without_evidence() -> None:
    assert wording.headline({}) == "Nothing was evaluated."
    assert wording.headline({"training": {"steps": 3}}).startswith(
        "Trained for 3 steps; the trained model was not evaluated"
    )


def test_remarks_name_what_is_not_shown(report: dict[str, Any]) -> None:
    good = " ".join(wording.remarks(report))
    assert "+91.2\N{NO-BREAK SPACE}points" in good and "Quantised to 4 bits, it scores 89.8" in good
    assert "difference from the full-precision model is not significant" in good
    assert "not significantly better" not in good and "biased" not in good
    weak = with_accuracy(report, 0.6, 0.55, 0.65, unparsed=0.1)
    weak["comparisons"]["after_vs_before"]["p_value"] = 0.3
    weak["comparisons"]["quantized_vs_after"]["p_value"] = 0.01
    weak["after"]["metrics"]["prefer_first_rate"] = metric(0.3, 0.25, 0.35)
    said = " ".join(wording.remarks(weak))
    assert "training did not change the accuracy significantly (p = 0.30)" in said
    assert (
        f"not significantly better than the baseline “always the longer answer”, which scores 61.3{THIN}%"
        in said
    )
    assert f"is biased towards the answer shown second: 70.0{THIN}%" in said
    assert f"10.0{THIN}% of its answers are unreadable and count as wrong" in said
    assert "quantising cost 1.5 points" in said


def test_intent_report(report: dict[str, Any]) -> None:
    page = Page(build_report(intents(report)))
    for words in ("Macro F1", "Out-of-scope recall", "In-scope accuracy", "fly → walk", "fly → unreadable"):
        assert words in page.text
    assert "names the right intent for 82.3" in page.text and "on 3,100 held-out queries" in page.text
    assert "Position bias" not in page.text and "Length bias" not in page.text


def paths(table: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    if isinstance(table, dict):
        for key, value in table.items():
            found += paths(value, (*path, key))
    return found


@pytest.mark.slow
def test_nothing_missing_is_an_error(report: dict[str, Any]) -> None:
    del report["training"]["curve"][2:]
    for path in paths(report):
        *parents, last = path
        for substitute in (..., None, float("nan")):
            damaged = copy.deepcopy(report)
            table = damaged
            for key in parents:
                table = table[key]
            if substitute is ...:
                del table[last]
            else:
                table[last] = substitute
            assert "nan" not in wording.headline(damaged)
            if len(path) < 4:
                console_table(damaged)
            if len(path) == 1:
                Page(build_report(damaged))
    Page(build_report({}))


def test_console_table_has_every_metric(report: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(console_table(report))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"91.2{THIN}% (88.1–94.0)" in printed
    for shown in (
        "Base",
        "Trained",
        "Quantised",
        "Swap consistency",
        "always the longer answer",
        "1.56 MB",
        "—",
    ):
        assert shown in printed


def test_too_few_rows_for_an_interval(report: dict[str, Any]) -> None:
    report["after"]["metrics"]["accuracy"] = metric(0.5, None, None, 2)  # type: ignore[arg-type]
    assert "too few for an interval" in wording.headline(report)


def test_a_correlation_is_no_rate(report: dict[str, Any]) -> None:
    report["after"]["metrics"]["length_correlation"] = metric(-0.049, -0.066, 0.17, 480)
    page = Page(build_report(report)).text
    assert "-0.05" in page and "-0.07 to 0.17" in page and "−4.9" not in page


def test_the_reliability_of_the_last_model_is_drawn(report: dict[str, Any]) -> None:
    assert "<h2>Calibration</h2>" not in build_report(report)
    bins = [{"low": 0.8, "high": 0.9, "n": 250, "predicted": 0.85, "observed": 0.9}]
    brier = metric(0.103, 0.078, 0.134, 480)
    report["quantized"]["calibration"] = {"n": 480, "ece": 0.017, "brier": brier, "bins": bins}
    page = build_report(report)
    assert "<h2>Calibration</h2>" in page and "85% predicted, 90% observed, n = 250" in page
    assert "0.017" in page and "0.08 to 0.13" in page and "quantised model is calibrated" in page


def test_training_is_told_against_the_best_base(report: dict[str, Any]) -> None:
    report["base_examples"] = evaluation(accuracy=metric(0.52, 0.47, 0.57, 480))
    report["skipped"] = {"base_constrained": "the task has <no> constraint"}
    asked = "base model with worked examples"
    report["best_base"] = {"name": "base_examples", "description": asked, "ways": 2}
    compared = report["comparisons"].pop("after_vs_before")
    report["comparisons"]["after_vs_base_examples"] = compared | {"difference": metric(0.39, 0.35, 0.43)}
    assert wording.headline(report).endswith(f"; the base model with worked examples: 52.0{THIN}%.")
    said = wording.remarks(report)[0]
    assert said.startswith("Training changed the accuracy by +39.0")
    assert said.endswith(f"compared with the {asked}, the best of 2 ways to ask the base.")
    page = Page(build_report(report)).text
    assert "Trained vs. base, examples" in page
    assert "Base, constrained: not evaluated, since the task has <no> constraint." in page
    report["comparisons"]["after_vs_base_examples"]["p_value"] = 0.4
    assert "significantly (p = 0.40), compared with the base model with" in wording.remarks(report)[0]


def test_the_training_section_reads_its_curves() -> None:
    steps = range(1, 41)
    training = {
        "steps": 40,
        "planned_steps": 80,
        "epochs": 1.0,
        "chosen_step": 20,
        "chosen_by": "metric",
        "seconds": 1.0,
        "tokens_per_second": 9.0,
        "curve": [{"step": step, "loss": 1.0 / step} for step in steps],
        "validation": [{"step": step, "loss": 0.5 + abs(step - 20) / 50} for step in (10, 20, 30, 40)],
        "metric": [{"step": 20, "value": 0.75}, {"step": 40, "value": 0.5}],
        "metric_name": "macro_f1",
        "metric_rows": 64,
        "changes": ["after step 10, learning_rate is 0.0001, before it was 0.001"],
    }
    page = build_report({"name": "x", "training": training})
    assert "The macro f1 of the answers to 64 of these rows, which chose the step." in page
    assert "it overfits" in page and "Patience stopped it at step 40 of 80." in page
    assert "The settings changed on the way: after step 10, learning_rate is 0.0001" in page
    assert "the gap between them is marked at the kept step" in page and ">gap 0.4" in page
    plain = build_report({"name": "x", "training": {**training, "metric": [], "changes": []}})
    assert "macro f1" not in plain and "changed on the way" not in plain
