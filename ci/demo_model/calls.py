"""Calls of functions: how they are offered, made and filled in."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from ci.demo_model.corpus import Corpus, Function


def tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a function in the shape of OpenAI's `tools`."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def offer(function: Function, rng: random.Random | None = None) -> dict[str, Any]:
    """Return the function as a tool; with `rng` in another wording."""
    if rng is None:
        return tool(function.name, function.descriptions[0], function.parameters)
    return tool(function.name, rng.choice((*function.descriptions, "")), _reworded(function, rng))


def _reworded(function: Function, rng: random.Random) -> dict[str, Any]:
    text = json.dumps(function.parameters)
    for old, new in function.rename.items():
        text = text.replace(f'"{old}"', json.dumps(rng.choice((old, old, *new))))
    parameters: dict[str, Any] = json.loads(text)
    if rng.random() < 0.3:  # noqa: PLR2004
        for name, schema in parameters["properties"].items():
            schema["description"] = rng.choice((f"The {name}", name, f"the {name} to use"))
    if rng.random() < 0.3:  # noqa: PLR2004
        parameters["additionalProperties"] = False
    return parameters


def arguments_of(
    function: Function, slots: dict[str, Any], tools: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the arguments of a call, filled from the slots and named as the offered tool does."""
    offered = next(t["function"] for t in tools if t["function"]["name"] == function.name)
    names = offered["parameters"]["properties"]
    pairs = zip(names, function.parameters["properties"], strict=True)
    return {name: slots[slot] for name, slot in pairs}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return an assistant's message that calls one function."""
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [made]}


def made_up_slots(corpus: Corpus, rng: random.Random) -> dict[str, Any]:
    """Return values for every slot: cities that exist, and now and then one that does not."""
    city = rng.choice(corpus.cities)
    if rng.random() < 0.25:  # noqa: PLR2004
        city = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8))).capitalize()
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    sky, degrees, level = rng.choice(corpus.skies), rng.randint(0, 35), rng.randint(0, 10)
    named = {"city": city, "sky": sky, "degrees": degrees, "level": level}
    return {**named, "a": a, "b": b, "sum": a + b}
