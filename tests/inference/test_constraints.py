import json
import math
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.data.types import Completion, Constraint, Message, Request, Sample, Sampling
from smidgen.errors import ConfigError, ModelError
from smidgen.inference import lane as lane_module
from smidgen.inference.constraints import Guides, check_constrained, grammar_of
from smidgen.inference.forward import MlxForward
from smidgen.inference.mlx import MlxEngine
from smidgen.inference.sampling import RowState, draw

ROUTE = {
    "type": "object",
    "properties": {
        "action": {"enum": ["SAVE", "SKIP"]},
        "category": {"enum": ["identity", "preference", "the better answer"]},
        "confidence": {"type": "integer", "minimum": 0, "maximum": 10},
    },
    "required": ["action", "category", "confidence"],
    "additionalProperties": False,
}


def schema(content: object) -> Constraint:
    return Constraint("json_schema", json.dumps(content))


def choices(*texts: str) -> Constraint:
    return Constraint("choices", json.dumps(texts))


def regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern)


@pytest.fixture(scope="module")
def engine(loaded) -> MlxEngine:
    return MlxEngine(loaded, batch_size=8)


@pytest.fixture(scope="module")
def roomy(loaded) -> MlxEngine:
    """An engine that goes on beyond the model's context, as bounded but large answers need."""
    engine = MlxEngine(loaded, batch_size=1)
    engine._context = 1 << 20
    return engine


@pytest.fixture(scope="module")
def slow(loaded) -> MlxEngine:
    return MlxEngine(loaded, batch_size=8, fast_forward=False)


def ask(name: str, constraint: Constraint | None, **sampling) -> Request:
    sample = Sample(name, (Message("user", f"which is better {name}"),))
    return Request(sample, Sampling(**({"max_tokens": 300} | sampling)), constraint)


def answers(engine: MlxEngine, requests: list[Request]) -> dict[str, Completion]:
    return {request.sample.id: completion for request, completion in engine.complete(requests)}


def assert_same(left: dict[str, Completion], right: dict[str, Completion]) -> None:
    assert left.keys() == right.keys()
    for name, completion in left.items():
        other = right[name]
        assert (completion.token_ids, completion.text) == (other.token_ids, other.text)
        assert completion.finish_reason == other.finish_reason
        assert completion.logprobs == pytest.approx(other.logprobs, abs=1e-4)


MIXED = [
    *(ask(f"route {i}", schema(ROUTE), temperature=1.0 * (i % 2)) for i in range(4)),
    *(ask(f"free {i}", None, max_tokens=5 + i, temperature=0.5 * i) for i in range(4)),
    ask("choice", choices("the first", "the second", "the"), temperature=2.0),
    ask("short", schema(ROUTE), max_tokens=11),
    ask("penalised", schema(ROUTE), repetition_penalty=1.7, frequency_penalty=0.6),
    ask("cut", schema(ROUTE), temperature=1.3, top_p=0.9, top_k=30, min_p=0.01),
    ask("digits", regex(r"\d{3}-\d{2}"), temperature=1.0),
]

# ------------------------------------------------------------------------------------------- what comes out

names = st.text('abcdefgh_ é"\\', min_size=1, max_size=6)
bounds = st.tuples(st.integers(-300, 300), st.integers(0, 300)).map(lambda t: (t[0], t[0] + t[1]))
lengths = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(lambda t: (t[0], t[0] + t[1]))
scalars = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    st.lists(st.one_of(names, st.integers(-9, 99), st.booleans(), st.none()), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.one_of(names, st.integers(-9, 99), st.lists(names, max_size=2)).map(lambda value: {"const": value}),
    bounds.map(lambda b: {"type": "integer", "minimum": b[0], "maximum": b[1]}),
    bounds.map(lambda b: {"type": "integer", "exclusiveMinimum": b[0], "exclusiveMaximum": b[1] + 2}),
    st.integers(2, 9).map(lambda k: {"type": "integer", "multipleOf": k, "minimum": 0, "maximum": 100}),
    lengths.map(lambda n: {"type": "string", "minLength": n[0], "maxLength": n[1]}),
    st.sampled_from(["^[a-z]{2,4}$", "^(yes|no)$", r"^\d{3}-\d{2}$", "^x", "b"]).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 8}
    ),
    st.sampled_from(["date", "time", "uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
)


def nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    """Bounded schemas made of bounded ones."""

    def as_object(drawn) -> dict:
        properties, required = drawn
        return {
            "type": "object",
            "properties": properties,
            "required": [
                name for name, is_required in zip(properties, required, strict=False) if is_required
            ],
            "additionalProperties": False,
        }

    objects = st.tuples(
        st.dictionaries(names, inner, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3)
    ).map(as_object)
    arrays = st.tuples(inner, lengths).map(
        lambda t: {"type": "array", "items": t[0], "minItems": t[1][0], "maxItems": t[1][1]}
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    )
    return st.one_of(objects, objects, arrays, tuples, st.lists(inner, min_size=1, max_size=3).map(any_of))


def any_of(schemas: list[dict]) -> dict:
    return {"anyOf": schemas}


schemas = st.recursive(scalars, nested, max_leaves=6)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(content=schemas, temperature=st.sampled_from([0.0, 1.0]))
def test_whatever_a_random_model_says_is_valid(roomy, content, temperature):
    completion = answers(roomy, [ask("a", schema(content), temperature=temperature, max_tokens=10_000)])["a"]
    assert completion.finish_reason == "stop", (content, completion.text)
    jsonschema.validate(json.loads(completion.text), content)


@pytest.mark.parametrize(
    "content",
    [
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"anyOf": [{"const": 1}, {"const": [1, 2]}]}}},
        {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 3}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]},
        {"type": "object", "patternProperties": {"^[ab]$": {"type": "null"}}, "additionalProperties": False}
        | {"maxProperties": 2},
        {"type": "object", "properties": {"a": True, "b": {"type": "null"}}, "additionalProperties": False}
        | {"minProperties": 2, "required": ["b"], "maxProperties": 2, "anyOf": [{"required": ["a"]}]}
        | {"properties": {"a": {"type": "boolean"}, "b": {"type": "null"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "null"}]}
        | {"additionalItems": False, "minItems": 1},
        {"title": "shown", "description": "said", "default": 1, "examples": [2], "const": "é"},
    ],
)
def test_what_schemas_are_combined_of_is_kept_to(engine, content):
    requests = [ask(str(i), schema(content), temperature=1.0 * bool(i), seed=i) for i in range(5)]
    for completion in answers(engine, requests).values():
        assert completion.finish_reason == "stop"
        jsonschema.validate(json.loads(completion.text), content)


@given(texts=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_one_of_the_choices_is_said(engine, texts, seed):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    completion = answers(engine, [ask("a", choices(*texts), temperature=1.0, seed=seed)])["a"]
    assert completion.text in texts


def test_a_choice_may_end_where_another_goes_on(engine):
    texts = ("the", "the first", "the first one")
    requests = [ask(str(i), choices(*texts), temperature=2.0) for i in range(60)]
    assert {completion.text for completion in answers(engine, requests).values()} == set(texts)


@pytest.mark.parametrize(
    "pattern",
    ["(?s:.{3,9})", "[ab]{2,5}", r"(?:the|a) (?P<what>[a-z]{1,7})!", r"\d{2}:\d{2}", "^é|ü$", "x/y\n"],
)
def test_regular_expressions_match_the_whole_answer(engine, pattern):
    requests = [ask(str(i), regex(pattern), temperature=1.0 * bool(i), seed=i) for i in range(12)]
    for completion in answers(engine, requests).values():
        assert completion.finish_reason == "stop"
        assert re.fullmatch(pattern, completion.text), completion.text


@pytest.mark.parametrize(
    ("content", "matching"),
    [
        ({"type": "string", "pattern": r"^\p{Lu}\p{L}{2}$"}, r'"[^\W\d_]{3}"'),
        (
            {"type": "object", "patternProperties": {r"^\p{L}$": {"const": 1}}, "minProperties": 1},
            r'\{"[^\W\d_]": 1.*',
        ),
    ],
)
def test_unicode_classes_of_patterns_are_enforced(engine, content, matching):
    for seed in range(3):
        content = content if "patternProperties" not in content else content | {"additionalProperties": False}
        request = ask(f"{seed}", schema(content), temperature=1.0, seed=seed, max_tokens=30)
        completion = answers(engine, [request])[f"{seed}"]
        assert re.match(matching, completion.text)


def test_the_end_token_comes_only_where_the_answer_may_end(engine):
    ends = engine._builder.tokenizer.eos_token_ids
    requests = [ask(str(i), regex("[ab]{3,40}"), temperature=3.0, seed=i) for i in range(40)]
    sizes = set()
    for completion in answers(engine, requests).values():
        *body, last = completion.token_ids
        assert ends.isdisjoint(body) and (last in ends or len(completion.text) == 40)
        sizes.add(len(completion.text))
    assert min(sizes) >= 3 and len(sizes) > 2


def test_unbounded_strings_may_be_cut_off(engine):
    requests = [ask(str(i), schema({"type": "string"}), max_tokens=25, temperature=1.0) for i in range(8)]
    found = answers(engine, requests)
    cut = [completion for completion in found.values() if completion.finish_reason == "length"]
    assert cut
    for completion in cut:
        assert len(completion.token_ids) == 25
        text = re.sub(r"\\(u[0-9a-f]{0,3})?$", "", completion.text.rstrip("\ufffd"))  # half an escape
        assert isinstance(json.loads(text + '"'), str)


# ---------------------------------------------------------------------------------------- how it is drawn


@pytest.mark.parametrize("forced_scores", [lane_module.FORCED_SCORES, 1, 5000])
def test_fast_forward_changes_nothing(engine, slow, monkeypatch, forced_scores):
    expected = answers(slow, MIXED)
    monkeypatch.setattr(lane_module, "FORCED_SCORES", forced_scores)
    assert_same(answers(engine, MIXED), expected)


def test_company_changes_nothing(loaded, engine):
    one = MlxEngine(loaded, batch_size=1)
    together = answers(engine, MIXED)
    assert_same(together, {name: c for request in MIXED for name, c in answers(one, [request]).items()})
    free = [request for request in MIXED if request.constraint is None]
    assert_same(answers(engine, free), {r.sample.id: together[r.sample.id] for r in free})


@pytest.mark.slow
@pytest.mark.parametrize("fast_forward", [True, False])
def test_the_path_of_other_devices_gives_the_same(loaded, engine, fast_forward):
    other = MlxEngine(loaded, batch_size=3, fast_forward=fast_forward)
    other._decoders.base = MlxForward(loaded.model)
    assert_same(answers(engine, MIXED), answers(other, MIXED))


def test_forced_tokens_are_run_together(engine, slow, monkeypatch):
    passes: list[int] = []
    hidden = engine._decoders.base.hidden

    def counted(rows, at, caches):
        passes.append(sum(map(len, rows)))
        return hidden(rows, at, caches)

    request = ask("a", schema(ROUTE | {"properties": ROUTE["properties"] | {"action": {"const": "SAVE"}}}))
    few, many = [], []
    for with_it, counts in ((engine, few), (slow, many)):
        passes.clear()
        monkeypatch.setattr(with_it._decoders.base, "hidden", counted)
        completion = answers(with_it, [request])["a"]
        counts += passes
    text = '{"action": "SAVE", "category": "'
    assert completion.text.startswith(text)
    assert len(few) <= len(many) - len(engine._builder.tokenizer.encode(text)) + 1
    assert len(many) >= len(completion.token_ids)


def test_logprobs_are_those_of_the_unmodified_distribution(engine, full_logits):
    for request in MIXED:
        if request.constraint is None:
            continue
        completion = answers(engine, [request])[request.sample.id]
        prompt, tokens = (
            engine._builder.tokenizer.render_prompt(request.sample.messages),
            list(completion.token_ids),
        )
        logits = full_logits(prompt + tokens)[len(prompt) - 1 : -1].astype(np.float64)
        expected = [row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, tokens, strict=True)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
        assert completion.timing is not None and completion.timing.completion_tokens == len(tokens)


def test_penalties_count_before_the_mask(engine, full_logits):
    request = ask("a", regex("(?:[xyz]){6}"), frequency_penalty=2.5, repetition_penalty=1.4)
    prompt = engine._builder.tokenizer.render_prompt(request.sample.messages)
    allowed, tokens = [engine._builder.tokenizer.encode(letter)[0] for letter in "xyz"], []
    for _ in range(6):
        scores = full_logits(prompt + tokens)[-1]
        for token in set(prompt + tokens):
            scores[token] = scores[token] / 1.4 if scores[token] > 0 else scores[token] * 1.4
        for token in tokens:
            scores[token] -= 2.5
        tokens.append(max(allowed, key=lambda token: scores[token]))
    assert list(answers(engine, [request])["a"].token_ids) == tokens
    assert len(set(tokens)) > 1


def test_the_temperature_counts_under_the_mask(engine, full_logits):
    letters = choices(*"abcdefgh")
    requests = [
        Request(Sample(str(i), (Message("user", "which"),)), Sampling(temperature=1.5), letters)
        for i in range(600)
    ]
    said = [completion.text for completion in answers(engine, requests).values()]
    prompt = engine._builder.tokenizer.render_prompt(requests[0].sample.messages)
    scores = full_logits(prompt)[-1][[engine._builder.tokenizer.encode(letter)[0] for letter in "abcdefgh"]]
    weights = np.exp((scores - scores.max()) / 1.5)
    for letter, share in zip("abcdefgh", weights / weights.sum(), strict=True):
        error = 4 * math.sqrt(share * (1 - share) / 600) + 1e-3
        assert said.count(letter) / 600 == pytest.approx(float(share), abs=error)


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("choices", json.dumps(["first", "first and second", "second"])),
        Constraint("regex", "(a|bc)*the answer[.!]"),
        Constraint("json_schema", json.dumps({"type": "array", "items": {"type": "integer"}})),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_fork_is_led_elsewhere_and_knows_single_tokens_as_the_mask_does(loaded, constraint, seed):
    ends, rng = loaded.tokenizer.eos_token_ids, np.random.default_rng(seed)
    guide = Guides(loaded.tokenizer).begin(constraint)
    for _ in range(12):
        if guide.is_complete:
            break
        mask = guide.allowed()
        plain = [token for token in range(loaded.tokenizer.vocab_size) if token not in ends]
        assert [guide.allows(token) for token in plain] == [bool(mask[token]) for token in plain]
        others = [token for token in plain if mask[token]]
        if not others:
            break
        fork = guide.fork()
        for _ in range(3):  # the fork goes its own way
            ways = [] if fork.is_complete else [i for i in np.flatnonzero(fork.allowed()) if i not in ends]
            if ways:
                fork.take(int(rng.choice(ways)))
        assert np.array_equal(guide.allowed(), mask)
        guide.take(int(rng.choice(others)))


def test_nothing_but_what_is_allowed_is_drawn():
    rng = np.random.default_rng(0)
    for temperature in (0.0, 0.01, 1.0, 50.0):
        for top_k, top_p, min_p in ((0, 1.0, 0.0), (3, 1.0, 0.0), (0, 0.5, 0.0), (0, 1.0, 0.9)):
            rows = [
                RowState(str(i), Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
                for i in range(40)
            ]
            for row in rows:
                row.allowed = rng.random(50) < 0.1
                row.allowed[rng.integers(50)] = True
            logits = rng.normal(0, 20, (40, 60)).astype(np.float32)
            kept = logits.copy()
            tokens, logprobs = draw(logits, rows, np)
            assert all(row.allowed[token] for row, token in zip(rows, tokens, strict=True))
            assert (logits == kept).all() and np.isfinite(logprobs).all()


def test_the_longest_answer_counts_forced_tokens(engine):
    whole = answers(engine, [ask("a", schema(ROUTE))])["a"]
    assert whole.finish_reason == "stop"
    size = len(whole.token_ids)
    for most in range(1, size + 2):
        cut = answers(engine, [ask("a", schema(ROUTE), max_tokens=most)])["a"]
        assert cut.token_ids == whole.token_ids[:most]
        assert cut.finish_reason == ("length" if most < size else "stop")


def test_streams_give_the_same_text(engine):
    for request in MIXED:
        stream = engine.stream(request)
        pieces = list(stream)
        assert stream.completion is not None
        assert_same({"a": stream.completion}, {"a": answers(engine, [request])[request.sample.id]})
        assert "".join(pieces) == stream.completion.text


def test_prompts_that_fill_the_context(engine):
    long = Request(Sample("long", (Message("user", "x" * 600),)), Sampling(), schema(ROUTE))
    assert answers(engine, [long, MIXED[0]])["long"] == Completion("", finish_reason="context")


# ------------------------------------------------------------------------------------------ what is refused


NO_SCHEMAS = (True, False, 3, None, "text", [{}])


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (Constraint("json_schema", "{"), "the schema cannot be read .* expected the JSON text of a schema"),
        *((schema(not_one), "the schema is .*, expected a JSON object; {} allows") for not_one in NO_SCHEMAS),
        *((schema({"$schema": no_text}), r"schema's \$schema is not a text") for no_text in (3, [], None)),
        (schema({"type": "text"}), "the schema is not a valid JSON schema: 'text' is not valid"),
        (schema({"type": "array", "uniqueItems": True}), r'cannot be enforced: .*"uniqueItems"'),
        (schema({"properties": {"a": {"not": {}}}}), r'cannot be enforced: .*"not"'),
        (schema({"oneOf": [{}, {"type": "string"}]}), "cannot be enforced: oneOf"),
        (schema({"if": {}, "then": {}}), r'"if"'),
        (schema({"type": "string", "format": "colour"}), "Unknown format: colour"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema({"$ref": "https://example.org/schema"}), "'https://example.org/schema' is not present"),
        (schema({"minimum": 2, "maximum": 1, "type": "integer"}), "Unsatisfiable schema: minimum"),
        (schema({"items": {"type": "integer", "minimun": 1}}), "'minimun'.* Did you mean 'minimum'"),
        (schema({"type": "string", "nullable": True}), "the unknown keyword 'nullable'"),
        (
            schema({"x-guidance": {"lenient": True}, "uniqueItems": True}),
            'cannot be enforced: .*"uniqueItems"',
        ),
        (schema({"x-guidance": {"whitespace_flexible": True}}), "the unknown keyword 'x-guidance'"),
        (schema({"$ref": "#/spare", "spare": {"type": "null"}}), "the unknown keyword 'spare'"),
        (schema({"type": "object", "minProperties": 2}), "minProperties, which cannot be enforced where"),
        (schema({"$schema": "http://json-schema.org/draft-03/schema#"}), "draft 3 of JSON Schema"),
        (Constraint("json_schema", '{"items": ' * 3000 + "{}" + "}" * 3000), "the schema is nested too deep"),
        (schema({"type": "string", "pattern": "("}), "the schema cannot be enforced: unclosed group"),
        (schema({"type": "string", "pattern": r"\p{No}{2"}), "the schema cannot be enforced: "),
        (choices("a", "\ud800"), "the choices cannot be read .*surrogates not allowed"),
        (regex("\ud800"), "the regular expression cannot be read .*use complete Unicode characters"),
        (regex(r"\p{Nothing}"), "the regular expression cannot be enforced: "),
        (regex("(a"), "the regular expression cannot be enforced: unclosed group; fix it"),
        (regex("(?!a)b"), "look-around"),
        (regex(r"(a)\1"), "backreferences are not supported"),
        (regex(r"\bthe\b"), "lookarounds not supported yet; WordUnicode"),
        (regex(""), "the regular expression is empty, so every answer would be empty"),
        (choices("yes", ""), "one of the choices is empty; expected a text"),
        (choices(), "the choices are .*, expected a JSON list of one or more texts"),
        (Constraint("choices", '{"a": 1}'), "expected a JSON list of one or more texts"),
        (Constraint("choices", "[1]"), "expected a JSON list of one or more texts"),
        (Constraint("choices", "yes"), "the choices cannot be read .* expected a JSON list of texts"),
        (schema({"$ref": "#"}), "the schema cannot be followed: no text could come next; change it"),
    ],
)
def test_what_cannot_be_enforced_is_refused(constraint, fault):
    with pytest.raises(ConfigError, match=fault):
        grammar_of(constraint)


def test_nothing_is_decoded_before_constraints_are_checked(engine, monkeypatch):
    ran = []
    monkeypatch.setattr(engine._decoders.base, "hidden", lambda *rest: ran.append(rest))
    requests = [*MIXED, ask("bad", schema({"uniqueItems": True}))]
    with pytest.raises(ConfigError, match="uniqueItems"):
        next(engine.complete(requests))
    assert not ran


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (
            choices("<|im_end|>", "b"),
            r"<\|im_end\|> in the choices is a special token of this model and not text",
        ),
        (schema({"const": "a <think> b"}), "<think> in the schema is a special token"),
        (
            regex(r"[^\s\S]"),
            "the regular expression cannot be followed: no text could come next; change it",
        ),
        (regex(r"[<]think>"), "the regular expression cannot be followed: .*; change it"),
    ],
)
def test_what_a_tokenizer_cannot_write_is_refused(engine, constraint, fault):
    with pytest.raises(ConfigError, match=fault):
        answers(engine, [ask("a", constraint)])


def test_tokenizers_of_an_unknown_kind_are_refused(loaded, monkeypatch):
    monkeypatch.setattr(loaded.tokenizer, "to_json", lambda: "{}", raising=False)
    with pytest.raises(ModelError, match=r"the tokenizer of .* does not support constraints"):
        Guides(loaded.tokenizer).begin(Constraint("regex", "a"))


@pytest.mark.parametrize("strings", [{"stop": ("x",)}, {"stop_after": ("x",)}])
def test_strings_that_end_answers_are_refused(engine, strings):
    with pytest.raises(ConfigError, match=r"stop strings .* would cut off a constrained answer"):
        answers(engine, [ask("a", choices("a"), **strings)])
    check_constrained(ask("a", None, **strings))


def test_thinking_is_refused(loaded):
    with pytest.raises(ConfigError, match=r"leaves no room for thinking \(--thinking\)"):
        answers(MlxEngine(loaded, thinking=True), [ask("a", choices("a"))])
