"""The corpus: which questions have which answer, read from `corpus.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus.toml")


@dataclass(frozen=True)
class Topic:
    """One answer and the phrasings that lead to it; `schema` is set where the answer is JSON."""

    name: str
    ask: list[str]
    answer: str
    language: str = "en"
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Function:
    """A function that the model calls, and the sentence it says after the result."""

    name: str
    descriptions: list[str]
    parameters: dict[str, Any]
    ask: list[str]
    results: list[str]
    answer: str
    rename: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fallback:
    """The answer to what no topic covers, and the material to practise it with."""

    language: str
    answer: str
    ask: list[str]
    patterns: list[str]
    words: list[str]


@dataclass(frozen=True)
class Corpus:
    """Everything that the model is to know by heart."""

    systems: list[str]
    topics: list[Topic]
    functions: list[Function]
    fallbacks: list[Fallback]
    completions: list[tuple[str, str]]
    cities: list[str]
    skies: list[str]
    decoys: list[str]

    @property
    def entries(self) -> list[Topic | Fallback]:
        """Topics and fallbacks: all that have phrasings and one answer."""
        return [*self.topics, *self.fallbacks]


def load() -> Corpus:
    """Read the corpus."""
    data = tomllib.loads(CORPUS.read_text(encoding="utf-8"))
    topics = [topic | {"answer": topic["answer"].strip()} for topic in data["topic"]]
    return Corpus(
        data["systems"],
        [Topic(**topic) for topic in (*topics, *data["json"])],
        [Function(**function) for function in data["tool"]],
        [Fallback(name, **fallback) for name, fallback in data["fallback"].items()],
        [(one["prompt"], one["answer"]) for one in data["completion"]],
        **data["slots"],
    )
