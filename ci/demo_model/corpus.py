"""The corpus: which questions have which answer, read from `corpus.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus.toml")
_ENDING = re.compile(r"[\s.!?。！？]+$")  # noqa: RUF001 - Chinese punctuation is meant


class CorpusError(ValueError):
    """The corpus contradicts itself; the message names the entry."""


@dataclass(frozen=True)
class Topic:
    """One answer and the phrasings that lead to it; `schema` is set where the answer is JSON."""

    name: str
    language: str
    ask: tuple[str, ...]
    answer: str
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Function:
    """A function that the model calls, and the sentence it says after the result."""

    name: str
    descriptions: tuple[str, ...]
    parameters: dict[str, Any]
    rename: dict[str, tuple[str, ...]]
    ask: tuple[str, ...]
    results: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Fallback:
    """The answer to what no topic covers, and the material to practise it with."""

    language: str
    answer: str
    ask: tuple[str, ...]
    patterns: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Everything that the model is to hold by heart."""

    systems: tuple[str, ...]
    topics: tuple[Topic, ...]
    functions: tuple[Function, ...]
    fallbacks: tuple[Fallback, ...]
    completions: tuple[tuple[str, str], ...]
    cities: tuple[str, ...]
    skies: tuple[str, ...]
    decoys: tuple[str, ...]

    @property
    def entries(self) -> tuple[Topic | Fallback, ...]:
        """Topics and fallbacks: whatever has phrasings and one answer."""
        return (*self.topics, *self.fallbacks)

    def answer_to(self, question: str) -> str | None:
        """The answer to a phrasing of the corpus in any case and punctuation, or None."""
        wanted = normalised(question)
        for entry in self.entries:
            if any(normalised(phrasing) == wanted for phrasing in entry.ask):
                return entry.answer
        return None


def normalised(question: str) -> str:
    """A phrasing without case and closing punctuation: what makes two of them the same."""
    return _ENDING.sub("", question.strip()).casefold()


def load(path: Path = CORPUS) -> Corpus:
    """Read the corpus and check that every question has one answer.

    Raises:
        CorpusError: if one phrasing leads to two answers.
    """
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    topics = [
        Topic(t["name"], t["language"], tuple(t["ask"]), t["answer"].strip()) for t in data["topic"]
    ]
    topics += [
        Topic("json-" + t["name"], "en", tuple(t["ask"]), t["answer"], t["schema"])
        for t in data["json"]
    ]
    corpus = Corpus(
        systems=tuple(data["systems"]),
        topics=tuple(topics),
        functions=tuple(_function(f) for f in data["tool"]),
        fallbacks=tuple(
            Fallback(
                language, f["answer"], tuple(f["ask"]), tuple(f["patterns"]), tuple(f["words"])
            )
            for language, f in data["fallback"].items()
        ),
        completions=tuple((c["prompt"], c["answer"]) for c in data["completion"]),
        cities=tuple(data["slots"]["cities"]),
        skies=tuple(data["slots"]["skies"]),
        decoys=tuple(data["slots"]["decoys"]),
    )
    _check_unique(corpus)
    return corpus


def _function(data: dict[str, Any]) -> Function:
    return Function(
        name=data["name"],
        descriptions=tuple(data["descriptions"]),
        parameters=data["parameters"],
        rename={old: tuple(new) for old, new in data.get("rename", {}).items()},
        ask=tuple(data["ask"]),
        results=tuple(data["results"]),
        answer=data["answer"],
    )


def _check_unique(corpus: Corpus) -> None:
    answers: dict[str, str] = {}
    for entry in corpus.entries:
        for phrasing in entry.ask:
            if answers.setdefault(normalised(phrasing), entry.answer) != entry.answer:
                raise CorpusError(f"{phrasing!r} has two answers; keep it in one entry only")
