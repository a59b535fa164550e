"""Constrained decoding by a JSON schema, a regular expression or a list of choices.

llguidance (https://github.com/guidance-ai/llguidance) computes which tokens may come next, and which must:
where a constraint leaves no choice, the tokens are those of the tokenizer's own encoding of the text.
Choices are written in that encoding throughout.

JSON has the layout of `json.dumps`, on one line with a space after every comma and colon, and keys in the
schema's order, so only values are left to the model. Regular expressions have the syntax of Rust's `regex`
(https://docs.rs/regex/latest/regex/#syntax) and match the whole answer. Anything that cannot be enforced is
refused; an unknown keyword is treated as a misspelling.
"""

import json
import re
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from typing import Any, Protocol

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
from smidgen.inference.choice_guide import ChoiceGuide, encoded
from smidgen.inference.exact_numbers import ExactGrammar, read_exactly, rounded, schema_grammar, schemas_in

NAMES = {"json_schema": "the schema", "regex": "the regular expression", "choices": "the choices"}
LIMITS = LLParserLimits(verbose_errors=False)
KEPT_MATCHERS = 64
"""Number of compiled constraints in the cache; copying one takes a hundredth of the time to compile it."""
ANNOTATIONS = frozenset(
    "$anchor $comment $defs $id $schema $vocabulary contentEncoding contentMediaType contentSchema default "
    "definitions deprecated description examples readOnly title writeOnly".split()
)
"""Keywords of JSON Schema that assert nothing."""


class Guide(Protocol):
    """State of one constrained answer."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete, so that no token can follow."""
        ...

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask of allowed next tokens (V,), which includes end tokens once the answer may end.

        Raises:
            ConfigError: no token is allowed, or computing the mask is too costly.
        """
        ...

    def allows(self, token_id: int) -> bool:
        """Return whether a token may come next; it is not an end token."""
        ...

    def take(self, token_id: int) -> None:
        """Consume one allowed token."""
        ...

    def fork(self) -> "Guide":
        """Return a guide in the same state, which may be led elsewhere; takes a few microseconds."""
        ...

    def force(self, most: int) -> list[int]:
        """Consume at most `most` forced tokens, those without an alternative; return them."""
        ...

    def end(self, most: int) -> list[int]:
        """Consume the forced tokens if they complete the answer and are at most `most`; return them."""
        ...


class GrammarGuide:
    """A `Guide` of llguidance."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, name: str):
        """Take ownership of a matcher; `name` describes the constraint in errors."""
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._name = name
        self._forced: list[int] = []  # forced tokens that have not been consumed yet

    @property
    def is_complete(self) -> bool:
        """Whether the answer is complete, so that no token can follow."""
        return not self._forced and self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.bool_]:
        """Return the mask of allowed next tokens (V,), which includes end tokens once the answer may end.

        Raises:
            ConfigError: no token is allowed, or computing the mask is too costly.
        """
        if forced := self._forced_tokens():
            only = np.zeros(self._vocab_size, bool)
            only[forced[0]] = True
            return only
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(packed, bitorder="little").view(bool)

    def allows(self, token_id: int) -> bool:
        """Return whether a token may come next; it is not an end token."""
        if forced := self._forced_tokens():
            return token_id == forced[0]
        return self._matcher.validate_tokens([token_id]) == 1

    def take(self, token_id: int) -> None:
        """Consume one allowed token."""
        self._matcher.consume_token(token_id)
        self._check()
        self._forced = self._forced[1:]

    def fork(self) -> "GrammarGuide":
        """Return a guide in the same state, which may be led elsewhere; takes a few microseconds."""
        forked = GrammarGuide(self._matcher.deep_copy(), self._vocab_size, self._name)
        forked._forced = list(self._forced)
        return forked

    def force(self, most: int) -> list[int]:
        """Consume at most `most` forced tokens, those without an alternative; return them."""
        forced = self._forced_tokens()[:most] if most else []
        self._matcher.consume_tokens(forced)
        self._check()
        self._forced = self._forced[len(forced) :]
        return forced

    def end(self, most: int) -> list[int]:
        """Consume the forced tokens if they complete the answer and are at most `most`; return them."""
        forced = self._forced_tokens()
        if not 0 < len(forced) <= most:
            return []
        self._matcher.consume_tokens(forced)
        self._check()
        if self._matcher.is_stopped():
            self._forced = []
            return forced
        self._matcher.rollback(len(forced))
        self._check()
        return []

    def _forced_tokens(self) -> list[int]:
        # Computed once per stretch: the rest of a stretch, encoded by itself, may give other tokens.
        if not self._forced:
            self._forced = self._matcher.compute_ff_tokens()
        return self._forced

    def _check(self) -> None:
        if self._matcher.is_error():
            fault = self._matcher.get_error().partition("\n")[0]
            if fault.startswith("NoExtension"):
                fault = "no text could come next"
            raise ConfigError(f"{self._name} cannot be followed: {fault}; change it")


class Guides:
    """Makes guides for answers of the model with a given tokenizer; caches compiled constraints."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._matcher = lru_cache(KEPT_MATCHERS)(self._compiled)
        self._choices = lru_cache(KEPT_MATCHERS)(self._encoded)

    def begin(self, constraint: Constraint) -> Guide:
        """Return a guide for a new answer.

        Raises:
            ConfigError: as `grammar_of`, or the constraint contains a special token as text, or no text
                satisfies it.
            ModelError: the tokenizer is of an unsupported kind.
        """
        if constraint.kind == "choices" and (choices := self._choices(constraint)) is not None:
            return ChoiceGuide(choices, self._tokenizer)
        guide = GrammarGuide(
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
                f"the tokenizer of {self._tokenizer.path} does not support constraints: {error}; "
                "leave the constraint out"
            ) from None

    def _encoded(self, constraint: Constraint) -> list[list[int]] | None:
        """Return the choices as tokens; None if the tokenizer cannot write one of them as it is."""
        grammar_of(constraint)
        self._refuse_special(constraint)
        return encoded(json.loads(constraint.value), self._tokenizer)

    def _refuse_special(self, constraint: Constraint) -> None:
        if tokens := sorted(token for token in self._tokenizer.added_tokens if token in constraint.value):
            raise ConfigError(
                f"{tokens[0]} in {NAMES[constraint.kind]} is a special token of this model and not text; "
                "leave it out"
            )

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        grammar = grammar_of(constraint)
        self._refuse_special(constraint)
        return LLMatcher(self._vocabulary, grammar, log_level=0, limits=LIMITS)


def check_constrained(request: Request, *, thinking: bool = False) -> None:
    """Refuse settings that conflict with a constraint.

    Raises:
        ConfigError: the request has stop strings, or thinking is on.
    """
    if request.constraint is None:
        return
    if request.sampling.stop or request.sampling.stop_after or request.sampling.stop_at_boxed:
        raise ConfigError(
            "stop strings (--stop, --stop-at-boxed, a task's own) would cut off a constrained answer; "
            "give either stop strings or a constraint"
        )
    if thinking:
        raise ConfigError(
            "a constraint applies from the first token on, which leaves no room for thinking (--thinking); "
            "leave one of them out"
        )


@lru_cache(KEPT_MATCHERS)
def grammar_of(constraint: Constraint) -> str:
    """Return the llguidance grammar of a constraint.

    Raises:
        ConfigError: the constraint cannot be parsed, has a part that cannot be enforced, or allows no text.
    """
    name = NAMES[constraint.kind]
    try:
        constraint.value.encode()
        grammar = READERS[constraint.kind](constraint.value)
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply; simplify it") from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} cannot be read ({error}); use complete Unicode characters") from None
    _, faults = LLMatcher.validate_grammar_with_warnings(grammar)
    if faults:
        raise ConfigError(f"{name} cannot be enforced: {_in_short(faults[0])}; fix it")
    if constraint.kind == "json_schema":
        _refuse_ignored(json.loads(constraint.value))
    # llama.cpp would answer freely where no text is right, such as for a schema that refers to itself alone.
    letters = _byte_vocabulary()
    GrammarGuide(LLMatcher(letters, grammar, log_level=0, limits=LIMITS), letters.vocab_size, name).allowed()
    return grammar


@cache
def _byte_vocabulary() -> LLTokenizer:
    """Return the vocabulary of single bytes, which can write any text."""
    return LLTokenizer("byte")


def _of_schema(value: str) -> str:
    schema = _json(value, "json_schema", "the JSON text of a schema")
    if not isinstance(schema, dict):
        raise ConfigError(f"the schema is {value.strip()[:60]}, expected a JSON object; {{}} allows any JSON")
    if not isinstance(schema.get("$schema", ""), str):
        raise ConfigError("the schema's $schema is not a text; give the URL of its dialect or leave it out")
    try:
        dialect = check_schema(schema, with_patterns=False)  # llguidance checks patterns in its own syntax
    except SchemaError as error:
        raise ConfigError(f"the schema is not a valid JSON schema: {error.message}") from None
    if dialect is Draft3Validator:
        raise ConfigError("the schema is in draft 3 of JSON Schema; expected draft 4 or later")
    exact = read_exactly(value)
    if any(rounded(part) is not None for part in schemas_in(exact)):
        return ExactGrammar(exact, dialect, ANNOTATIONS).text()
    return schema_grammar(value)


def _of_choices(value: str) -> str:
    texts = _json(value, "choices", "a JSON list of texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"the choices are {value[:60]}, expected a JSON list of one or more texts")
    if "" in texts:
        raise ConfigError("one of the choices is empty; expected a text")
    return grammar_from("choice", json.dumps(texts))


def _of_regex(value: str) -> str:
    if not value:
        raise ConfigError("the regular expression is empty, so every answer would be empty; give another")
    return LLMatcher.grammar_from_regex(value)


READERS: dict[str, Callable[[str], str]] = {
    "json_schema": _of_schema,
    "regex": _of_regex,
    "choices": _of_choices,
}


def _json(value: str, kind: str, expected: str) -> Any:
    try:
        found = json.loads(value)
        # Python accepts NaN and lone surrogates, which are not JSON.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
        return found
    except ValueError as error:
        raise ConfigError(f"{NAMES[kind]} cannot be read ({error}); expected {expected}") from None


def _in_short(fault: str) -> str:
    """Return the line of llguidance's message that says what is wrong."""
    cause = re.search(r"^error: (.*)$", fault, re.MULTILINE)
    return cause[1] if cause else fault.rpartition("(in regex): ")[2].partition("\n")[0]


def _refuse_ignored(schema: Any) -> None:
    """Refuse keywords that llguidance accepts but does not enforce.

    Raises:
        ConfigError: a keyword is unknown, or counts properties that could be repeated.
    """
    dialect = validator_for(schema, default=Draft202012Validator)
    known = dialect.VALIDATORS.keys() | ANNOTATIONS
    for part in schemas_in(schema):
        if strange := sorted(part.keys() - known):
            raise ConfigError(
                f"the schema has the unknown keyword '{strange[0]}'."
                f"{did_you_mean(strange[0], known)} Leave it out"
            )
        is_open = part.get("additionalProperties", True) is not False or "patternProperties" in part
        if part.get("minProperties", 0) > 1 and is_open:
            raise ConfigError(
                "the schema has minProperties, which cannot be enforced where a key may be repeated; "
                "list all properties and set additionalProperties to false"
            )
