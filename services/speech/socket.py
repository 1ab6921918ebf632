"""audio/speech/stream: text in as a language model writes it, audio out while that goes on.

A WebSocket with vLLM-Omni's messages (`vllm_omni/entrypoints/openai/serving_speech_stream.py`), so
that its clients move freely. The client sends

    {"type": "session.config", "voice": ..., ...}   first, and between utterances if wanted
    {"type": "input.text", "text": ...}             any number of times
    {"type": "input.done"}                          ends the utterance
    {"type": "input.cancel"}                        takes back what was said before it
    {"type": "session.close"}                       ends the connection; hanging up does, at once

and gets for each utterance

    {"type": "audio.start", "utterance_index", "sentence_index", "sentence_text", "format", ...}
    binary messages, or a single one where `stream_audio` is false
    {"type": "audio.done", "utterance_index", "sentence_index", "total_bytes", "error"}
    {"type": "session.done", "utterance_index", "total_sentences"}

`input.cancel`, which vLLM-Omni does not have, stops the sound at once: audio.done, if one is due,
and session.done come with `cancelled` true. Text that waits is dropped with it, and the next
message may begin another utterance. Where nothing is under way it does nothing.

With `split_granularity` none there is one start and one done, and an engine that takes text as it
is written is given it at once; `sentence_text` is then what had come before the first sound. Others
get the utterance when it is whole. With sentence or clause each unit is an answer of its own.

A slot is held from the first text of an utterance to its last sound, not while a client listens or
thinks. One that does not get it gets an error and close code 1013. What the client did wrong is an
error event, and the connection goes on; before the first good session.config, and where the engine
failed, it ends (`services.server.websocket` has the codes; 3008 says that nothing came for too
long).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.errors import (
    UnavailableError,
)
from services.speech.cancelling import CancellableInbox
from services.speech.session import Session, Speaking

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class SpeechSocket(Speaking):
    """The application of the WebSocket, for `RoleApp.sockets`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection to its end.

        Raises:
            ServiceError: it cannot go on.
        """
        if not self.engine.ready:
            raise UnavailableError(f"the {self.engine.name} engine is not ready", retry_after_s=1.0)
        await send({"type": "websocket.accept"})
        inbox = CancellableInbox()
        await inbox.serve(receive, Session(self, inbox, scope, send).run())
