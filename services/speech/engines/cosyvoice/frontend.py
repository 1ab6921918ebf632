"""A request's text on its way to tokens: cut into segments, each normalised in its language."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.speech.engines.cosyvoice.split import Splitter, split
from services.speech.engines.cosyvoice.text import cross_lingual, guess_language, normalise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from services.speech.engines.cosyvoice.checkpoint import Checkpoint
    from services.speech.engines.cosyvoice.lexicon import Lexicon
    from services.speech.engines.cosyvoice.text import Language


async def segments_in_tokens(
    checkpoint: Checkpoint,
    text: str | AsyncIterator[str],
    tag: Language | None,
    *,
    marked: bool,
    lexicon: Lexicon | None,
) -> AsyncGenerator[list[int], None]:
    """Yield the tokens of each segment of a whole text, or of one while it is written.

    `tag` is its language, if known. With `marked` each segment carries the family's mark for
    cloning without a transcript.
    """

    def count(part: str) -> int:
        return len(checkpoint.encode(part))

    def tokens(segment: str, context: Language | None) -> list[int]:
        language = tag or guess_language(segment, context)
        said = normalise(lexicon.spelt(segment) if lexicon else segment, language)
        if said and marked:
            said = cross_lingual(checkpoint.family, said, language)
        return checkpoint.encode(said) if said else []

    if isinstance(text, str):
        context = tag or await asyncio.to_thread(guess_language, text)
        segments = split(text, count)
        while (segment := await asyncio.to_thread(next, segments, None)) is not None:
            yield await asyncio.to_thread(tokens, segment, context)
        return
    splitter = Splitter(count)
    async for piece in text:
        for segment in splitter.feed(piece):
            yield await asyncio.to_thread(tokens, segment, tag)
    for segment in splitter.finish():
        yield await asyncio.to_thread(tokens, segment, tag)
