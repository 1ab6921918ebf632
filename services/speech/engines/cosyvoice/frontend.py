"""A request's text on its way to tokens: cut into segments, each normalised in its language."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.speech.engines.cosyvoice.prompt_marks import cross_lingual
from services.speech.engines.cosyvoice.split import Splitter, split
from services.speech.engines.cosyvoice.text import guess_language, normalise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.text import Language, Rules


class TextFrontend:
    """One request's text, read with the tokenizer of its model."""

    def __init__(
        self, rules: Rules, checkpoint: Checkpoint, tag: Language | None, *, marked: bool
    ) -> None:
        self._rules = rules
        self._checkpoint = checkpoint
        self._tag = tag
        self._marked = marked
        self._context = tag

    def count(self, text: str) -> int:
        """Return how many tokens `text` has."""
        return len(self._checkpoint.encode(text))

    def segments(self, text: str) -> Iterator[list[int]]:
        """Yield the tokens of each segment of a whole text."""
        self._context = self._tag or guess_language(text)
        for segment in split(text, self.count):
            yield self.tokens(segment)

    def tokens(self, segment: str) -> list[int]:
        """Return the tokens of one segment; none if there is nothing left to say in it."""
        language = self._tag or guess_language(segment, self._context)
        said = normalise(segment, language, self._rules)
        if said and self._marked:
            said = cross_lingual(self._checkpoint.family, said, language)
        return self._checkpoint.encode(said) if said else []

    async def of(self, text: str | AsyncIterator[str]) -> AsyncGenerator[list[int], None]:
        """Yield the tokens of each segment of a whole text, or of one while it is written."""
        if isinstance(text, str):
            segments = self.segments(text)
            while (tokens := await asyncio.to_thread(next, segments, None)) is not None:
                yield tokens
            return
        splitter = Splitter(self.count)
        async for piece in text:
            for segment in splitter.feed(piece):
                yield await asyncio.to_thread(self.tokens, segment)
        for segment in splitter.finish():
            yield await asyncio.to_thread(self.tokens, segment)
