"""The corpus: which questions have which answer, read from `corpus.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

CORPUS = Path(__file__).with_name("corpus.toml")
_ENDING = re.compile(r"[\s.!?。！？]+$")  # noqa: RUF001 - Chinese punctuation is meant


class CorpusError(ValueError):
    """The corpus contradicts itself; the message names the entry."""


@dataclass(frozen=True)
class Topic:
    """One answer and the phrasings that lead to it; `schema` is set where the answer is JSON."""

    name: str
    ask: tuple[str, ...]
    answer: str
    language: str = "en"
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Function:
    """A function that the model calls, and the sentence it says after the result."""

    name: str
    descriptions: tuple[str, ...]
    parameters: dict[str, Any]
    ask: tuple[str, ...]
    results: tuple[str, ...]
    answer: str
    rename: dict[str, tuple[str, ...]] = field(default_factory=dict)


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
    """Everything that the model is to know by heart."""

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
        """Topics and fallbacks: all that have phrasings and one answer."""
        return (*self.topics, *self.fallbacks)


def normalised(question: str) -> str:
    """Return a phrasing without case and closing punctuation, to compare it with others."""
    return _ENDING.sub("", question.strip()).casefold()


def load(path: Path = CORPUS) -> Corpus:
    """Read the corpus and check that every question has one answer.

    Raises:
        CorpusError: one phrasing leads to two answers.
    """
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    topics = [topic | {"answer": topic["answer"].strip()} for topic in data["topic"]]
    corpus = TypeAdapter(Corpus).validate_python(
        {
            "systems": data["systems"],
            "topics": [*topics, *data["json"]],
            "functions": data["tool"],
            "fallbacks": [{"language": name, **f} for name, f in data["fallback"].items()],
            "completions": [(c["prompt"], c["answer"]) for c in data["completion"]],
            **data["slots"],
        }
    )
    answers: dict[str, str] = {}
    for entry in corpus.entries:
        for phrasing in entry.ask:
            if answers.setdefault(normalised(phrasing), entry.answer) != entry.answer:
                raise CorpusError(f"{phrasing!r} has two answers; keep it in one entry only")
    return corpus
