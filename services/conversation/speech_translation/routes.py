"""POST /v1/audio/speech-translations: a recording is spoken in another language."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from services.audio.decode import excerpt
from services.audio.encode import OUTPUT_RATE_HZ, Encoder, to_wav
from services.backends.client import Caller
from services.backends.pools import Pools
from services.conversation.speech_translation import stages
from services.conversation.speech_translation.speaking import interpreted, preset, spoken_aloud
from services.conversation.translation.chat_model import ChatModel
from services.conversation.translation.languages import known_code, spoken
from services.errors import InvalidRequestError
from services.languages import gap
from services.openai.audio_stream import AudioStream
from services.openai.body import until_hangup
from services.openai.forms import FormFields, read_form
from services.openai.reading import invalid, read
from services.openai.speech import TRANSCRIPT_CHARACTERS
from services.openai.translation import SpeechTranslationFields
from services.server.admission import Admission, Limits
from services.settings.sections import ConversationSettings

SHORTEST_S: Final = 3.0
LONGEST_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""How much of a recording is searched for a good stretch."""

_APART_S: Final = 0.5  # a longer pause ends a stretch
_LONGEST_ALONE_S: Final = 29.0  # of one segment: the longest that speech accepts
_MOST_RATE_HZ: Final = 24_000


class SpeechTranslation:
    """Answers the path with backends of chat, speech and transcription."""

    def __init__(self, pools: Pools, conversation: ConversationSettings) -> None:
        """Call the backends of `pools`."""
        slots = conversation.translation.speech_slots
        self._pools = pools
        self._chat_model = conversation.translation.model or None
        self._form = FormFields(
            frozenset(SpeechTranslationFields.model_fields),
            {"file": conversation.body_limit_bytes},
        )
        # They take minutes, so they have their own slots and do not delay translations of texts.
        self._admission = Admission(Limits(slots, slots, conversation.deadline_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        form = await read_form(scope, receive, self._form)
        fields = read(SpeechTranslationFields, form.texts, "the form")
        recording = form.file("file").data
        if fields.voice is not None and fields.consent is not None:
            raise invalid(
                "voice",
                "voice and consent are two voices: a consent stands for that of the recording; "
                "send one of them",
            )
        caller = Caller(self._pools, scope["bentovox.request_id"])
        await until_hangup(receive, self._translate(fields, recording, caller, send))

    async def _translate(
        self, fields: SpeechTranslationFields, recording: bytes, caller: Caller, send: Send
    ) -> None:
        async with self._admission.slot():
            target = known_code(fields.language, "language")
            source = None
            if fields.source_language is not None:
                source = known_code(fields.source_language, "source_language")
            with stages.fields_named({"model": "chat_model"}):
                named = fields.chat_model or self._chat_model
                model = ChatModel(caller, await caller.card("chat", named))
            with stages.fields_named({"model": "speech_model"}):
                speaks = (await caller.card("speech", fields.speech_model))["id"]
            heard = {
                "model": (await caller.card("transcription", fields.model))["id"],
                "language": source and spoken(source),
                "prompt": fields.prompt,
            }
            given = fields.model_dump(include={"speed", "instructions"}, exclude_none=True)
            usage: dict[str, Any] = {}
            voice: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
            if fields.consent is None:
                named = fields.voice or await preset(caller, speaks, target)
                voice.set_result({"voice": named})

            async def manner(_: stages.Translation) -> Mapping[str, Any]:
                return {"language": target, **given, **await voice}

            try:
                async with asyncio.TaskGroup() as group:
                    segments = stages.piped(
                        group, stages.transcribe(caller, recording, heard, usage), stages.AHEAD
                    )
                    if fields.consent is not None:
                        sample = sampled(segments, recording, fields.consent, voice)
                        segments = stages.piped(group, sample, stages.AHEAD)
                    sentences = stages.piped(group, stages.into_sentences(segments), stages.AHEAD)
                    said = interpreted(sentences, model, lambda _: (source, target))
                    translated = stages.piped(group, said, stages.AHEAD)
                    aloud = spoken_aloud(translated, caller, speaks, manner)
                    sound = stages.piped(group, aloud, stages.SOUNDS_AHEAD)
                    await _send_answer(sound, fields, usage, send)
            except ExceptionGroup as faults:
                raise stages.first_fault(faults) from faults


async def _send_answer(
    items: AsyncIterator[stages.Item],
    asked: SpeechTranslationFields,
    usage: Mapping[str, Any],
    send: Send,
) -> None:
    """Send headers when the first audio arrives, then everything as it arrives, then the end.

    Events are named as in OpenAI's live translation and audio/speech, and have the number of their
    sentence. If a stage fails after the headers, the answer must not end as if it were complete.
    """
    encoder = Encoder(asked.response_format, OUTPUT_RATE_HZ)
    as_events = asked.stream_format == "sse"
    stream = AudioStream(send, encoder, OUTPUT_RATE_HZ, as_events=as_events)
    before = {"input": "", "output": ""}
    async for item in items:
        if isinstance(item, stages.Sound):
            await stream.feed(item.samples, sentence=item.sentence.number)
            continue
        sentence = item if isinstance(item, stages.Sentence) else item.sentence
        side = "input" if item is sentence else "output"
        times = {"start": sentence.start_s, "end": sentence.end_s} if item is sentence else {}
        await stream.tell(
            {
                "type": f"speech.{side}_transcript.delta",
                "delta": gap(before[side], item.text) + item.text,
                "sentence": sentence.number,
                **times,
                "language": item.language,
            }
        )
        before[side] = item.text
    if not stream.samples:
        raise InvalidRequestError(
            "file contains no speech that could be translated", param="file", code="no_speech"
        )
    await stream.end(usage.get("input_tokens", 0))


async def sampled(
    segments: AsyncIterator[stages.Segment],
    recording: bytes,
    consent: str,
    voice: asyncio.Future[Mapping[str, Any]],
) -> AsyncGenerator[stages.Segment, None]:
    """Yield the segments, and set `voice` to the fields with a sample of the speaker's voice.

    They are held back until they contain a stretch of 3 to 10 s of clear speech: before that, the
    queues between the stages could fill and block.
    """
    held: list[stages.Segment] = []
    clear: list[stages.Segment] = []
    async for segment in segments:
        held.append(segment)
        if segment.clear:
            clear.append(segment)
        if segment.end_s > PATIENCE_S or (clear and _seconds(_longest(clear)) >= SHORTEST_S):
            break
    if held:
        voice.set_result(await _fields(recording, _longest(clear or held), consent))
    for segment in held:
        yield segment
    async for segment in segments:
        yield segment


def _seconds(segment: stages.Segment) -> float:
    return segment.end_s - segment.start_s


def _longest(segments: Sequence[stages.Segment]) -> stages.Segment:
    """Return the longest stretch of consecutive segments, joined.

    It is at most `LONGEST_S` long, unless a single segment is longer: its text cannot be cut.
    """
    stretches = []
    for first, begin in enumerate(segments):
        stretch = begin
        for segment in segments[first + 1 :]:
            apart = segment.start_s - stretch.end_s > _APART_S
            if apart or segment.end_s - begin.start_s > LONGEST_S:
                break
            stretch = replace(stretch, end_s=segment.end_s, text=stretch.text + segment.text)
        stretches.append(stretch)
    return max(stretches, key=_seconds)


async def _fields(recording: bytes, stretch: stages.Segment, consent: str) -> Mapping[str, Any]:
    end_s = min(stretch.end_s, stretch.start_s + _LONGEST_ALONE_S)

    def wav() -> bytes:
        sound = excerpt(recording, stretch.start_s, end_s, max_rate_hz=_MOST_RATE_HZ)
        return to_wav(sound.samples, sound.sample_rate_hz)

    data = base64.b64encode(await asyncio.to_thread(wav)).decode("ascii")
    return {
        "ref_audio": f"data:audio/wav;base64,{data}",
        "ref_text": stretch.text.strip()[:TRANSCRIPT_CHARACTERS],
        "consent": consent,
    }
