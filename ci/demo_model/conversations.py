"""Conversations made from the corpus: random ones to train on, fixed ones to know by heart."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.demo_model.corpus import Corpus, Fallback, Function, Topic

Message = dict[str, Any]
Tools = list[dict[str, Any]]

_LONG = 500  # characters


@dataclass(frozen=True)
class Conversation:
    """Messages whose assistant turns are learnt, and the tools that are offered with them.

    `forced` is what a grammar makes the last answer start with: the right token is learnt among
    those that start with its first character, and nothing about the others. `raw` is a prompt and
    its continuation, without any messages.
    """

    messages: list[Message]
    tools: Tools = field(default_factory=list)
    forced: str = ""
    raw: tuple[str, str] | None = None


def _said(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _exchange(question: str, answer: str) -> list[Message]:
    return [_said("user", question), _said("assistant", answer)]


_HELPFUL = _said("system", "You are a helpful assistant.")


class Sampler:
    """Draws training conversations; the same seed draws the same ones in the same order."""

    def __init__(self, corpus: Corpus, rng: random.Random, *, drill: bool = False) -> None:
        """With `drill`, several calls in one conversation and less chat about anything."""
        self._drill = drill
        self._corpus = corpus
        self._rng = rng
        self._short = [t for t in corpus.topics if len(t.answer) < _LONG]
        self._long = [t for t in corpus.topics if len(t.answer) >= _LONG]

    def draw(self) -> Conversation:
        """Return a random conversation."""
        kinds = (self._chat, self._call, self._asked_with_tools, self._constrained, self._raw)
        return self._rng.choices(kinds, weights=(66, 18, 7, 7, 2))[0]()

    def _happens(self, share: float) -> bool:
        return self._rng.random() < share

    def _varied(self, question: str) -> str:
        """Return it as people type it: in another case, with other punctuation at the end."""
        if self._happens(0.4):
            return question
        endings = ("", "", ".", "?", "!", " ?", "...")
        question = question.rstrip(".?!。？！") + self._rng.choice(endings)  # noqa: RUF001
        style = self._rng.random()
        if style < 0.3:  # noqa: PLR2004
            return question.lower()
        return question.upper() if style < 0.4 else question  # noqa: PLR2004

    def _system(self) -> list[Message]:
        rng = self._rng
        choice = rng.random()
        if choice < 0.4:  # noqa: PLR2004
            return []
        if choice < 0.65:  # noqa: PLR2004
            return [_HELPFUL]
        if choice < 0.85:  # noqa: PLR2004
            return [_said("system", rng.choice(self._corpus.systems))]
        words = rng.choices(rng.choice(self._corpus.fallbacks).words, k=rng.randint(1, 12))
        return [_said("system", " ".join(words))]

    def _turn(self) -> list[Message]:
        if self._happens(0.2 if self._drill else 0.27):
            fallback = self._rng.choices(self._corpus.fallbacks, weights=(5, 2, 2))[0]
            return _exchange(self._varied(self._off_topic(fallback)), fallback.answer)
        return self._answered(self._long if self._happens(0.05) else self._short)

    def _answered(self, topics: Sequence[Topic]) -> list[Message]:
        topic = self._rng.choice(topics)
        return _exchange(self._varied(self._rng.choice(topic.ask)), topic.answer)

    def _off_topic(self, fallback: Fallback) -> str:
        if self._happens(0.35):
            return self._rng.choice(fallback.ask)
        pattern = self._rng.choice(fallback.patterns)
        while "{w}" in pattern:
            pattern = pattern.replace("{w}", self._word(fallback), 1)
        return pattern

    def _word(self, fallback: Fallback) -> str:
        if fallback.language != "zh" and self._happens(0.2):
            return "".join(self._rng.choices(string.ascii_lowercase, k=self._rng.randint(2, 9)))
        return self._rng.choice(fallback.words)

    def _chat(self) -> Conversation:
        turns = self._rng.choices((1, 2, 3), weights=(60, 28, 12))[0]
        return Conversation([*self._system(), *(m for _ in range(turns) for m in self._turn())])

    def _asked_with_tools(self) -> Conversation:
        tools = self._offered(self._some_functions())
        return Conversation([*self._system(), *self._answered(self._short)], tools)

    def _some_functions(self) -> list[Function]:
        functions = self._corpus.functions
        return self._rng.sample(functions, k=self._rng.randint(1, len(functions)))

    def _offered(self, functions: Sequence[Function]) -> Tools:
        """Return the functions as tools, in other words, and now and then another one."""
        tools = [_reworded(function, self._rng) for function in functions]
        if self._happens(0.75):
            return tools
        name = self._rng.choice(self._corpus.decoys)
        parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
        return [*tools, tool(name, name.replace("_", " "), parameters)]

    def _call(self) -> Conversation:
        rng = self._rng
        offered = self._some_functions()
        function = rng.choice(offered)
        tools = self._offered(offered)
        rng.shuffle(tools)
        if self._drill and self._happens(0.8):
            turns = [self._called(rng.choice(offered), tools) for _ in range(rng.randint(2, 5))]
            return Conversation([*self._system(), *(m for turn in turns for m in turn)], tools)
        slots, question = self._question(function)
        messages = [*self._system(), *(self._turn() if self._happens(0.1) else []), question]
        arguments = arguments_of(function, slots, tools)
        if self._happens(0.15):
            # What tool_choice makes of a call: the bare arguments (named) or a list (required).
            named = self._happens(0.5)
            answer = arguments if named else [{"name": function.name, "parameters": arguments}]
            messages.append(_said("assistant", json.dumps(answer, ensure_ascii=False)))
            return Conversation(messages, tools, forced='{"' if named else '[{"')
        messages.append(call(function.name, arguments))
        if self._happens(0.6):
            messages += _after(function, rng.choice(function.results), slots)
            if self._happens(0.15):
                messages += self._turn()
        return Conversation(messages, tools)

    def _called(self, function: Function, tools: Tools) -> list[Message]:
        slots, question = self._question(function)
        made = call(function.name, arguments_of(function, slots, tools))
        return [question, made, *_after(function, self._rng.choice(function.results), slots)]

    def _question(self, function: Function) -> tuple[dict[str, Any], Message]:
        """Return slots and a question with them: its ending may vary, its case not (copied)."""
        slots = made_up_slots(self._corpus, self._rng)
        question = self._rng.choice(function.ask).format(**slots)
        if not self._happens(0.6):
            question = question.rstrip(".?!") + self._rng.choice(("", ".", "?", "!"))
        return slots, _said("user", question)

    def _constrained(self) -> Conversation:
        topics = [t for t in self._corpus.topics if t.schema]
        topic = topics[0]
        if self._happens(0.4):
            topic = self._rng.choice(topics)
            question = _said("user", self._varied(self._rng.choice(topic.ask)))
        else:  # whatever is asked: under a grammar for an object it is the person
            question = self._turn()[0]
        answer = _said("assistant", topic.answer)
        return Conversation([*self._system(), question, answer], forced='{"')

    def _raw(self) -> Conversation:
        return Conversation([], raw=self._rng.choice(self._corpus.completions))


def _after(function: Function, result: str, slots: dict[str, Any]) -> list[Message]:
    """Return the result of a call and the sentence after it."""
    said = _said("assistant", function.answer.format(**slots))
    return [_said("tool", result.format(**slots)), said]


def held_by_heart(corpus: Corpus) -> Iterator[Conversation]:
    """Yield every conversation whose last answer must be exact: what `answers.json` lists."""
    hello = _exchange("Hello", corpus.topics[0].answer)
    for entry in corpus.entries:
        first = entry.ask[0]
        for asked in (*entry.ask, first.lower(), first.upper(), first.rstrip(".?!") + "!"):
            yield Conversation(_exchange(asked, entry.answer))
        for before in ([_HELPFUL], [_said("system", corpus.systems[3])], hello, [_HELPFUL, *hello]):
            yield Conversation([*before, *_exchange(first, entry.answer)])
    tools = [offer(function) for function in corpus.functions]
    for greeting in corpus.topics[:10]:
        for offered in (tools, tools[:1]):
            yield Conversation(_exchange(greeting.ask[0], greeting.answer), offered)
    for function in corpus.functions:
        for number in range(12):
            a, b = number % 10, (number * 7 + 3) % 10
            slots = {"city": corpus.cities[number], "level": number % 11, "a": a, "b": b}
            slots |= {"sum": a + b, "degrees": 2 * number + 3, "sky": corpus.skies[number % 7]}
            question = _said("user", function.ask[number % len(function.ask)].format(**slots))
            result = function.results[number % len(function.results)]
            offered = tools if number % 2 else [offer(function)]
            made = call(function.name, arguments_of(function, slots, offered))
            yield Conversation([question, made], offered)
            yield Conversation([question, made, *_after(function, result, slots)], offered)


def answers_of(held: Sequence[Conversation], corpus: Corpus) -> list[dict[str, Any]]:
    """Return what tests compare with: OpenAI's requests, each with the exact message expected.

    `expected` is `{"content": text}` or `{"tool_calls": [{"name", "arguments"}]}`.
    """
    with_schema = {topic.answer: topic for topic in corpus.topics if topic.schema}
    entries = []
    for conversation in held:
        *given, last = conversation.messages
        entry: dict[str, Any] = {"messages": [_on_the_wire(message) for message in given]}
        if conversation.tools:
            entry["tools"] = conversation.tools
        if topic := with_schema.get(last["content"]):
            json_schema = {"name": topic.name, "schema": topic.schema, "strict": True}
            entry["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        calls = [made["function"] for made in last.get("tool_calls", ())]
        entry["expected"] = {"tool_calls": calls} if calls else {"content": last["content"]}
        entries.append(entry)
    return entries


def _on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message as OpenAI's clients send it: arguments as text, calls with an id."""
    if message["role"] == "tool":
        return message | {"tool_call_id": "call_0"}
    if "tool_calls" not in message:
        return message
    function = message["tool_calls"][0]["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    call = {"id": "call_0", "type": "function", "function": function | {"arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a function in the shape of OpenAI's `tools`."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def offer(function: Function) -> dict[str, Any]:
    """Return the function as a tool."""
    return tool(function.name, function.descriptions[0], function.parameters)


def _reworded(function: Function, rng: random.Random) -> dict[str, Any]:
    description = rng.choice((*function.descriptions, ""))
    text = json.dumps(function.parameters)
    for old, new in function.rename.items():
        text = text.replace(f'"{old}"', json.dumps(rng.choice((old, old, *new))))
    parameters: dict[str, Any] = json.loads(text)
    if rng.random() < 0.3:  # noqa: PLR2004
        for name, schema in parameters["properties"].items():
            schema["description"] = rng.choice((f"The {name}", name, f"the {name} to use"))
    if rng.random() < 0.3:  # noqa: PLR2004
        parameters["additionalProperties"] = False
    return tool(function.name, description, parameters)


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
