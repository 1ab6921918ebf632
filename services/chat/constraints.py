"""What a request binds its answers with: schemas, choices, expressions, grammars.

They are gathered from wherever a request may hold them, so that their size is bounded before vLLM
converts them on the event loop and xgrammar compiles them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["json", "regex", "grammar", "structural_tag"]

_DEPTH: Final = 64
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
_LISTED: Final = frozenset({"enum", "anyOf", "oneOf", "allOf", "prefixItems"})
_CHOSEN: Final = frozenset({"anyOf", "oneOf", "allOf"})
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})


@dataclass(frozen=True)
class Constraint:
    """One thing that binds the answer: `text` is what xgrammar is given, `field` where it was."""

    field: str
    kind: Kind
    text: str
    items: int

    @property
    def is_plain(self) -> bool:
        """Whether it surely compiles at once.

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
        """Whether it looks as if it took no more than a second or two: no proof."""
        if len(self.text) > _SMALL_CHARACTERS or "){" in self.text:
            return False
        counts = [max(int(n or 0) for n in found) for found in _REPEATED.findall(self.text)]
        return sum(counts) <= _SMALL_REPETITIONS


def find(path: str, body: Mapping[str, Any], most_bytes: int, most_items: int) -> list[Constraint]:
    """Return what binds the answer to `body`.

    Raises:
        InvalidRequestError: it is larger than the bounds, nested too deeply, or refers to itself.
    """
    found: list[Constraint] = []
    size, items = 0, 0
    for field, kind, value in _given(path, body):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        size += len(text.encode("utf-8", "surrogatepass"))
        if size > most_bytes:
            raise _too_much(field, f"over {most_bytes} bytes", "GRAMMAR_KIB")
        count = _Schema(field, value).items
        items += count
        if items > most_items:
            raise _too_much(
                field, f"over {most_items} choices, enum values and properties", "GRAMMAR_ITEMS"
            )
        if isinstance(value, list):
            text = json.dumps({"enum": value})  # choices: as large, and refused alike
        found.append(Constraint(field, kind, text, count))
    return found


def forces_a_call(body: Mapping[str, Any]) -> bool:
    """Whether the answer has to be a tool call."""
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
    for place, tool in _tools(body.get("tools"), "tools"):
        function = tool if path == "/v1/responses" else _dict(tool.get("function"))
        name = "parameters" if path == "/v1/responses" else "function.parameters"
        parameters = function.get("parameters")
        if isinstance(parameters, dict) and (forced or function.get("strict") is True):
            yield f"{place}.{name}", "json", parameters


def _tools(tools: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(tool, dict):
            yield f"{place}[{index}]", tool
            if tool.get("type") == "namespace":
                yield from _tools(tool.get("tools"), f"{place}[{index}].tools")


class _Schema:
    """One walk through a schema, or through what holds some."""

    def __init__(self, field: str, root: Any) -> None:
        self.field = field
        self.root = root
        self._sound: set[int] = set()
        self.items = len(root) if isinstance(root, list) else 0
        if isinstance(root, dict):
            self._walk(root)

    def _walk(self, root: Any) -> None:
        level = [root]
        for _ in range(_DEPTH):
            below: list[Any] = []
            for node in level:
                if isinstance(node, dict):
                    self._look(node)
                    below += node.values()
                else:
                    below += node
            level = [node for node in below if isinstance(node, dict | list)]
            if not level:
                return
        raise self._refusal(f"nested more than {_DEPTH} levels deep")

    def _look(self, node: dict[str, Any]) -> None:
        for name, value in node.items():
            if (name in _LISTED and isinstance(value, list)) or (
                name in _NAMED and isinstance(value, dict)
            ):
                self.items += len(value)
        if isinstance(node.get("$ref"), str):
            self._follow(node)

    def _follow(self, node: Any, seen: tuple[str, ...] = ()) -> None:
        """Refuse a reference that leads back to itself before it has described anything.

        `seen` is the way here: references, and the names of choices between them.
        """
        if not isinstance(node, dict) or id(node) in self._sound:
            return
        if len(seen) > _DEPTH:
            raise self._refusal(f"more than {_DEPTH} references and choices in a row")
        if isinstance(target := node.get("$ref"), str):
            if not target.startswith("#"):
                raise self._fault(target, "lies outside; references begin with #")
            if target in seen:
                raise self._fault(target, "refers to itself and so describes nothing")
            self._follow(self._at(target), (*seen, target))
        for name in _CHOSEN & node.keys():
            for inner in node[name] if isinstance(node[name], list) else ():
                self._follow(inner, (*seen, name))
        self._sound.add(id(node))

    def _at(self, pointer: str) -> Any:
        node: Any = self.root
        for part in pointer.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def _fault(self, target: str, why: str) -> InvalidRequestError:
        return self._refusal(f"$ref {target[:64]!r} {why}")

    def _refusal(self, why: str) -> InvalidRequestError:
        return InvalidRequestError(f"{self.field}: {why}", param=self.field, code="invalid_value")


def _read(value: Any) -> Any:
    """Return a schema that was given as text in its own form; the text where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _too_much(field: str, what: str, setting: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field}: what binds the answers of this request has {what} (BENTOVOX_CHAT__{setting})",
        param=field,
        code="array_above_max_length",
    )
