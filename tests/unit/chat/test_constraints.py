"""Constraints are found in every field, and bounded before anything converts them."""

from __future__ import annotations

from typing import Any

import pytest

from services.chat.bounds import Bounds
from services.chat.constraints import find
from services.errors import InvalidRequestError
from services.settings.sections import ChatSettings

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def bounds(most_kib: int, most_items: int) -> Bounds:
    return Bounds(ChatSettings(grammar_kib=most_kib, grammar_items=most_items), 1, 1)


def fields(body: dict[str, Any], path: str = CHAT) -> list[str]:
    return [constraint.field for constraint in find(path, body, bounds(10, 100))]


def tool(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema, **more}}


def form(schema: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {"response_format": wanted}


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        (CHAT, {}, []),
        (CHAT, {"response_format": {"type": "json_object"}}, []),
        (CHAT, form(SCHEMA), ["response_format.json_schema.schema"]),
        (
            CHAT,
            {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
            ["response_format"],
        ),
        (CHAT, {"structured_outputs": {"choice": ["a"]}}, ["structured_outputs.choice"]),
        (CHAT, {"structured_outputs": {"regex": "a"}}, ["structured_outputs.regex"]),
        (CHAT, {"structured_outputs": {"json": '{"enum": [1]}'}}, ["structured_outputs.json"]),
        (CHAT, {"tools": [tool(SCHEMA)]}, []),
        (CHAT, {"tools": [tool(SCHEMA, strict=True)]}, ["tools[0].function.parameters"]),
        (
            CHAT,
            {"tools": [tool(SCHEMA)], "tool_choice": "required"},
            ["tools[0].function.parameters"],
        ),
        (RESPONSES, {"text": {"format": {"schema": SCHEMA}}}, ["text.format.schema"]),
        (
            RESPONSES,
            {"tools": [{"type": "function", "parameters": SCHEMA}], "tool_choice": "required"},
            ["tools[0].parameters"],
        ),
    ],
)
def test_it_is_found_wherever_it_may_stand(
    path: str, body: dict[str, Any], found: list[str]
) -> None:
    assert fields(body, path) == found


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ({"structured_outputs": {"choice": ["a"] * 101}}, "GRAMMAR_ITEMS"),
        ({"structured_outputs": {"choice": ["a" * 11_000]}}, "GRAMMAR_KIB"),
        ({"structured_outputs": {"regex": "a" * 11_000}}, "GRAMMAR_KIB"),
        ({"structured_outputs": {"grammar": "a" * 11_000}}, "GRAMMAR_KIB"),
        (form({"enum": list(range(101))}), "GRAMMAR_ITEMS"),
        (form({"properties": {str(n): {} for n in range(101)}}), "GRAMMAR_ITEMS"),
        ({"structured_outputs": {"json": str(form({})) + " " * 11_000}}, "GRAMMAR_KIB"),
        ({"tools": [tool({"enum": [1] * 60})] * 2, "tool_choice": "required"}, "GRAMMAR_ITEMS"),
    ],
)
def test_its_size_is_bounded_and_the_setting_named(body: dict[str, Any], setting: str) -> None:
    with pytest.raises(InvalidRequestError, match=setting) as refused:
        fields(body)
    assert refused.value.param


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_its_depth_is_bounded() -> None:
    assert fields(form(nested(60)))
    with pytest.raises(InvalidRequestError, match="64 levels"):
        fields(form(nested(70)))


ITSELF = [
    {"$ref": "#"},
    {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"properties": {"a": {"$ref": "#/properties/a"}}},
]
SOUND = [
    {"type": "object", "properties": {"again": {"$ref": "#"}}},
    {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
    {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"const": 1}}},
    {"$ref": "#/$defs/not%20there"},
]


@pytest.mark.parametrize("schema", ITSELF)
def test_a_schema_that_only_refers_to_itself_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="refers to itself") as refused:
        fields(form(schema))
    assert refused.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("schema", SOUND)
def test_other_references_pass(schema: dict[str, Any]) -> None:
    assert fields(form(schema))


def test_a_long_row_of_references_is_refused() -> None:
    row = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(99)}
    with pytest.raises(InvalidRequestError, match="in a row"):
        fields(form({"$ref": "#/$defs/d0", "$defs": row}))


def test_a_long_row_of_references_through_choices_is_refused() -> None:
    node: dict[str, Any] = {"type": "string"}
    row = {"d60": node}
    for n in reversed(range(60)):
        node = {"$ref": f"#/$defs/d{n + 1}"}
        for _ in range(25):
            node = {"anyOf": [node]}
        row[f"d{n}"] = node
    schema = {"$ref": "#/$defs/d0", "$defs": row}
    for body in (form(schema), {"text": {"format": {"type": "json_schema", "schema": schema}}}):
        with pytest.raises(InvalidRequestError, match="64 references and choices in a row"):
            find(CHAT, body, bounds(100, 10_000))


def test_a_reference_to_another_document_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="points outside"):
        fields(form({"$ref": "http://example.com/schema.json"}))


@pytest.mark.parametrize(
    ("schema", "plain"),
    [
        (SCHEMA, True),
        ({"enum": ["a"]}, True),
        ({"type": "string", "maxLength": 100}, False),
        ({"type": "string", "pattern": "a"}, False),
        ({"type": "array", "minItems": 2}, False),
        ({"type": "string", "description": "a" * 20_000}, False),
    ],
)
def test_what_counts_repetitions_or_is_large_is_not_plain(
    schema: dict[str, Any], *, plain: bool
) -> None:
    (constraint,) = find(CHAT, form(schema), bounds(100, 100))
    assert constraint.is_plain is plain


UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


@pytest.mark.parametrize(
    ("regex", "small"),
    [
        ("[a-z]{3}2345", True),
        (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", True),
        (UUID, True),
        (".{0,500}x", False),
        ("a{400,}", False),
        ("(a{9}b){9}", False),
        ("a" * 600, False),
        ("a{" + "9" * 5000 + "}", False),
    ],
)
def test_an_expression_that_is_short_and_repeats_little_is_small(
    regex: str, *, small: bool
) -> None:
    (constraint,) = find(CHAT, {"structured_outputs": {"regex": regex}}, bounds(10, 100))
    assert constraint.is_small is small


@pytest.mark.parametrize(("most", "small"), [(5, True), (500, False)])
def test_a_schema_that_counts_little_is_small(most: int, *, small: bool) -> None:
    (constraint,) = find(CHAT, form({"type": "string", "maxLength": most}), bounds(10, 100))
    assert constraint.is_small is small
