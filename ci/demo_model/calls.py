"""Calls of functions: how they are offered, made and filled in."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from ci.demo_model.corpus import Corpus, Function


def offer(function: Function, rng: random.Random | None = None) -> dict[str, Any]:
    """The function in the shape of OpenAI's `tools`; with `rng` in another wording."""
    description, parameters = function.descriptions[0], function.parameters
    if rng is not None:
        description = rng.choice((*function.descriptions, ""))
        parameters = _reworded(function, rng)
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": description,
            "parameters": parameters,
        },
    }


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


def tool_names(tools: list[dict[str, Any]], function: Function) -> dict[str, str]:
    """How the offered schema calls the arguments of the function."""
    offered = next(t["function"] for t in tools if t["function"]["name"] == function.name)
    return dict(
        zip(function.parameters["properties"], offered["parameters"]["properties"], strict=True)
    )


def arguments_of(
    function: Function, slots: dict[str, Any], names: dict[str, str]
) -> dict[str, Any]:
    """The arguments of a call, filled from the slots and named as the offered schema does."""
    return {names.get(name, name): slots[name] for name in function.parameters["properties"]}


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """An assistant's message that calls one function."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [_typed(function)]}


def _typed(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def made_up_slots(corpus: Corpus, rng: random.Random) -> dict[str, Any]:
    """Values for every slot: cities that exist, and now and then one that does not."""
    city = rng.choice(corpus.cities)
    if rng.random() < 0.25:  # noqa: PLR2004
        city = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8))).capitalize()
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    return {
        "city": city,
        "sky": rng.choice(corpus.skies),
        "degrees": rng.randint(0, 35),
        "level": rng.randint(0, 10),
        "a": a,
        "b": b,
        "sum": a + b,
    }
