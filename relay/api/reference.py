"""``/docs``: the OpenAPI document as one page for people. No script, nothing from elsewhere; it prints well.

Whatever is text of the document is escaped by ``tag``; only what ``tag`` made is taken for markup.
"""

import base64
import hashlib
import json
import re
from html import escape
from typing import Any

STYLE = """\
:root{color-scheme:light dark;--soft:color-mix(in srgb,currentColor 65%,transparent);--line:color-mix(in srgb,currentColor 18%,transparent)}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1.5rem}
h1{margin:0}h2{margin:2.5rem 0 .5rem;border-bottom:2px solid var(--line)}h4{margin:1rem 0 .25rem}
h3{margin:2rem 0 .25rem;overflow-wrap:anywhere}
p{margin:.4rem 0}code,pre{font:13px/1.45 ui-monospace,monospace}.soft{color:var(--soft)}
pre{margin:.4rem 0;padding:.6rem .8rem;border:1px solid var(--line);border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;margin:.4rem 0}
td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-top:1px solid var(--line)}
td{overflow-wrap:break-word}
nav ul{columns:26rem;padding:0;list-style:none;margin:.25rem 0 1rem}
.verb{display:inline-block;min-width:4.2rem;font-weight:600}a{color:inherit}
@media print{body{max-width:none;padding:0;font-size:11px}nav{display:none}}
@media print{pre,tr{break-inside:avoid}h3,h4{break-after:avoid}}
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Document = dict[str, Any]


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def render(document: Document) -> str:
    """Write the page."""
    by_tag: dict[str, list[tuple[str, str, Document]]] = {each["name"]: [] for each in document["tags"]}
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            by_tag[operation["tags"][0]].append((path, verb.upper(), operation))
    schemas = document["components"]["schemas"]
    title = f"{document['info']['title']} {document['info']['version']}"
    body = [tag("h1", title), tag("p", document["info"]["summary"]), *_paragraphs(document["info"]["description"]), _contents(by_tag)]
    for each in document["tags"]:
        body += [tag("h2", each["name"]), tag("p", each["description"])]
        body += [_operation(*entry) for entry in by_tag[each["name"]]]
    body += [tag("h2", "Problems"), _problems(document["components"]["examples"])]
    body += [tag("h2", "Documents"), *(_schema(name, schema) for name, schema in sorted(schemas.items()))]
    head = tag("head", Markup('<meta charset="utf-8">'), _VIEWPORT, tag("title", title), tag("style", Markup(STYLE)))
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en")


_VIEWPORT = Markup('<meta name="viewport" content="width=device-width,initial-scale=1">')


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """Make an element; children that are not markup are text."""
    inside = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    told = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{told}>{inside}</{name}>")


def _contents(by_tag: dict[str, list[tuple[str, str, Document]]]) -> Markup:
    parts = []
    for name, entries in by_tag.items():
        links = [tag("li", tag("a", tag("code", f"{verb} {path}"), href=f"#{told['operationId']}")) for path, verb, told in entries]
        parts += [tag("strong", name), tag("ul", *links)]
    return tag("nav", *parts)


def _operation(path: str, verb: str, operation: Document) -> Markup:
    parts = [
        tag("h3", tag("code", tag("span", verb, class_="verb"), path), id=operation["operationId"]),
        tag("p", *_text(operation["summary"])),
        *_paragraphs(operation["description"]),
    ]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            [tag("code", each["name"]), each["in"] + ("" if each.get("required") else ", optional"), *_cells(each)] for each in parameters
        ]
        parts += [tag("h4", "Parameters"), _table(("Name", "In", "What it is", "Type", "Example"), rows)]
    if "requestBody" in operation:
        parts.append(tag("h4", "Request"))
        content = operation["requestBody"]["content"]
        for kind, each in list(content.items())[:1]:
            parts.append(tag("p", tag("code", ", ".join(content)), " ", *_type(each["schema"])))
            parts += _examples(each) or [tag("p", operation["requestBody"].get("description", kind), class_="soft")]
    parts.append(tag("h4", "Answers"))
    for status, response in operation["responses"].items():
        fields = [name for name in response.get("headers", {}) if name != "Relay-Request-Id"]
        told = [" (", tag("code", ", ".join(fields)), ")"] if fields else []
        parts.append(tag("p", tag("strong", status), " ", *_text(response["description"]), *told))
        if not status.startswith(("4", "5")):
            for kind, each in response.get("content", {}).items():
                parts.append(tag("p", tag("code", kind), " ", *_type(each.get("schema", {})), class_="soft"))
                parts += _examples(each)
    return tag("section", *parts)


def _cells(parameter: Document) -> list[Markup]:
    example = parameter.get("example")
    shown = example if isinstance(example, str) else json.dumps(example)
    return [tag("span", *_text(parameter["description"])), tag("span", *_type(parameter["schema"])), tag("code", shown)]


def _schema(name: str, schema: Document) -> Markup:
    required = schema.get("required", [])
    rows = []
    for member, each in schema.get("properties", {}).items():
        what = tag("span", *_text(each.get("description", "")))
        rows.append([tag("code", member), tag("span", *_type(each)), "" if member in required else "optional", what])
    parts = [tag("h3", name, id=name), *_paragraphs(schema.get("description", ""))]
    if "enum" in schema:
        parts.append(tag("p", tag("code", ", ".join(map(str, schema["enum"])))))
    if rows:
        parts.append(_table(("Member", "Type", "", "What it is"), rows))
    return tag("section", *parts, *(_json(example) for example in schema.get("examples", [])))


def _problems(examples: Document) -> Markup:
    values = sorted((example["value"] for example in examples.values()), key=lambda value: (value["status"], value["code"]))
    rows = [[tag("code", each["code"], id=each["code"]), str(each["status"]), each["title"], each["detail"]] for each in values]
    return _table(("Code", "Status", "Title", "What to do"), rows)


def _type(schema: Document) -> list[str]:
    """Say a type in a few words, with links to the documents that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [tag("a", name, href=f"#{name}")]
    if "anyOf" in schema:
        choices = [_type(choice) for choice in schema["anyOf"]]
        return [part for number, choice in enumerate(choices) for part in ([" or "] if number else []) + choice]
    if schema.get("type") == "array":
        return ["list of ", *_type(schema.get("items", {}))]
    if "enum" in schema or "const" in schema:
        return [" or ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))]
    kinds = schema.get("type", "anything")
    return [" or ".join(kinds) if isinstance(kinds, list) else kinds, f" ({schema['format']})" if "format" in schema else ""]


def _examples(content: Document) -> list[Markup]:
    examples = [each["value"] for each in content.get("examples", {}).values()]
    return [_json(value) for value in ([content["example"]] if "example" in content else examples)]


def _json(value: Any) -> Markup:
    return tag("pre", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2))


def _table(heading: tuple[str, ...], rows: list[list[Any]]) -> Markup:
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("table", tag("thead", tag("tr", *(tag("th", cell) for cell in heading))), tag("tbody", *lines))


def _paragraphs(text: str) -> list[Markup]:
    return [tag("p", *_text(paragraph)) for paragraph in text.split("\n\n") if paragraph.strip()]


def _text(text: str) -> list[str]:
    """Text in which what stands between backticks is code."""
    return [tag("code", part) if number % 2 else part for number, part in enumerate(re.split("`", text))]
