"""The templates of a judge: what they show, and what they read from texts of every kind."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.types import Constraint, Message
from smidgen.errors import ConfigError
from smidgen.tasks.judge import JudgeTask
from smidgen.tasks.judge.forms import Case, Fault, JudgeParseError, Verdict
from smidgen.tasks.judge.own_template import OwnTemplate
from smidgen.tasks.templates import FORMS, find_form

CASE = Case("What is 2 + 2?", "four {{ b }}", "five", "It is four.")
ALL = [form() for form in FORMS.values()]
PIECES = [
    '"',
    "`",
    "[[A]]",
    "[[B]]",
    "[[C]]",
    "[RESULT]",
    "5",
    "7",
    "0",
    " ",
    "\n",
    ",",
    "/10",
    "tie",
    "A",
    "</think>",
    "x",
]


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_everything_is_shown_as_it_is(form):
    shown = next(message.content for message in form.messages(CASE) if message.role == "user")
    assert "What is 2 + 2?" in shown and "four {{ b }}" in shown and "It is four." in shown
    assert form.singly or shown.index("four {{") < shown.index("five")
    if not form.needs_reference:
        assert "It is four." not in form.messages(CASE._replace(reference=None))[-1].content


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_every_answer_by_probability_is_read_as_its_verdict(form):
    for text, verdict in form.answers().items():
        closed = text + {"rubric": "}</scores>", "verdict": "]]"}.get(form.name, "")
        assert form.parse(closed) == (verdict.first if form.singly else verdict)


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_read_or_refused_and_leniently_the_same(form, text: str):
    try:
        strict = form.parse(text)
    except JudgeParseError:
        strict = None
    try:
        lenient = form.parse_leniently(text)
    except JudgeParseError as error:
        assert strict is None and str(error) == error.fault
    else:
        assert strict in (None, lenient)


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("scores", "8 7\nBecause.", Verdict("first", 8, 7)),
        ("scores", "\n 8,  8.5 \nBecause.", Verdict("second", 8, 8.5)),
        ("scores", "8/10 8/10", Verdict("tie", 8, 8)),
        ("scores", "<think>1 2</think>3 2", Verdict("first", 3, 2)),
        ("verdict", "[[B]]? Yes: [[B]]", Verdict("second")),
        ("verdict", "Response B wrote </think> and <think>.\n**[[A]]**", Verdict("first")),
        ("scores", "8 7\nThe second wrote </think> at its end.", Verdict("first", 8, 7)),
        ("verdict", "It is a tie: [[C]].", Verdict("tie")),
        ("grade", "Feedback: fine 3. [RESULT] 4", 4.0),
        ("grade", "[RESULT] (5)", 5.0),
    ],
)
def test_what_is_read(name: str, text: str, verdict: object):
    assert FORMS[name]().parse(text) == verdict


@pytest.mark.parametrize(
    ("name", "text", "lenient", "fault"),
    [
        ("scores", "Scores: 8 7", Verdict("first", 8, 7), Fault.NO_SCORES),
        ("scores", "eight\n3, 9", Verdict("second", 3, 9), Fault.NO_SCORES),
        ("verdict", "My verdict: [[b]]", Verdict("second"), Fault.NO_VERDICT),
        ("verdict", "Output (a)", Verdict("first"), Fault.NO_VERDICT),
        ("verdict", "Both are alike.\nC", Verdict("tie"), Fault.NO_VERDICT),
        ("grade", "Score: 4/5", 4.0, Fault.NO_GRADE),
    ],
)
def test_what_is_forgiven(name: str, text: str, lenient: object, fault: Fault):
    form = FORMS[name]()
    assert form.parse_leniently(text) == lenient
    with pytest.raises(JudgeParseError, match=fault.value):
        form.parse(text)


def test_scores_out_of_range():
    with pytest.raises(JudgeParseError, match="a score is out of range"):
        FORMS["scores"]().parse("11 3")


def test_an_unknown_template():
    with pytest.raises(ConfigError, match=r"no template 'verdit'. Did you mean 'verdict'\?"):
        find_form("verdit")
    with pytest.raises(ConfigError, match=r"there is no template at none\.toml"):
        find_form("none.toml")


# --- a user's own ---

USER = "Q: {{ prompt }}\n1: {{ a }}\n2: {{ b }}{% if reference %}\nR: {{ reference }}{% endif %}"
REGEX = {"user": USER, "parse": {"regex": r"Winner: (?P<winner>\w+)"}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number", "maximum": 9}},
    "required": ["a", "b"],
}


def test_own_by_regex(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        f"system = 'You judge.'\nuser = '''{USER}'''\nstop = ['END']\n[parse]\nregex = "
        f"'{REGEX['parse']['regex']}'",
        encoding="utf-8-sig",
    )
    form = find_form(str(path))
    assert [message.role for message in form.messages(CASE)] == ["system", "user"]
    assert form.messages(CASE)[1].content == "Q: What is 2 + 2?\n1: four {{ b }}\n2: five\nR: It is four."
    assert form.parse("Winner: A! Winner: a") == Verdict("first") and form.stop == ("END",)
    assert form.parse("Winner: tie") == Verdict("tie")
    with pytest.raises(JudgeParseError, match="the pattern does not match"):
        form.parse("A wins")
    with pytest.raises(JudgeParseError, match="no verdict"):
        form.parse("Winner: nobody")
    with pytest.raises(ConfigError, match="does not support log-probability scoring"):
        form.answers()


def test_own_by_schema():
    form = OwnTemplate("mine", {"user": USER, "parse": {"schema": SCHEMA}})
    assert form.constraint == Constraint("json_schema", json.dumps(SCHEMA))
    said = json.dumps({"a": 3, "b": 2, "why": 'A says "</think>" and {'})
    for text in (said, f"```json\n{said}\n```", f'{{"a": 1}} {said} {said}'):
        assert form.parse(text) == Verdict("first", 3, 2)
    assert form.parse('So: {1, 2} is "it". {"a": 3, "b": 2}') == Verdict("first", 3, 2)
    for text, fault in (("none", "no JSON object"), ('{"a": 1, "b": 10}', "does not fit the schema")):
        with pytest.raises(JudgeParseError, match=fault):
            form.parse(text)


def test_own_that_grades_alone():
    form = OwnTemplate("mine", {"user": "{{ answer }}", "parse": {"regex": r"(?P<score>\d+)"}})
    assert form.singly and form.parse("7") == 7.0
    assert form.constraint == Constraint("regex", r"(?s:(?P<score>\d+))")
    assert form.messages(CASE)[0].content == "four {{ b }}"


def test_own_readers_know_unicode_classes():
    form = OwnTemplate("mine", {"user": USER, "parse": {"regex": r"\p{Lu}\p{L}+: (?P<winner>\w+)"}})
    assert form.parse("Überlegen: A") == form.parse("Winner: A") and form.constraint is not None
    with pytest.raises(JudgeParseError):
        form.parse("winner: A")
    schema = {"properties": {"winner": {"pattern": r"^\p{Lu}$"}}, "required": ["winner"]}
    form = OwnTemplate("mine", {"user": USER, "parse": {"schema": schema}})
    assert form.parse('{"winner": "A"}') == OwnTemplate("mine", REGEX).parse("Winner: A")
    with pytest.raises(JudgeParseError):
        form.parse('{"winner": "a"}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"usr": "x"}, r"mine has the key 'usr'. Did you mean 'user'\?"),
        ({"user": ""}, "'user' is '', expected the text of a Jinja template"),
        ({"user": "{{ a"}, "'user' is not a Jinja template"),
        ({"user": "{{ a }} {{ bb }}"}, r"'user' uses 'bb'"),
        (
            {"user": "{{ a }}"},
            r"must show both \{\{ a \}\} and .*; it shows a",
        ),
        ({"stop": "END"}, "'stop' is 'END', expected a list of texts"),
        ({"parse": {}}, "expected either 'regex' or 'schema'"),
        ({"parse": {"regex": "("}}, "the regex is invalid"),
        ({"parse": {"regex": "x"}}, "named groups 'winner', or 'a' and 'b' .* found none"),
        ({"parse": {"schema": {"type": 3}}}, "the schema is not a JSON schema"),
        ({"parse": {"schema": True}}, "the schema is True, expected a table"),
        ({"parse": {"schema": SCHEMA | {"$ref": "#/none"}}}, "the schema is not a JSON schema: .*none"),
        ({"parse": {"schema": SCHEMA | {"$ref": "http://x/y"}}}, "the schema is not a JSON schema: .*http"),
        ({"user": USER + "{{ prompt.x.y }}"}, "'user' cannot be rendered: UndefinedError"),
        ({"user": USER + "{{ 1 / 0 }}"}, "'user' cannot be rendered: ZeroDivisionError"),
        ({"user": USER + "{{ prompt * 'x' }}"}, "'user' cannot be rendered: TypeError"),
        ({"user": USER + "{% include 'x' %}"}, "'user' cannot be rendered: TypeError"),
        ({"user": USER + "{% for i in range(10 ** 9) %}{% endfor %}"}, "'user' cannot be rendered: Overflow"),
        ({"parse": {"schema": {"properties": {"a": {}}}}}, "properties 'winner', or 'a' and 'b' .* found a"),
    ],
)
def test_own_that_is_wrong(change: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        OwnTemplate("mine", REGEX | change)


@given(
    st.dictionaries(
        st.sampled_from(["system", "user", "stop", "parse", "x"]),
        st.text()
        | st.integers()
        | st.none()
        | st.dictionaries(
            st.sampled_from(["regex", "schema"]), st.text() | st.none() | st.just({"properties": 3})
        ),
    )
)
def test_any_content_is_a_template_or_a_clear_error(content: dict):
    try:
        OwnTemplate("mine", content)
    except ConfigError as error:
        assert str(error).startswith("mine")


def test_single_pins_the_reference_to_ten():
    form = FORMS["single"]()
    system, user, begun = form.messages(CASE)
    assert (system.role, user.role, begun) == ("system", "user", Message("assistant", "10 "))
    assert user.content.index("It is four.") < user.content.index("four {{") and "five" not in user.content
    assert form.parse("8\nIt is close.") == 8 and form.parse(" 7/10 ") == 7
    assert form.parse_leniently("I say 3") == 3
    assert form.parse(form.verdict_text({"4": 0.5, "8": 0.5})) == 6
    with pytest.raises(JudgeParseError, match="the first line is not a number"):
        form.parse("It is close: 8")
    with pytest.raises(JudgeParseError, match="out of range"):
        form.parse("11")
    with pytest.raises(ConfigError, match="single requires a reference answer in every row; add --reference"):
        JudgeTask(form)


def test_what_is_no_number_is_no_score():
    form = OwnTemplate("mine", {"user": USER, "parse": {"schema": {"properties": {"a": {}, "b": {}}}}})
    for text in ('{"a": true, "b": 2}', '{"a": NaN, "b": 2}', '{"a": Infinity, "b": 2}'):
        with pytest.raises(JudgeParseError, match="no verdict"):
            form.parse(text)
    spelt = OwnTemplate("mine", {"user": USER, "parse": {"regex": r"(?P<a>\w+) (?P<b>\w+)"}})
    with pytest.raises(JudgeParseError, match="no verdict"):
        spelt.parse("nan 3")


def test_a_rubric_of_ones_own():
    form = find_form("grade", rubric="Is it short?\n1: no. 5: yes.")
    assert "Is it short?" in form.messages(CASE)[1].content
    with pytest.raises(ConfigError, match="only the template grade takes a rubric, not scores"):
        find_form("scores", rubric="x")
    with pytest.raises(ConfigError, match="the rubric is empty"):
        find_form("grade", rubric=" ")


@pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)
def test_a_judge_can_be_held_to_its_verdict_alone(form):
    task = JudgeTask(form, reference=form.needs_reference)
    assert task.constraint is not None and task.constraint.kind == "choices"
    texts, answers = json.loads(task.constraint.value), form.answers()
    assert len(texts) == len(answers)
    for text, verdict in zip(texts, answers.values(), strict=True):
        found = form.parse(text)
        if isinstance(found, Verdict):
            assert found.preferred == verdict.preferred and found.first == verdict.first
        else:
            assert found == verdict.first
