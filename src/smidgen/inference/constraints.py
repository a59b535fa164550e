"""Answers that keep to a JSON schema, to a regular expression or to a list of choices.

llguidance (https://github.com/guidance-ai/llguidance) says which tokens may come next, and which must: where
a constraint leaves no choice, the tokens are those that the tokenizer would cut the text into.

JSON is written as `json.dumps` writes it, on one line with a space after every comma and colon, and keys come
in the schema's order, so nothing but values is left to choose. A regular expression is in the syntax of
Rust's `regex` (https://docs.rs/regex/latest/regex/#syntax), and the whole answer matches it. What could not
be enforced is refused; a keyword that no validator knows counts as a misspelling.
"""

import json
import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jsonschema import Draft3Validator, Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, grammar_from
from numpy.typing import NDArray

from smidgen.data.schemas import check_schema
from smidgen.data.templates import Tokenizer
from smidgen.data.types import Constraint, Request
from smidgen.errors import ConfigError, ModelError, did_you_mean
from smidgen.inference.exact_numbers import ExactGrammar, read_exactly, rounded, schema_grammar, schemas_in

NAMES = {"json_schema": "the schema", "regex": "the regular expression", "choices": "the choices"}
KEPT_MATCHERS = 64
"""Constraints whose compiled form is kept; a copy of it takes a hundredth of the time."""
ANNOTATIONS = frozenset(
    "$anchor $comment $defs $id $schema $vocabulary contentEncoding contentMediaType contentSchema default "
    "definitions deprecated description examples readOnly title writeOnly".split()
)
"""Keywords of JSON Schema that assert nothing."""


class Guide:
    """How far one answer has come in what its constraint allows."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, name: str):
        """Begin with a matcher that nothing else uses; `name` says in errors what it enforces."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._name = name
        self._due: list[int] = []  # what must come now and was not taken yet

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return not self._due and self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next (V,), end tokens among them once the answer may end.

        Raises:
            ConfigError: none may, or finding out is too costly.
        """
        if due := self._must_come():
            only = np.zeros(self._vocab_size, bool)
            only[due[0]] = True
            return only
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(packed, bitorder="little").view(bool)

    def take(self, token_id: int) -> None:
        """Go on by one token that was allowed."""
        self._matcher.consume_token(token_id)
        self._check()
        self._due = self._due[1:]

    def force(self, most: int) -> list[int]:
        """Go on by the tokens, at most so many, that must come now; return them."""
        forced = self._must_come()[:most] if most else []
        self._matcher.consume_tokens(forced)
        self._check()
        self._due = self._due[len(forced) :]
        return forced

    def _must_come(self) -> list[int]:
        # Asked once for each stretch: its rest, cut into tokens alone, may give others.
        if not self._due:
            self._due = self._matcher.compute_ff_tokens()
        return self._due

    def _check(self) -> None:
        if self._matcher.is_error():
            fault = self._matcher.get_error().partition("\n")[0]
            if fault.startswith("NoExtension"):
                fault = "there is no text that could come next"
            raise ConfigError(f"{self._name} cannot be followed: {fault}; write another")


class Guides:
    """What makes guides for the answers of one tokenizer's model."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._matcher = lru_cache(KEPT_MATCHERS)(self._compiled)

    def begin(self, constraint: Constraint) -> Guide:
        """Return a guide of an answer that is to begin.

        Raises:
            ConfigError: as `grammar_of`, or a text of the constraint is a token of its own, or no text
                satisfies it.
            ModelError: the tokenizer is of a kind that is not known.
        """
        guide = Guide(
            self._matcher(constraint).deep_copy(), self._vocabulary.vocab_size, NAMES[constraint.kind]
        )
        guide.allowed()
        return guide

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        try:
            return LLTokenizer(self._tokenizer.to_json(), eos_token=sorted(self._tokenizer.eos_token_ids))
        except ValueError as error:
            raise ModelError(
                f"the tokenizer of {self._tokenizer.path} does not go with constraints: {error}; "
                "leave the constraint out"
            ) from None

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        grammar = grammar_of(constraint)
        if tokens := sorted(token for token in self._tokenizer.added_tokens if token in constraint.value):
            raise ConfigError(
                f"{tokens[0]} stands in {NAMES[constraint.kind]}, and this model has it for a sign, "
                "not for text; leave it out"
            )
        limits = LLParserLimits(verbose_errors=False)
        return LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)


def check_constrained(request: Request, *, thinking: bool = False) -> None:
    """Refuse what a constraint does not go with.

    Raises:
        ConfigError: there are strings that end the answer, or it would begin with a thought.
    """
    if request.constraint is None:
        return
    if request.sampling.stop or request.sampling.stop_after or request.sampling.stop_at_boxed:
        raise ConfigError(
            "strings that end an answer (--stop, --stop-at-boxed, a task's own) would cut off what its "
            "constraint asks for; give either the strings or the constraint"
        )
    if thinking:
        raise ConfigError(
            "a constraint holds from the first token on, which leaves no place for thinking (--thinking); "
            "leave one of them out"
        )


@lru_cache(KEPT_MATCHERS)
def grammar_of(constraint: Constraint) -> str:
    """Return a constraint as llguidance takes it.

    Raises:
        ConfigError: it cannot be read, or has a part that could not be enforced, which the message names.
    """
    name = NAMES[constraint.kind]
    try:
        constraint.value.encode()
        grammar = READERS[constraint.kind](constraint.value)
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply; simplify it") from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} cannot be read ({error}); write whole characters") from None
    _, faults = LLMatcher.validate_grammar_with_warnings(grammar)
    if faults:
        raise ConfigError(f"{name} cannot be enforced: {_in_short(faults[0])}; mend it")
    if constraint.kind == "json_schema":
        _refuse_ignored(json.loads(constraint.value))
    return grammar


def _of_schema(value: str) -> str:
    schema = _json(value, "json_schema", "the JSON text of a schema")
    if not isinstance(schema, dict):
        raise ConfigError(f"the schema is {value.strip()[:60]}, expected a JSON object; {{}} allows any JSON")
    if not isinstance(schema.get("$schema", ""), str):
        raise ConfigError("the schema's $schema is no text; write the URL of its dialect or leave it out")
    try:
        dialect = check_schema(schema, with_patterns=False)  # llguidance reads them, and refuses some itself
    except SchemaError as error:
        raise ConfigError(f"the schema is no JSON schema: {error.message}") from None
    if dialect is Draft3Validator:
        raise ConfigError("the schema is in draft 3 of JSON Schema; write it in draft 4 or later")
    exact = read_exactly(value)
    if any(rounded(part) is not None for part in schemas_in(exact)):
        return ExactGrammar(exact, dialect, ANNOTATIONS).text()
    return schema_grammar(value)


def _of_choices(value: str) -> str:
    texts = _json(value, "choices", "a JSON list of texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"the choices are {value[:60]}, expected a JSON list of one text or more")
    if "" in texts:
        raise ConfigError("one of the choices is empty; give each of them text")
    return grammar_from("choice", json.dumps(texts))


def _of_regex(value: str) -> str:
    if not value:
        raise ConfigError("the regular expression is empty, as every answer would be; write one")
    return LLMatcher.grammar_from_regex(value)


READERS: dict[str, Callable[[str], str]] = {
    "json_schema": _of_schema,
    "regex": _of_regex,
    "choices": _of_choices,
}


def _json(value: str, kind: str, expected: str) -> Any:
    try:
        found = json.loads(value)
        json.dumps(
            found, allow_nan=False, ensure_ascii=False
        ).encode()  # no numbers or characters beyond JSON
        return found
    except ValueError as error:
        raise ConfigError(f"{NAMES[kind]} cannot be read ({error}); expected {expected}") from None


def _in_short(fault: str) -> str:
    """The line of llguidance's message that says what is wrong."""
    cause = re.search(r"^error: (.*)$", fault, re.MULTILINE)
    return cause[1] if cause else fault.rpartition("(in regex): ")[2].partition("\n")[0]


def _refuse_ignored(schema: Any) -> None:
    """Refuse what llguidance would take and not enforce.

    Raises:
        ConfigError: a keyword is unknown, or counts keys that could be written twice.
    """
    dialect = validator_for(schema, default=Draft202012Validator)
    known = dialect.VALIDATORS.keys() | ANNOTATIONS
    for part in schemas_in(schema):
        if strange := sorted(part.keys() - known):
            raise ConfigError(
                f"the schema has the keyword '{strange[0]}', which asserts nothing."
                f"{did_you_mean(strange[0], known)} Leave it out"
            )
        is_open = part.get("additionalProperties", True) is not False or "patternProperties" in part
        if part.get("minProperties", 0) > 1 and is_open:
            raise ConfigError(
                "the schema has minProperties, which cannot be enforced where a key may come twice; "
                "name all properties and set additionalProperties to false"
            )
