"""Find the literal delimiters of a Jinja template: the text next to its expressions."""

import re

from jinja2 import nodes

LITERAL = "_literal_delimiter"
"""Function that the rewritten template calls with each literal delimiter and whether it begins a line."""

_LINE = re.compile(r"[^\n]*\S[^\n]*")
_MARKUP = re.compile(r"[<\[{#=|*~^/\\-].*\S.", re.DOTALL)


def with_delimiters(template: nodes.Template) -> nodes.Template:
    """Replace the literal text next to every expression of the template by calls of `LITERAL`.

    A delimiter is the last line of literal text before an expression, or the first line after one.
    """
    for output in template.find_all(nodes.Output):
        parts = list(output.nodes)
        output.nodes = [new for place in range(len(parts)) for new in _split(parts, place)]
    return template


def _split(parts: list[nodes.Expr], place: int) -> list[nodes.Expr]:
    """Split a literal part of an output at its delimiters; other parts are unchanged."""
    part = parts[place]
    if not isinstance(part, nodes.TemplateData):
        return [part]
    lines = list(_LINE.finditer(part.data))
    spans: set[tuple[int, int]] = set()
    if lines and _shows_texts(parts[place + 1 : place + 2]):
        spans.add(lines[-1].span())
    if lines and _shows_texts(parts[max(place - 1, 0) : place]):
        spans.add(lines[0].span())
    new: list[nodes.Expr] = []
    done = 0
    for start, end in sorted(spans):
        text = part.data[start:end]
        delimiter = text.strip()
        begins_line = (not start and not place) or part.data[start - 1 : start] == "\n"
        if not _is_delimiter(delimiter, begins_line=begins_line):
            continue
        start += len(text) - len(text.lstrip())
        new.append(nodes.TemplateData(part.data[done:start], lineno=part.lineno))
        arguments: list[nodes.Expr] = [nodes.Const(delimiter), nodes.Const(begins_line)]
        new.append(nodes.Call(nodes.Name(LITERAL, "load"), arguments, [], None, None, lineno=part.lineno))
        done = start + len(delimiter)
    return [*new, nodes.TemplateData(part.data[done:], lineno=part.lineno)]


def _shows_texts(neighbour: list[nodes.Expr]) -> bool:
    """Whether a neighbouring part may show arbitrary text: it is neither literal nor a delimiter."""
    return any(
        not isinstance(part, nodes.TemplateData | nodes.Const)
        and not (
            isinstance(part, nodes.Call)
            and isinstance(part.node, nodes.Name)
            and part.node.name == "delimiter"
        )
        for part in neighbour
    )


def _is_delimiter(text: str, *, begins_line: bool) -> bool:
    """Whether a line, or part of one, is more than plain words or one or two punctuation marks."""
    if begins_line:
        return len(text) > 2 or any(letter.isalnum() for letter in text)
    return bool(_MARKUP.match(text))
