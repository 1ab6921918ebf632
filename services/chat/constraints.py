"""Constraints on an answer: schemas, choices, regular expressions, grammars.

They are collected from everywhere in a request, so that their size is checked before vLLM converts
them on the event loop and xgrammar compiles them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from services.chat.bounds import DEPTH, Bounds, nodes, too_many
from services.errors import shown
from services.openai.reading import invalid

Kind = Literal["json", "regex", "grammar", "structural_tag"]

_PLAIN_BYTES: Final = 16 << 10
_PLAIN_ITEMS: Final = 200
_COUNTED: Final = re.compile(
    r'"(?:min|max)(?:Length|Items|Properties|Contains)"|"pattern(?:Properties)?"|"format"'
)
_SMALL_CHARACTERS: Final = 512
_SMALL_REPETITIONS: Final = 32
_REPEATED: Final = re.compile(
    r'(?:\{|"(?:min|max)(?:Length|Items|Properties|Contains)": |~ *)(\d+)?(?:(?:,|\.\.) *(\d+))?'
)
_CHOSEN: Final = frozenset({"anyOf", "oneOf", "allOf"})
_COUNTED_IN: Final[dict[str, Any]] = {
    **dict.fromkeys(("enum", "prefixItems", *_CHOSEN), list),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), dict),
}
_BINDS: Final = "the constraints on the answers have"


@dataclass(frozen=True)
class Constraint:
    """A constraint: `text` is what xgrammar gets, `field` is where it was in the request."""

    field: str
    kind: Kind
    text: str
    items: int

    @property
    def is_plain(self) -> bool:
        """Whether it certainly compiles quickly.

        Measured with xgrammar 0.2.8, a vocabulary of 131,072 and two busy cores: 200 properties
        0.4 s, an enum of 1000 0.1 s, but 4 s for one `maxLength` of 100 and 6 s for `.{0,500}x`.
        """
        return (
            self.kind == "json"
            and len(self.text) <= _PLAIN_BYTES
            and self.items <= _PLAIN_ITEMS
            and not _COUNTED.search(self.text)
        )

    @property
    def is_small(self) -> bool:
        """Whether it probably compiles in a second or two."""
        if len(self.text) > _SMALL_CHARACTERS or "){" in self.text:
            return False
        counts = [max(int(n or 0) for n in found) for found in _REPEATED.findall(self.text)]
        return sum(counts) <= _SMALL_REPETITIONS


def find(path: str, body: Mapping[str, Any], bounds: Bounds) -> list[Constraint]:
    """Return the constraints on the answer to `body`.

    Raises:
        InvalidRequestError: they are too large, nested too deeply, or refer to themselves.
    """
    found: list[Constraint] = []
    size, items = 0, 0
    most_bytes, most_items = bounds.chat.grammar_kib << 10, bounds.chat.grammar_items
    for field, kind, value in _given(path, body):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        size += len(text.encode("utf-8", "surrogatepass"))
        if size > most_bytes:
            raise too_many(field, f"{_BINDS} over {most_bytes} bytes", "GRAMMAR_KIB")
        count = len(value) if isinstance(value, list) else _items(field, value)
        items += count
        if items > most_items:
            what = f"{_BINDS} over {most_items} choices, enum values and properties"
            raise too_many(field, what, "GRAMMAR_ITEMS")
        if isinstance(value, list):
            text = json.dumps({"enum": value})  # equivalent to the choices
        found.append(Constraint(field, kind, text, count))
    return found


def forces_a_call(body: Mapping[str, Any]) -> bool:
    """Return whether the answer has to be a tool call."""
    choice = body.get("tool_choice")
    return choice == "required" or isinstance(choice, dict)


def _given(path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, Kind, Any]]:
    bound = _dict(body.get("structured_outputs"))
    for name in ("json", "choice", "regex", "grammar", "structural_tag"):
        if isinstance(value := bound.get(name), str | dict | list):
            kind: Kind = "json" if name == "choice" else name  # type: ignore[assignment]
            read = _read(value) if name in {"json", "structural_tag"} else value
            yield f"structured_outputs.{name}", kind, read
    form = _dict(body.get("response_format"))
    if isinstance(schema := _dict(form.get("json_schema")).get("schema"), dict):
        yield "response_format.json_schema.schema", "json", schema
    if form.get("type") == "structural_tag":
        yield "response_format", "structural_tag", form
    if isinstance(schema := _dict(_dict(body.get("text")).get("format")).get("schema"), dict):
        yield "text.format.schema", "json", schema
    forced = forces_a_call(body)
    for place, tool in tools_in(body):
        flat = path == "/v1/responses"
        function = tool if flat else _dict(tool.get("function"))
        parameters = function.get("parameters")
        if isinstance(parameters, dict) and (forced or function.get("strict") is True):
            yield f"{place}.{'' if flat else 'function.'}parameters", "json", parameters


def tools_in(owner: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each tool of a body or a namespace, also those inside, with its place in the body."""
    tools = owner.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict):
            here = f"{place}tools[{index}]"
            yield here, tool
            if tool.get("type") == "namespace":
                yield from tools_in(tool, f"{here}.")


def _items(field: str, root: Any) -> int:
    """Return the number of choices, enum values and properties of a schema."""
    count, sound = 0, set[int]()
    for node in nodes(field, root) if isinstance(root, dict) else ():
        if isinstance(node, dict):
            for name, value in node.items():
                if isinstance(value, _COUNTED_IN.get(name, ())):
                    count += len(value)
            if isinstance(node.get("$ref"), str):
                _follow(field, root, node, sound)
    return count


def _follow(field: str, root: Any, node: Any, sound: set[int], seen: tuple[str, ...] = ()) -> None:
    """Refuse a reference that leads back to itself before anything is described.

    `sound` are the nodes that are known to be so, and `seen` is the path to here: references, and
    the names of the choices between them.
    """
    if not isinstance(node, dict) or id(node) in sound:
        return
    if len(seen) > DEPTH:
        raise invalid(field, f"more than {DEPTH} references and choices in a row")
    if isinstance(target := node.get("$ref"), str):
        why = "" if target not in seen else "refers to itself and so describes nothing"
        if not target.startswith("#"):
            why = "points outside the schema; references begin with #"
        if why:
            raise invalid(field, f"$ref {shown(target)} {why}")
        there: Any = root
        for part in target.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            there = there.get(key) if isinstance(there, dict) else None
        _follow(field, root, there, sound, (*seen, target))
    for name in _CHOSEN & node.keys():
        for inner in node[name] if isinstance(node[name], list) else ():
            _follow(field, root, inner, sound, (*seen, name))
    sound.add(id(node))


def _read(value: Any) -> Any:
    """Return a schema that was sent as text, parsed; the text itself if it is not JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
