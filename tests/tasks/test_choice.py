"""The task choice: what is scored for each form of asking, and which option wins."""

import math

import pytest

from smidgen.data.types import Completion, Message, Record, Request, Sample, Scored, Timing
from smidgen.errors import ConfigError
from smidgen.evaluation.metrics import measure
from smidgen.tasks import find_task
from smidgen.tasks.choice import ByOptions, ChoiceTask

ROW = {"id": "q", "question": "What is red?", "choices": ["a rose", "the blue sky"], "answer": "A"}
GAP = {"id": "w", "sentence": "The cat saw the dog, but the _ ran away.", "option1": "cat", "option2": "dog"}
GAP |= {"answer": "1"}


class Table:
    """Scores by a table of (prompt, continuation) → log-probability; what it lacks does not fit."""

    def __init__(self, table: dict[tuple[str, str], float]) -> None:
        self.table = table

    def complete(self, requests):
        raise NotImplementedError

    def score(self, samples, continuations, *, least_share=0.0):
        for sample in reversed(list(samples)):
            found = [self.table.get((sample.messages[-1].content, text)) for text in continuations[sample.id]]
            logprobs = (
                None if None in found else [[value / 2, value / 2] for value in found if value is not None]
            )
            yield sample, Scored(logprobs, Timing(1.0, 1.0, 5, 0))


def answer(row: dict, table: dict[tuple[str, str], float], **settings) -> Record:
    task = find_task("choice", settings)
    (sample,) = task.samples([row])
    ((request, completion),) = task.answer_with(Table(table), "logits").complete([Request(sample)])
    assert request.sample is sample
    return Record(sample, completion, task.score(sample, completion))


def metrics(*records: Record) -> dict[str, float | None]:
    return {name: measure(metric).value for name, metric in ChoiceTask().measures(records).items()}


def test_options_are_scored_after_the_question():
    prompt = "Question: What is red?\nAnswer:"
    record = answer(ROW, {(prompt, " a rose"): -6.0, (prompt, " the blue sky"): -9.0})
    assert record.sample.messages == (Message("text", prompt),)
    assert record.score.answer == "a rose" and record.score.value == 1.0
    assert record.completion.timing == Timing(1.0, 1.0, 5, 0)
    # 6 / 6 characters are worse than 9 / 12
    assert metrics(record) == {"accuracy": 1.0, "accuracy_norm": 0.0, "unparsed_rate": 0.0}


def test_letters_are_scored_after_the_list():
    prompt = "What is red?\nA. a rose\nB. the blue sky\nAnswer:"
    record = answer(ROW, {(prompt, " A"): -2.0, (prompt, " B"): -1.0}, letters=True)
    assert record.score.answer == "the blue sky" and record.score.value == 0.0
    assert metrics(record) == {"accuracy": 0.0, "accuracy_norm": 0.0, "unparsed_rate": 0.0}


@pytest.mark.parametrize(
    ("letters", "asked", "scored"),
    [(False, "What is red?", "a rose"), (True, "What is red?\nA. a rose\nB. the blue sky", "A")],
)
def test_a_chat_is_asked_and_trained_on(letters: bool, asked: str, scored: str):
    task = find_task("choice", {"prompt": "chat", "letters": letters})
    (sample,) = task.training_samples([ROW])
    assert sample.messages == (Message("user", asked),) and sample.target == scored


def test_each_option_in_the_gap_and_the_rest_is_scored():
    cat, dog, rest = "The cat saw the dog, but the cat", "The cat saw the dog, but the dog", " ran away."
    record = answer(GAP, {(cat, rest): -3.0, (dog, rest): -4.0})
    assert record.score.answer == "cat" and record.score.value == 1.0
    assert record.completion.timing == Timing(1.0, 1.0, 10, 0)
    assert metrics(record, answer(GAP, {(cat, rest): -5.0, (dog, rest): -4.0}))["accuracy_norm"] == 0.5
    letters = find_task("choice", {"letters": True}).samples([GAP])[0]
    assert letters.messages[0].content.startswith("The cat saw the dog, but the _ ran away.\nA. cat\nB. dog")


def test_of_equal_options_the_first_counts():
    prompt = "Question: What is red?\nAnswer:"
    assert answer(ROW, {(prompt, " a rose"): -6.0, (prompt, " the blue sky"): -6.0}).score.answer == "a rose"


def test_what_does_not_fit_is_unanswered():
    record = answer(ROW, {})
    assert record.completion.finish_reason == "context"
    assert not record.score.parsed and metrics(record)["accuracy_norm"] == 0.0


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a rose", "the answer is not a list of log-probabilities"),
        ("[true, -1]", "the answer is not a list of log-probabilities"),
        ("[-1, NaN]", "a log-probability is missing or not finite"),
        ("[]", "a log-probability is missing or not finite"),
        ("[-1.0]", "there are 1 log-probabilities for 2 options"),
    ],
)
def test_what_is_no_answer_is_wrong(text: str, fault: str):
    (sample,) = ChoiceTask().samples([ROW])
    score = ChoiceTask().score(sample, Completion(text))
    assert not score.parsed and score.explanation == fault
    assert metrics(Record(sample, Completion(text), score))["unparsed_rate"] == 1.0


def test_baselines():
    samples = [*ChoiceTask().samples([ROW]), *ChoiceTask().samples([GAP])]
    found = {name: measure(metric).value for name, metric in ChoiceTask().baselines(samples).items()}
    assert found == {"random": 0.5, "longest": 0.5}
    assert ChoiceTask().show(GAP) == {"prompt": GAP["sentence"], "target": "cat"}


def test_only_probabilities_answer_it():
    assert ChoiceTask().methods == ("logits",) and ChoiceTask().constraint is None
    with pytest.raises(
        ConfigError, match="prompts of the task choice are raw text; to train on it, set prompt"
    ):
        ChoiceTask().training_samples([ROW])
    (sample,) = ChoiceTask().samples([ROW])
    with pytest.raises(ConfigError, match="does not support adapters per request, such as lora; open the"):
        next(ByOptions(Table({})).complete([Request(sample, adapter="lora")]))


def test_the_sums_are_exact():
    (sample,) = ChoiceTask().samples([ROW])
    logs = [[-0.1] * 10, [-1.0]]

    class Fixed(Table):
        def score(self, samples, continuations, *, least_share=0.0):
            yield from ((sample, Scored(logs)) for sample in samples)

    ((_, completion),) = ByOptions(Fixed({})).complete(
        [Request(Sample("q", sample.messages, None, sample.metadata))]
    )
    assert ChoiceTask().parse(completion.text) == [math.fsum(of) for of in logs] == [-1.0, -1.0]
