"""OpenAI's own SDK as a client: `drive_openai.py URL RECORDING QUESTION`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import openai
from telling import tell


async def main(url: str, recording: str, question: str) -> None:
    """Chat, speak and hear, whole and in pieces."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    file = Path(recording)
    messages: Any = [{"role": "user", "content": question}]
    chat: Any = {"model": "bentovox-demo", "messages": messages, "temperature": 0}
    speech: Any = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello."}

    def streamed() -> str:
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**chat, stream=True)
            if chunk.choices
        ]
        return "".join(pieces)

    def response() -> str:
        with client.responses.stream(
            model="bentovox-demo", input=question, temperature=0
        ) as stream:
            return str(stream.get_final_response().output_text)

    def spoken() -> int:
        made = client.audio.speech.with_streaming_response.create(**speech, response_format="pcm")
        with made as answer:
            return sum(map(len, answer.iter_bytes()))

    def heard() -> str:
        events = client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=file, stream=True
        )
        return "".join(
            event.delta for event in events if event.type == "transcript.text.delta"
        ).strip()

    await tell(
        {
            "models": lambda: [one.id for one in client.models.list()],
            "chat": lambda: client.chat.completions.create(**chat).choices[0].message.content,
            "chat streamed": streamed,
            "responses": response,
            "speech": spoken,
            "transcription": lambda: (
                client.audio.transcriptions.create(model="whisper-1", file=file).text
            ),
            "transcription streamed": heard,
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
