"""LiteLLM as a client: `drive_litellm.py URL RECORDING QUESTION`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else its import asks the network

import litellm
from telling import tell


async def main(url: str, recording: str, question: str) -> None:
    """Chat, speak and hear as its provider `openai` does, then as one of the compatible."""
    to: Any = {"api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}
    asked: Any = {"messages": [{"role": "user", "content": question}], "temperature": 0, **to}

    def chat(provider: str) -> str:
        answer: Any = litellm.completion(model=f"{provider}/bentovox-demo", **asked)
        return str(answer.choices[0].message.content)

    def streamed() -> str:
        chunks: Any = litellm.completion(model="openai/bentovox-demo", stream=True, **asked)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def heard() -> str:
        with Path(recording).open("rb") as file:
            answer: Any = litellm.transcription(model="openai/whisper-1", file=file, **to)
        return str(answer.text)

    def spoken() -> int:
        answer: Any = litellm.speech(
            model="openai/tts-1", voice="alloy", input="Hello.", response_format="pcm", **to
        )
        return len(answer.content)

    async def responded() -> str:
        answer: Any = litellm.responses(
            model="openai/bentovox-demo", input=question, temperature=0, **to
        )
        return str(answer.output_text)

    await tell(
        {
            "chat": lambda: chat("openai"),
            "chat, hosted_vllm": lambda: chat("hosted_vllm"),
            "chat streamed": streamed,
            "responses": responded,
            "speech": spoken,
            "transcription": heard,
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
