"""The third stage: sentences to their translations, each with those before it as context."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.conversation.speech_translation.segments import Sentence, Translation
from services.conversation.translation.chat_model import Former
from services.conversation.translation.languages import known_or_none, spoken
from services.conversation.translation.texts import has_words

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from services.conversation.translation.chat_model import ChatModel

CONTEXT: Final = 3
"""How many former sentences go along."""


@dataclass(frozen=True)
class Languages:
    """The codes of both; `source` is None where the ear is to tell."""

    source: str | None
    target: str


async def translate(
    sentences: AsyncIterator[Sentence], model: ChatModel, languages: Languages
) -> AsyncGenerator[Sentence | Translation, None]:
    """Yield each sentence as it comes, then its translation.

    What is in the target language already stays as it is.

    Raises:
        ServiceError: the model could not be asked, or came to no end.
    """
    former: deque[Former] = deque(maxlen=CONTEXT)
    async for sentence in sentences:
        yield sentence
        source = languages.source or known_or_none(sentence.language)
        text = sentence.text
        if has_words(text) and (source is None or spoken(source) != spoken(languages.target)):
            text = await model.translate(text, source, languages.target, former=[*former])
            former.append(Former(sentence.text, text))
        yield Translation(sentence, text)
