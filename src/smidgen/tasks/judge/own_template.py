"""Custom judge templates, from TOML files.

    system = "You compare two summaries."
    user = '''
    Text: {{ prompt }}
    First: {{ a }}
    Second: {{ b }}'''

    [parse]
    regex = 'Winner: (?P<winner>A|B|tie)'

`system` and `user` are Jinja templates with the variables `prompt`, `a`, `b` and `reference` (empty if there
is none); a template that uses `answer` instead of `a` and `b` grades each answer alone. Completions are
parsed by a `regex`, or as a JSON object that matches a JSON `schema`. The named groups or properties are
`winner` (A, B or tie), or `a` and `b` (numbers), or `score` (a number, for grading alone). Either can also
constrain the whole completion during generation.

The texts that are shown cannot forge the text around them (`smidgen.tasks.judge.delimiters`). Delimiters are
the output of `{{ delimiter("[Answer A]") }}` and the rest of the line before and after an expression, or else
the line next to it: `First:` and `Second:` above. If a delimiter occurs in one of the texts (at the start of
a line, if the delimiter begins a line itself), all delimiters are numbered. Within a line, only markup such
as `</a>` is a delimiter; plain words and one or two punctuation marks are not, so put each answer on lines of
its own.

Matches and objects that the judge only quotes are ignored (`smidgen.tasks.judge.quotations`): those in
quotation marks, in code, in a block quote, or in an unclosed object. Marks that occur in the regex itself do
not quote, nor does a code fence around the whole completion. All others must agree; objects that do not match
the schema are ignored if another one does.
"""

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from smidgen.data.schemas import Pattern, check_schema, compile_pattern, validate
from smidgen.data.types import Constraint, Message
from smidgen.errors import ConfigError, did_you_mean
from smidgen.files import decode_text
from smidgen.tasks.judge.delimiters import Delimiter, free_number
from smidgen.tasks.judge.forms import Case, Choice, Fault, JudgeParseError, JudgeTemplate, Verdict, agreed
from smidgen.tasks.judge.literals import LITERAL, with_delimiters
from smidgen.tasks.judge.quotations import QUOTED, own_words
from smidgen.tasks.thinking import without_thinking

KEYS = ("system", "user", "stop", "parse")
SHOWN = frozenset({"prompt", "a", "b", "answer", "reference"})
NAMES = SHOWN | {"delimiter"}
WINNERS: Mapping[str, Choice] = {"a": "first", "b": "second", "tie": "tie", "c": "tie"}

_OBJECT_BEGINS = re.compile(r"(?:`{3,}[^\n]*\n\s*)?\{")
_JINJA = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)


class OwnTemplate(JudgeTemplate):
    """A custom template; see the module docstring. It has no tolerant format."""

    has_answers = False

    def __init__(self, name: str, content: Mapping[str, Any]):
        """Check everything that can be checked without a model.

        Args:
            name: name of the template in records.
            content: the keys of the file.

        Raises:
            ConfigError: a key is missing, unknown or invalid; the message says which.
        """
        self.name = name
        if strange := [key for key in content if key not in KEYS]:
            raise ConfigError(
                f"{name} has the key '{strange[0]}'.{did_you_mean(strange[0], KEYS)} Known: {', '.join(KEYS)}"
            )
        self._system = self._template(content, "system") if content.get("system") else None
        self._user = self._template(content, "user")
        self.singly = self._shows_one_answer(content)
        self.stop = tuple(self._texts(content, "stop"))
        self._regex, self._schema = self._reader(content)
        self.messages(Case("a question", "one answer", "another answer", "a right answer"))
        self.constraint = self._constraint()

    def messages(self, case: Case) -> tuple[Message, ...]:
        """The rendered system message, if any, and the user message."""
        shown = {"prompt": case.prompt, "reference": case.reference or ""}
        shown |= {"answer": case.first} if self.singly else {"a": case.first, "b": case.second or ""}
        used: set[Delimiter] = set()
        messages = self._rendered(shown, used, 1)
        number = free_number(used, shown.values())
        return messages if number == 1 else self._rendered(shown, set(), number)

    def _rendered(self, shown: Mapping[str, str], used: set[Delimiter], number: int) -> tuple[Message, ...]:
        """Render the messages with numbered delimiters; the delimiters are added to `used`."""

        def numbered(text: str, begins_line: bool = False) -> str:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"delimiter needs a text, not {text!r}")
            delimiter = Delimiter(text, begins_line)
            used.add(delimiter)
            return delimiter.numbered(number)

        names = {**shown, "delimiter": numbered, LITERAL: numbered}
        system = (Message("system", self._render("system", self._system, names)),) if self._system else ()
        return *system, Message("user", self._render("user", self._user, names))

    def parse(self, text: str) -> Verdict | float:
        """The verdict of all matches, or of all JSON objects that match the schema."""
        if self._regex is not None:
            found = self._matches(without_thinking(text), self._regex)
            return agreed(map(self._verdict, found), Fault.NO_MATCH)
        objects = _own_objects(without_thinking(text, _OBJECT_BEGINS))
        fitting = [found for found in objects if self._fits(found)]
        return agreed(map(self._verdict, fitting), Fault.NOT_IN_SCHEMA)

    def answers(self) -> Mapping[str, Verdict]:
        """Not available: the possible answers of a custom template are unknown.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"the template {self.name} does not support log-probability scoring, because its possible "
            "answers are unknown; generate, or use a built-in template"
        )

    def verdict_text(self, shares: Mapping[str, float]) -> str:
        """Not available, as `answers`.

        Raises:
            ConfigError: always.
        """
        return str(self.answers())

    def _render(self, key: str, template: jinja2.Template, shown: Mapping[str, Any]) -> str:
        try:
            return template.render(shown)
        except Exception as error:  # expressions in a template can raise anything
            raise ConfigError(
                f"{self.name}: '{key}' cannot be rendered: {type(error).__name__}: {error}"
            ) from None

    @staticmethod
    def _matches(answer: str, regex: Pattern) -> list[dict[str, Any]]:
        """Return the groups of every match outside quotations, or of a match of the whole answer."""
        own = own_words(answer, literal=regex.pattern)
        if found := [match.groupdict() for match in regex.finditer(own)]:
            return found
        start = len(answer) - len(answer.lstrip())
        whole = regex.fullmatch(answer, start, len(answer.rstrip()))
        if whole and not any(QUOTED in own[slice(*whole.span(name))] for name in regex.groupindex):
            return [whole.groupdict()]
        if regex.search(answer):
            raise JudgeParseError(Fault.QUOTED)
        return []

    def _fits(self, found: dict[str, Any]) -> bool:
        try:
            validate(found, self._schema or {})
        except ValidationError:
            return False
        return True

    def _verdict(self, found: Mapping[str, Any]) -> Verdict | float:
        """Convert named groups or properties to a verdict or a grade."""
        try:
            if self.singly:
                return _number(found["score"])
            if found.get("winner") is not None:
                return Verdict(WINNERS[str(found["winner"]).strip().lower()])
            return Verdict.of_scores(_number(found["a"]), _number(found["b"]))
        except (KeyError, TypeError, ValueError):
            raise JudgeParseError(Fault.NO_VERDICT) from None

    def _template(self, content: Mapping[str, Any], key: str) -> jinja2.Template:
        text = content.get(key)
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{self.name}: '{key}' is {text!r}, expected the text of a Jinja template")
        try:
            parsed = _JINJA.parse(text)
            strange = find_undeclared_variables(parsed) - NAMES
            template = _JINJA.from_string(with_delimiters(parsed))
        except jinja2.TemplateError as error:
            raise ConfigError(f"{self.name}: '{key}' is not a Jinja template: {error}") from None
        if strange:
            name = min(strange)
            raise ConfigError(
                f"{self.name}: '{key}' uses '{name}'.{did_you_mean(name, NAMES)} "
                f"Known: {', '.join(sorted(NAMES))}"
            )
        return template

    def _shows_one_answer(self, content: Mapping[str, Any]) -> bool:
        """Whether it grades one answer alone; raises if it does not show the answers."""
        shown = find_undeclared_variables(_JINJA.parse(content["user"])) & SHOWN
        if "answer" in shown and not shown & {"a", "b"}:
            return True
        if {"a", "b"} <= shown and "answer" not in shown:
            return False
        raise ConfigError(
            f"{self.name}: 'user' must show both {{{{ a }}}} and {{{{ b }}}}, or {{{{ answer }}}} alone; "
            f"it shows {', '.join(sorted(shown)) or 'nothing'}"
        )

    def _texts(self, content: Mapping[str, Any], key: str) -> list[str]:
        texts = content.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError(f"{self.name}: '{key}' is {texts!r}, expected a list of texts")
        return texts

    def _reader(self, content: Mapping[str, Any]) -> tuple[Pattern | None, dict[str, Any] | None]:
        """Read the regular expression or the schema that parses answers."""
        parse = content.get("parse")
        if not isinstance(parse, dict) or len(parse) != 1 or not parse.keys() <= {"regex", "schema"}:
            raise ConfigError(f"{self.name}: [parse] is {parse!r}, expected either 'regex' or 'schema' in it")
        wanted = "'score'" if self.singly else "'winner', or 'a' and 'b'"
        if "regex" in parse:
            try:
                # A FutureWarning means that a later Python will read the pattern differently.
                with catch_warnings(action="error", category=FutureWarning):
                    pattern = compile_pattern(parse["regex"], re.DOTALL)
            except (re.error, TypeError, FutureWarning) as error:
                raise ConfigError(f"{self.name}: the regex is invalid: {error}") from None
            self._need(set(pattern.groupindex), f"a regex with named groups {wanted}")
            return pattern, None
        schema = parse["schema"]
        if not isinstance(schema, dict):
            raise ConfigError(f"{self.name}: the schema is {schema!r}, expected a table")
        try:
            check_schema(schema)
            resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
            for reference in _references(schema):
                resolver.lookup(reference)
        except (SchemaError, TypeError, Unresolvable) as error:
            message = getattr(error, "message", error)
            raise ConfigError(f"{self.name}: the schema is not a JSON schema: {message}") from None
        self._need(set(schema.get("properties", {})), f"a schema with properties {wanted}")
        return None, schema

    def _constraint(self) -> Constraint:
        """The constraint under which a completion is exactly what the parser expects."""
        if self._regex is not None:
            return Constraint("regex", f"(?s:{self._regex.pattern})")  # compiled with DOTALL above
        return Constraint("json_schema", json.dumps(self._schema))

    def _need(self, names: set[str], expected: str) -> None:
        """Raise if the groups or properties of the parser do not suffice for the template."""
        fits = "score" in names if self.singly else "winner" in names or {"a", "b"} <= names
        if not fits:
            found = ", ".join(sorted(names)) or "none"
            raise ConfigError(f"{self.name}: expected {expected} to parse judgements; found {found}")


def read_form(path: Path) -> OwnTemplate:
    """Read a template file.

    Raises:
        ConfigError: it is missing, not TOML, or not a template.
    """
    try:
        content = tomllib.loads(decode_text(path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(f"there is no template at {path}; expected a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from None
    return OwnTemplate(str(path), content)


def _number(value: Any) -> float:
    """Convert a value to a finite float; booleans are refused."""
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _references(schema: Any) -> Iterator[str]:
    """Yield every `$ref` in a schema."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _own_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that are neither quoted nor inside another, even an unclosed one."""
    found = list(_objects(text))
    bare = text
    for start, end, _ in found:  # quotation marks inside an object do not quote
        bare = f"{bare[: start + 1]}{'x' * (end - start - 2)}{bare[end - 1 :]}"
    own = own_words(bare)
    objects = [
        value
        for start, _, value in found
        if own[start] != QUOTED and own.count("{", 0, start) <= own.count("}", 0, start)
    ]
    if not objects:
        raise JudgeParseError(Fault.QUOTED if found else Fault.NOT_JSON)
    return objects


def _objects(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield start, end and value of every top-level JSON object in a text."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start != -1:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield start, end, value
        start = text.find("{", end)
