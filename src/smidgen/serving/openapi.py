"""The OpenAPI description of the endpoints, from the types of their bodies and answers, and a page of it.

The page is written here, without scripts and without anything from elsewhere, so that it works offline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from pydantic import BaseModel, TypeAdapter

from smidgen import __version__

REFERENCE = "#/components/schemas/{model}"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}code,pre{font-family:ui-monospace,monospace;font-size:.9em}"
    "pre{overflow:auto;padding:.8rem;border:1px solid #8886;border-radius:.3rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .8rem "
    ".3rem 0;border-bottom:1px solid #8884}h2{margin-top:2.5rem}"
)


@dataclass(frozen=True)
class Operation:
    """One endpoint.

    Attributes:
        method: `get` or `post`.
        path: its path, with parameters in braces.
        summary: what it does, in a sentence.
        body: type of the body.
        answer: type of the answer.
        example: an example of a body, as JSON.
        query: type of the query.
    """

    method: str
    path: str
    summary: str
    body: type[BaseModel] | None = None
    answer: Any = None
    example: str = ""
    query: type[BaseModel] | None = None


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return an OpenAPI 3.1 document of some endpoints."""
    types: dict[str, TypeAdapter[Any]] = {}
    for operation in operations:
        for each in (operation.body, operation.answer):
            if each is not None:
                types[each.__name__] = TypeAdapter(each)
    named, definitions = TypeAdapter.json_schemas(
        [(name, "validation", adapter) for name, adapter in types.items()], ref_template=REFERENCE
    )
    known = definitions.get("$defs", {})
    written: dict[str, Any] = {}
    for operation in operations:
        entry = {
            "summary": operation.summary,
            "parameters": _parameters(operation),
            "responses": {
                "200": {"description": "The answer.", **_content(operation.answer, named)},
                "default": {
                    "description": "An error.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if operation.body is not None:
            entry["requestBody"] = {"required": True, **_content(operation.body, named)}
        written.setdefault(operation.path, {})[operation.method] = entry
    return {
        "openapi": "3.1.0",
        "info": {"title": "smidgen", "version": __version__, "description": "An OpenAI-compatible server."},
        "paths": written,
        "components": {"schemas": {**known, "Error": ERROR}},
    }


ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def page(document: Mapping[str, Any], operations: Sequence[Operation]) -> str:
    """Return the description as a page of HTML."""
    examples = {(each.path, each.method): each.example for each in operations}
    schemas = document["components"]["schemas"]
    parts = []
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(entry.get('summary', ''))}</p>")
            if example := examples.get((path, method)):
                command = (
                    f"curl http://127.0.0.1:8765{path} -H 'content-type: application/json' -d '{example}'"
                )
                parts.append(f"<pre>{escape(command)}</pre>")
            content = entry.get("requestBody", {}).get("content", {}).get("application/json", {})
            parts.append(_table(content.get("schema", {}), schemas))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>smidgen</title><style>{STYLE}</style><h1>smidgen '
        f"{escape(document['info']['version'])}</h1><p>{escape(document['info']['description'])} The same "
        f'for programs: <a href="/openapi.json">openapi.json</a>.</p>{"".join(parts)}</html>'
    )


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    """Return the parameters in the path and the query of an endpoint; those of the query are optional."""
    names = [part.partition("}")[0] for part in operation.path.split("{")[1:]]
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    fields = operation.query.model_json_schema()["properties"] if operation.query else {}
    for name, schema in fields.items():
        described = {"name": name, "in": "query", "description": schema["description"], "schema": schema}
        found.append(described)
    return found


def _content(type_: Any, named: Mapping[Any, Any]) -> dict[str, Any]:
    if type_ is None:
        return {}
    return {"content": {"application/json": {"schema": named[(type_.__name__, "validation")]}}}


def _table(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    rows = [
        f"<tr><td><code>{escape(name)}</code>{'' if name in schema.get('required', ()) else ' '}"
        f"<td>{escape(_type(field))}<td>{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>Field<th>Type<th>Meaning{''.join(rows)}</table>" if rows else ""


def _type(field: Mapping[str, Any]) -> str:
    """Return the type of a field in a few words."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if choices := field.get("anyOf", field.get("oneOf")):
        kinds = [_type(each) for each in choices]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "const" in field or "enum" in field:
        return " or ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "any"))
