"""The task chat: which rows it reads, what an answer is worth, and that this is what training minimises."""

import json
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from smidgen.backend import mx
from smidgen.config import SftConfig
from smidgen.data.templates import load_tokenizer
from smidgen.data.types import Completion, Message, Record, Request, Sample, Sampling, Scored, Timing
from smidgen.errors import ConfigError, DataError, ParseError
from smidgen.evaluation import compare
from smidgen.evaluation.collect import answers
from smidgen.evaluation.metrics import measure
from smidgen.evaluation.wording import headline, remarks
from smidgen.inference.mlx import MlxEngine
from smidgen.models.load import load
from smidgen.tasks import find_task
from smidgen.tasks.recognition import recognise_task
from smidgen.training.sft import sft_row, sft_rows

TASK = find_task("chat")
TURNS = [
    ("system", "Be brief."),
    ("user", "Why?"),
    ("assistant", "So."),
    ("user", "And?"),
    ("assistant", "No."),
]
CHAT = {"id": "c", "messages": [{"role": role, "content": text} for role, text in TURNS], "subset": "odd"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Table:
    """Log-probabilities of answers by the ids of their samples; what it lacks does not fit."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table

    def complete(self, requests):
        raise NotImplementedError

    def score(self, samples, continuations, *, least_share=0.0):
        assert least_share == 0.0, "a pruned answer would be improbable"
        for sample in reversed(list(samples)):
            (text,) = continuations[sample.id]
            assert text == sample.target
            found = self.table.get(sample.id)
            yield sample, Scored(None if found is None else [found], Timing(1.0, 1.0, 5, 0))


def records(table: dict[str, list[float]]) -> list[Record]:
    rows = [{"id": name, "prompt": f"{name}?", "response": name * 2} for name in "abc"]
    return answers(TASK, TASK.samples(rows), TASK.answer_with(Table(table), "logits"), Sampling())


def values(found: list[Record]) -> dict[str, float | None]:
    return {name: measure(metric).value for name, metric in TASK.measures(found).items()}


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        (
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
            "Why?",
        ),
        ({"prompt": "Why?", "completion": "So."}, "Why?"),
        ({"prompt": "Why?", "response": "So."}, "Why?"),
        ({"instruction": "Why?", "output": "So."}, "Why?"),
        ({"instruction": "Why?", "input": "Here.", "output": "So."}, "Why?\n\nHere."),
    ],
)
def test_rows_of_every_format_are_prompts_with_answers(row: dict, asked: str):
    expected = Sample("1", (Message("user", asked),), "So.", {"subset": None})
    assert TASK.samples([row]) == TASK.training_samples([row]) == [expected]
    assert TASK.show(row) == {"prompt": asked, "target": "So."}
    ((prompt, plain),) = TASK.plain_rows([row])
    assert prompt == asked and TASK.samples([plain]) == [expected]
    assert recognise_task([row], "rows")[0].name == "chat"


def test_the_last_answer_of_a_conversation_is_scored_and_the_rest_is_shown_with_its_roles():
    (sample,) = TASK.samples([CHAT])
    assert (sample.target, sample.metadata["subset"]) == ("No.", "odd")
    assert [message.role for message in sample.messages] == [role for role, _ in TURNS[:-1]]
    shown = "System: Be brief.\n\nUser: Why?\n\nAssistant: So.\n\nUser: And?"
    assert TASK.show(CHAT) == {"prompt": shown, "target": "No."}
    assert [(each.prompt, each.answers) for each in TASK.examples([CHAT])] == [(shown, ("No.",))]


@pytest.mark.parametrize(("mask", "learned"), [("last", ["No."]), ("all", ["So.", "No."])])
def test_the_mask_covers_the_last_turn_or_all(
    make_tokenizer_dir, mask: Literal["last", "all"], learned: list[str]
):
    tokenizer = load_tokenizer(make_tokenizer_dir(CHATML))
    (row,) = sft_rows(TASK.training_samples([CHAT]), tokenizer, SftConfig(mask=mask)).rows
    text = tokenizer.decode(row.token_ids[row.loss_mask].tolist(), keep_special=True)
    assert text == "".join(f"{answer}<|im_end|>" for answer in learned)


def test_answers_weigh_the_same_in_the_likelihood_and_tokens_in_the_loss():
    half, quarter = math.log(1 / 2), math.log(1 / 4)
    found = records({"a": [half], "b": [quarter, quarter, quarter], "c": [half, quarter]})
    assert [record.score.value for record in found] == pytest.approx([1 / 2, 1 / 4, 8**-0.5])
    assert found[1].score.answer == "25.0\u202f% per token" and found[1].completion.timing is not None
    likelihood = (1 / 2 + 1 / 4 + 8**-0.5) / 3
    expected = {"likelihood": likelihood, "loss": -(2 * half + 4 * quarter) / 6, "unscored_rate": 0.0}
    assert values(found) == pytest.approx(expected)
    better = records({"a": [0.0], "b": [half, half, half], "c": [0.0, half]})
    compared = compare(TASK, better, found)["likelihood"]
    assert compared.difference.value == pytest.approx((1 + 1 / 2 + 2**-0.5) / 3 - likelihood)
    assert compared.test is not None and compared.test.only_first == 3


def test_what_is_not_scored_counts_as_improbable_and_is_told():
    found = records({"a": [-1.0], "c": [-math.inf]})
    assert values(found) == pytest.approx(
        {"likelihood": math.exp(-1) / 3, "loss": 1.0, "unscored_rate": 2 / 3}
    )
    assert "does not fit" in found[1].score.explanation and "is not finite" in found[2].score.explanation
    assert values(records({})) == {"likelihood": 0.0, "loss": None, "unscored_rate": 1.0}
    metrics = {name: measure(metric).to_json() for name, metric in TASK.measures(found).items()}
    report = {"task": "chat", "after": {"n": 3, "metrics": metrics}}
    assert "12.3\u202f% likelihood (95\u202f% interval" in headline(report)
    assert remarks(report) == ["66.7\u202f% of the answers were not scored and count as improbable."]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("yes", "not a log-probability with a number"),
        ('{"tokens": 2}', "not a log-probability with a number"),
        ("[1, 2]", "not a log-probability with a number"),
        (json.dumps({"logprob": -math.inf, "tokens": 2}), "is not finite"),
        (json.dumps({"logprob": 0.0, "tokens": 0}), "the answer is empty"),
    ],
)
def test_other_texts_are_no_scores(text: str, fault: str):
    with pytest.raises(ParseError, match=fault):
        TASK.parse(text)
    score = TASK.score(TASK.samples([CHAT])[0], Completion(text))
    assert (score.value, score.parsed) == (0.0, False) and fault in score.explanation


def test_the_loss_is_that_of_training_without_the_end_token(tiny_model_dir: Path):
    loaded = load(str(tiny_model_dir))
    spelt = [*CHAT["messages"][:-1], {"role": "assistant", "content": "say <|im_end|> twice"}]  # ends no turn
    samples = TASK.training_samples([CHAT, {"id": "s", "messages": spelt}])
    nats = tokens = 0.0
    for sample in samples:
        row, _ = sft_row(sample, loaded.tokenizer, SftConfig())
        logits = np.array(loaded.model(mx.array(row.token_ids[None, :-1]))[0].astype(mx.float32), np.float64)
        losses = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(len(logits)), row.token_ids[1:]]
        nats, tokens = nats + losses[row.loss_mask[1:]][:-1].sum(), tokens + row.loss_mask.sum() - 1
    found = answers(TASK, samples, TASK.answer_with(MlxEngine(loaded), "logits"), Sampling())
    assert values(found)["loss"] == pytest.approx(nats / tokens, abs=1e-4)


def test_what_cannot_be_is_refused_with_a_sentence():
    (sample,) = TASK.samples([CHAT])
    with pytest.raises(ConfigError, match="no generated rows for the task 'chat'; give a file"):
        TASK.world_rows("train", None, 0)
    with pytest.raises(
        ConfigError, match=r"the task chat has no worse answers .*; use the task 'preference'"
    ):
        TASK.preference(sample)
    with pytest.raises(ConfigError, match="does not support adapters per request"):
        list(TASK.answer_with(Table({}), "logits").complete([Request(sample, adapter="mine")]))
    with pytest.raises(DataError, match="row 1: 'messages' ends with 'user', expected an assistant message"):
        TASK.samples([{"messages": CHAT["messages"][:-1]}])
    with pytest.raises(DataError, match="it lacks 'messages' of a chat row"):
        TASK.samples([{"text": "Once."}])


def test_plain_texts_are_only_checked():
    task, form = recognise_task([{"text": "Once."}], "rows")
    assert (task.name, form.title) == ("texts", "text row")
    assert [(each.prompt, each.answers) for each in task.examples([{"text": "Once."}])] == [("Once.", ())]
    with pytest.raises(ConfigError, match="a text row has no completion to train on; name its task"):
        task.training_samples([{"text": "Once."}])
