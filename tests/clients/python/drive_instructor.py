"""Instructor as a client: `drive_instructor.py URL`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import instructor
import openai
from pydantic import BaseModel
from telling import tell


class Person(BaseModel):
    """What the demo model invents."""

    name: str
    age: int


async def main(url: str) -> None:
    """Ask for an object by each way that Instructor has for it."""

    def asked(mode: instructor.Mode) -> dict[str, Any]:
        client = instructor.from_openai(
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode
        )
        made = client.chat.completions.create(
            model="bentovox-demo",
            messages=[{"role": "user", "content": "Give me a person as JSON."}],
            response_model=Person,
            max_retries=0,
            temperature=0,
            max_tokens=200,
        )
        return made.model_dump()

    await tell(
        {
            "schema": lambda: asked(instructor.Mode.JSON_SCHEMA),
            "tools": lambda: asked(instructor.Mode.TOOLS),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
