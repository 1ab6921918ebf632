"""/v1/realtime for conversations: what the client's events do, and what is heard meanwhile.

The protocol is OpenAI's (openai-python, `openai/types/realtime/`), for sessions of type `realtime`.
Events about the incoming audio go to the ear, and come from it. A response runs in a task of its
own, at most one in the conversation and a few beside it.

A client's mistake is answered with an `error` event, and the session goes on. If an engine fails,
`response.done` says `failed`, and why. A session without an event for `IDLE_S` is closed with 3008.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from services.backends.client import Caller
from services.backends.pools import Pools
from services.conversation.live.asking import check_voice
from services.conversation.live.ear import Ear
from services.conversation.live.items import Item, Items, item_from
from services.conversation.live.response import Response
from services.conversation.live.settings import Answering, Hearing, Settings
from services.conversation.speech_translation.stages import fields_named
from services.errors import (
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    ServiceError,
    shown,
)
from services.openai import conversation as sent
from services.openai import realtime
from services.openai.answers import new_id
from services.openai.errors import error_told
from services.openai.reading import invalid
from services.server.admission import Admission
from services.server.live import LiveSession
from services.settings.sections import RealtimeSettings

IDLE_S: Final = 300.0
"""How long a client may send nothing while nothing is said."""

MOST_BESIDE: Final = 4
"""How many responses outside of the conversation may run at once."""

_NAMES: Final = ("gpt-realtime", "gpt-4o-realtime", "gpt-4o-mini-realtime", "gpt-audio")
"""How OpenAI's models of conversations are called; they stand for the one that is served."""

_EVENTS: Final = {**sent.EVENTS, **realtime.BUFFER_EVENTS}
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."
_FIELDS: Final = {"voice": "session.audio.output.voice", "speed": "session.audio.output.speed"}


def realtime_conversations(pools: Pools, limits: RealtimeSettings, admission: Admission) -> ASGIApp:
    """Return the application of the WebSocket, with the backends of `pools`."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        async with admission.slot():
            caller = Caller(pools, scope["bentovox.request_id"])
            named = realtime.query_of(scope).get("model", [""])[0]
            ours = not named or named.startswith(_NAMES)
            card = await caller.card("chat", (limits.model or None) if ours else named)
            model = card["id"]
            settings = Settings(new_id("sess"), named or model, model, Answering(), Hearing())
            await realtime.accept(scope, send)
            least_ms = limits.min_speech_duration_ms
            await _Talk(caller, settings, least_ms, scope, send).serve(receive)

    return serve


class _Talk(LiveSession):
    """One connection."""

    def __init__(
        self, caller: Caller, settings: Settings, least_speech_ms: int, scope: Scope, send: Send
    ) -> None:
        super().__init__(scope, send)
        self._caller = caller
        self._settings = settings
        self._items = Items()
        self._ear = Ear(caller, self._hear, self._deafen, least_speech_ms)
        self._lost: ServiceError | None = None  # why the ear broke
        self._speaker: str | None = None  # the item of a turn whose end was found
        self._response: Response | None = None  # in the conversation, maybe ended
        self._responses: set[Response] = set()

    async def run(self) -> None:
        """Serve the session until the server ends, or the client is silent for too long."""
        try:
            await self._tell("session.created", session=self._shown())
            while (message := await self._next()) is not None:
                if self._ear.plain and self._lost is not None:
                    raise self._lost  # the ear had the session's settings
                await realtime.act_on(message, self._take, self.send)
            running = [one.task for one in self._responses]
            await asyncio.gather(*running, return_exceptions=True)
        finally:
            for response in [*self._responses]:
                await response.stop()
            await self._ear.close()

    async def _next(self) -> str | bytes | None:
        while True:
            try:
                return await self.next_message(IDLE_S)
            except DeadlineError:
                if not self._responses:
                    raise

    async def _take(self, fields: dict[str, Any]) -> None:
        session = fields.get("session") if fields.get("type") == "session.update" else None
        wants = isinstance(session, dict) and session.get("type") == "transcription"
        if wants and not (self._items or self._responses):
            self._ear.plain = True  # this is a session of the transcription role, unchanged
        if self._ear.plain:
            await self._ear.send(fields)
        else:
            await self._do(realtime.parse_event(fields, _EVENTS), fields)

    async def _do(self, event: realtime.ClientEvent, fields: dict[str, Any]) -> None:
        if isinstance(event, sent.ConversationUpdate):
            await self._update(event.session)
        elif isinstance(event, sent.ItemCreate):
            await self._add(item_from(event.item, "item"), event.previous_item_id)
        elif isinstance(event, sent.ItemRetrieve):
            item = self._items.find(event.item_id, doing="retrieve")
            await self._tell("conversation.item.retrieved", item=item.shown)
        elif isinstance(event, sent.ItemDelete):
            self._items.delete(event.item_id)
            await self._tell("conversation.item.deleted", item_id=event.item_id)
        elif isinstance(event, sent.ItemTruncate):
            await self._truncate(event)
        elif isinstance(event, sent.ResponseCreate):
            self._respond(event.response)
        elif isinstance(event, sent.ResponseCancel):
            await self._cancel(event.response_id)
        elif isinstance(event, sent.OutputClear):
            await self._clear()
        else:
            await self._ear.send(fields)

    async def _update(self, given: sent.ConversationFields) -> None:
        """Change the settings, all or none of them."""
        settings = self._settings
        if given.model is not None and given.model != settings.model:
            raise invalid("session.model", "cannot change; name it in the URL", "unsupported_value")
        answering = settings.answering.changed(given, "session")
        voice = (answering.voice, answering.speed)
        if voice != (settings.answering.voice, settings.answering.speed):
            with fields_named(_FIELDS):
                await check_voice(self._caller, answering)
        heard = given.audio.input if given.audio is not None else None
        hearing = settings.hearing
        if heard is not None:
            await self._ear.follow(heard)
            hearing = hearing.changed(heard)
        self._settings = replace(settings, answering=answering, hearing=hearing)
        await self._tell("session.updated", session=self._shown())

    async def _add(self, item: Item, after: str | None = None) -> None:
        """Add an item to the conversation; the oldest go where there are too many."""
        if item.shown["type"] == "item_reference":
            raise invalid("item.type", "item_reference is for response.input", "unsupported_value")
        before = self._items.add(item, after)
        for kind in ("added", "done"):
            await self._tell(f"conversation.item.{kind}", previous_item_id=before, item=item.shown)
        for old in self._items.surplus():
            await self._tell("conversation.item.deleted", item_id=old.id)

    async def _truncate(self, event: sent.ItemTruncate) -> None:
        item = self._items.find(event.item_id, doing="truncate")
        if item.shown["status"] == "in_progress":
            raise ConflictError(
                f"item {shown(item.id)} is being spoken; send response.cancel first",
                param="item_id",
                code="item_in_progress",
            )
        item.truncate(event.audio_end_ms)
        await self._tell(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=event.content_index,
            audio_end_ms=event.audio_end_ms,
        )

    def _respond(self, given: sent.ResponseFields, patience_s: float = 0.0) -> None:
        """Begin a response, unless there are as many as may be."""
        items = None
        if given.input is not None:
            items = [
                self._items.find(one.id, f"response.input.{number}.id")
                if one.type == "item_reference" and one.id is not None
                else item_from(one, f"response.input.{number}")
                for number, one in enumerate(given.input)
            ]
        answering = self._settings.answering.changed(given, "response")
        beside = given.conversation == "none"
        if not beside and (running := self._running) is not None:
            raise ConflictError(
                f"the conversation has an active response, {running.id}; wait until it is done, "
                "or cancel it",
                code="conversation_already_has_active_response",
            )
        if beside and sum(not one.in_conversation for one in self._responses) >= MOST_BESIDE:
            why = f"{MOST_BESIDE} responses run beside the conversation, which is the most"
            raise invalid("response.conversation", why, "too_many_responses")
        response = Response(
            self._caller,
            self.send,
            self._items,
            answering,
            self._settings.chat_model,
            given=items,
            in_conversation=not beside,
            metadata=given.metadata,
            patience_s=patience_s,
        )
        if not beside:
            self._response = response
        self._responses.add(response)
        response.task.add_done_callback(lambda _: self._responses.discard(response))

    @property
    def _running(self) -> Response | None:
        """The response in the conversation that goes on."""
        response = self._response
        return None if response is None or response.ended else response

    async def _cancel(self, id_: str | None) -> None:
        known = [one for one in self._responses if one.id == id_ and not one.ended]
        found = self._running if id_ is None else next(iter(known), None)
        if found is None:
            why = "there is no such response" if id_ else "no response is in progress"
            raise InvalidRequestError(
                f"Cancellation failed: {why}",  # LiveKit looks for these words
                param="response_id" if id_ else None,
                code="response_cancel_not_active",
            )
        await found.cancel()

    async def _clear(self) -> None:
        """Stop the audio: what was sent is the client's to stop."""
        if self._running is not None:
            await self._running.cancel()
        if self._response is not None:
            await self._tell("output_audio_buffer.cleared", response_id=self._response.id)

    # What is heard

    async def _hear(self, event: dict[str, Any]) -> None:
        """Pass an event of the ear on, in its place in the conversation."""
        kind: str = event["type"]
        if self._ear.plain or kind == "error":
            await self._pass_on(event)
        elif kind == "input_audio_buffer.speech_started":
            await self._pass_on(event)
            if self._running is not None and self._settings.hearing.interrupts:
                await self._running.cancel("turn_detected")
        elif kind == "input_audio_buffer.committed":
            last = self._items[-1].id if self._items else None
            await self._pass_on({**event, "previous_item_id": last})
        elif kind == "conversation.item.added":
            await self._add(Item(event["item"]))
        elif kind == "conversation.item.done":
            await self._end_turn(event["item"]["id"])
        elif kind.startswith(_TRANSCRIPTION):
            await self._understand(kind.removeprefix(_TRANSCRIPTION), event)
        else:
            if kind == "input_audio_buffer.speech_stopped":
                self._speaker = event["item_id"]
            await self._pass_on(event)

    async def _end_turn(self, item_id: str) -> None:
        """Answer a turn whose end was found; one that the client ends, it also has answered."""
        found, self._speaker = self._speaker == item_id, None
        if not found or not self._settings.hearing.creates:
            return
        try:
            self._respond(sent.ResponseFields(), self._settings.hearing.patience_s)
        except ConflictError as error:
            await self.send(realtime.fault_event(error))

    async def _understand(self, kind: str, event: dict[str, Any]) -> None:
        with suppress(NotFoundError):  # it was deleted
            if kind == "completed":
                self._items.find(event["item_id"]).hear(event["transcript"])
            elif kind == "failed":
                self._items.find(event["item_id"]).lose(error_told(event["error"]))
        if self._settings.hearing.told:
            await self._pass_on(event)

    async def _deafen(self, error: ServiceError) -> None:
        """The ear broke: what was not understood by now never will be."""
        self._lost = error
        if not self._ear.plain:
            await self.send(realtime.fault_event(error))
        for item in self._items:
            if not item.heard.is_set():
                item.lose(error)

    async def _pass_on(self, event: dict[str, Any]) -> None:
        fields = {name: value for name, value in event.items() if name not in ("type", "event_id")}
        await self._tell(event["type"], **fields)

    def _shown(self) -> dict[str, Any]:
        return self._settings.shown(self._ear.heard)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self.send(realtime.server_event(kind, **fields))
