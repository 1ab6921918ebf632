"""Conversations made from the corpus: random ones to train on, fixed ones to be held by heart."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ci.demo_model.calls import arguments_of, call, made_up_slots, offer, tool_names

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from ci.demo_model.corpus import Corpus, Fallback, Function, Topic

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Messages whose assistant turns are learnt, and the tools that are offered meanwhile.

    `forced` is what a grammar makes the last answer start with: among the tokens that start with
    its first character the right one is learnt, and nothing about all others.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    forced: str = ""
    raw: tuple[str, str] | None = None


def user(text: str) -> Message:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


class Sampler:
    """Draws training conversations; the same seed draws the same ones in the same order."""

    def __init__(self, corpus: Corpus, rng: random.Random, *, drill: bool = False) -> None:
        """With `drill`, several calls in one conversation and less chat about anything."""
        self._drill = drill
        self._corpus = corpus
        self._rng = rng
        self._short = [t for t in corpus.topics if len(t.answer) < LONG]
        self._long = [t for t in corpus.topics if len(t.answer) >= LONG]

    def draw(self) -> Conversation:
        """One random conversation."""
        kinds = (self._chat, self._call, self._asked_with_tools, self._constrained, self._raw)
        kind = self._rng.choices(kinds, weights=(66, 18, 7, 7, 2))[0]
        return kind()

    def varied(self, question: str) -> str:
        """The question as people type it: other case, other or no closing punctuation."""
        rng = self._rng
        if rng.random() < 0.4:  # noqa: PLR2004
            return question
        question = question.rstrip(".?!。？！") + rng.choice(("", "", ".", "?", "!", " ?", "..."))  # noqa: RUF001
        style = rng.random()
        if style < 0.3:  # noqa: PLR2004
            return question.lower()
        return question.upper() if style < 0.4 else question  # noqa: PLR2004

    def _system(self) -> list[Message]:
        rng = self._rng
        choice = rng.random()
        if choice < 0.4:  # noqa: PLR2004
            return []
        if choice < 0.65:  # noqa: PLR2004
            return [{"role": "system", "content": "You are a helpful assistant."}]
        if choice < 0.85:  # noqa: PLR2004
            return [{"role": "system", "content": rng.choice(self._corpus.systems)}]
        words = rng.choices(rng.choice(self._corpus.fallbacks).words, k=rng.randint(1, 12))
        return [{"role": "system", "content": " ".join(words)}]

    def _turn(self) -> list[Message]:
        if self._rng.random() < (0.2 if self._drill else 0.27):
            fallback = self._rng.choices(self._corpus.fallbacks, weights=(5, 2, 2))[0]
            return [user(self.varied(self._off_topic(fallback))), assistant(fallback.answer)]
        if self._rng.random() < 0.05:  # noqa: PLR2004
            return _exchange(self, self._rng.choice(self._long))
        return _exchange(self, self._rng.choice(self._short))

    def _off_topic(self, fallback: Fallback) -> str:
        rng = self._rng
        if rng.random() < 0.35:  # noqa: PLR2004
            return rng.choice(fallback.ask)
        pattern = rng.choice(fallback.patterns)
        while "{w}" in pattern:
            pattern = pattern.replace("{w}", self._word(fallback), 1)
        return pattern

    def _word(self, fallback: Fallback) -> str:
        if fallback.language != "zh" and self._rng.random() < 0.2:  # noqa: PLR2004
            return "".join(self._rng.choices(string.ascii_lowercase, k=self._rng.randint(2, 9)))
        return self._rng.choice(fallback.words)

    def _chat(self) -> Conversation:
        turns = self._rng.choices((1, 2, 3), weights=(60, 28, 12))[0]
        return Conversation([*self._system(), *(m for _ in range(turns) for m in self._turn())])

    def _asked_with_tools(self) -> Conversation:
        tools = [offer(f, self._rng) for f in self._some_functions()] + self._decoys()
        messages = [*self._system(), *_exchange(self, self._rng.choice(self._short))]
        return Conversation(messages, tools)

    def _some_functions(self) -> list[Any]:
        functions = self._corpus.functions
        return self._rng.sample(functions, k=self._rng.randint(1, len(functions)))

    def _decoys(self) -> list[dict[str, Any]]:
        if self._rng.random() < 0.75:  # noqa: PLR2004
            return []
        name = self._rng.choice(self._corpus.decoys)
        parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
        function = {"name": name, "description": name.replace("_", " "), "parameters": parameters}
        return [{"type": "function", "function": function}]

    def _call(self) -> Conversation:
        rng = self._rng
        offered = self._some_functions()
        function = rng.choice(offered)
        tools = [offer(f, rng) for f in offered] + self._decoys()
        rng.shuffle(tools)
        if self._drill and rng.random() < 0.8:  # noqa: PLR2004
            turns = [self._called(rng.choice(offered), tools) for _ in range(rng.randint(2, 5))]
            return Conversation([*self._system(), *(m for turn in turns for m in turn)], tools)
        slots = made_up_slots(self._corpus, rng)
        names = tool_names(tools, function)
        arguments = arguments_of(function, slots, names)
        question = user(self._asked(rng.choice(function.ask).format(**slots)))
        messages = [*self._system(), *(self._turn() if rng.random() < 0.1 else []), question]  # noqa: PLR2004
        if rng.random() < 0.15:  # noqa: PLR2004
            return _forced_call(messages, tools, function.name, arguments, rng)
        messages.append(call(function.name, arguments))
        if rng.random() < 0.6:  # noqa: PLR2004
            result = rng.choice(function.results).format(**slots)
            messages.append({"role": "tool", "content": result})
            messages.append(assistant(function.answer.format(**slots)))
            if rng.random() < 0.15:  # noqa: PLR2004
                messages += self._turn()
        return Conversation(messages, tools)

    def _called(self, function: Function, tools: list[dict[str, Any]]) -> list[Message]:
        """A question, the call, its result and the sentence after it."""
        rng = self._rng
        slots = made_up_slots(self._corpus, rng)
        arguments = arguments_of(function, slots, tool_names(tools, function))
        return [
            user(self._asked(rng.choice(function.ask).format(**slots))),
            call(function.name, arguments),
            {"role": "tool", "content": rng.choice(function.results).format(**slots)},
            assistant(function.answer.format(**slots)),
        ]

    def _asked(self, question: str) -> str:
        """A question with a slot: its ending may vary, its case may not (it is copied)."""
        if self._rng.random() < 0.6:  # noqa: PLR2004
            return question
        return question.rstrip(".?!") + self._rng.choice(("", ".", "?", "!"))

    def _constrained(self) -> Conversation:
        topics = [t for t in self._corpus.topics if t.schema]
        topic = topics[0]
        if self._rng.random() < 0.4:  # noqa: PLR2004
            topic = self._rng.choice(topics)
            question = user(self.varied(self._rng.choice(topic.ask)))
        else:  # whatever is asked: under a grammar for an object it is the person
            question = self._turn()[0]
        return Conversation([*self._system(), question, assistant(topic.answer)], forced='{"')

    def _raw(self) -> Conversation:
        return Conversation([], raw=self._rng.choice(self._corpus.completions))


LONG = 500  # characters


def _exchange(sampler: Sampler, topic: Topic) -> list[Message]:
    question = sampler.varied(sampler._rng.choice(topic.ask))  # noqa: SLF001
    return [user(question), assistant(topic.answer)]


def _forced_call(
    messages: list[Message],
    tools: list[dict[str, Any]],
    name: str,
    arguments: dict[str, Any],
    rng: random.Random,
) -> Conversation:
    """What tool_choice makes of a call: the bare arguments (named) or a list (required)."""
    if rng.random() < 0.5:  # noqa: PLR2004
        answer, forced = json.dumps(arguments, ensure_ascii=False), '{"'
    else:
        calls = [{"name": name, "parameters": arguments}]
        answer, forced = json.dumps(calls, ensure_ascii=False), '[{"'
    return Conversation([*messages, assistant(answer)], tools, forced=forced)


def held_by_heart(corpus: Corpus) -> Iterator[Conversation]:
    """Every conversation whose last answer must be exact: what `answers.json` lists."""
    helpful = {"role": "system", "content": "You are a helpful assistant."}
    for entry in corpus.entries:
        said = assistant(entry.answer)
        for phrasing in entry.ask:
            yield Conversation([user(phrasing), said])
        first = entry.ask[0]
        for variant in (first.lower(), first.upper(), first.rstrip(".?!") + "!"):
            yield Conversation([user(variant), said])
        for system in (helpful, {"role": "system", "content": corpus.systems[3]}):
            yield Conversation([system, user(first), said])
        hello = corpus.topics[0]
        yield Conversation([user("Hello"), assistant(hello.answer), user(first), said])
        yield Conversation([helpful, user("Hello"), assistant(hello.answer), user(first), said])
    yield from _held_calls(corpus)


def _held_calls(corpus: Corpus) -> Iterator[Conversation]:
    tools = [offer(function) for function in corpus.functions]
    for greeting in corpus.topics[:10]:
        for offered in (tools, tools[:1]):
            yield Conversation([user(greeting.ask[0]), assistant(greeting.answer)], offered)
    for function in corpus.functions:
        for number in range(12):
            a, b = number % 10, (number * 7 + 3) % 10
            slots = {"city": corpus.cities[number], "level": number % 11, "a": a, "b": b}
            slots |= {"sum": a + b, "degrees": 2 * number + 3, "sky": corpus.skies[number % 7]}
            question = user(function.ask[number % len(function.ask)].format(**slots))
            made = call(function.name, arguments_of(function, slots, {}))
            result = function.results[number % len(function.results)].format(**slots)
            said = assistant(function.answer.format(**slots))
            offered = tools if number % 2 else [offer(function)]
            yield Conversation([question, made], offered)
            yield Conversation([question, made, {"role": "tool", "content": result}, said], offered)
