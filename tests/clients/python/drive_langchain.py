"""LangChain's package for OpenAI as a client: `drive_langchain.py URL QUESTION`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from telling import tell


class Person(BaseModel):
    """What the demo model invents."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"sunny in {city}"


async def main(url: str, question: str) -> None:
    """Chat through both APIs, and ask for an object and a tool."""
    options: Any = {
        "model": "bentovox-demo",
        "base_url": f"{url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_retries": 0,
    }
    chat = ChatOpenAI(**options)
    short = ChatOpenAI(**options, max_tokens=200)
    responses = ChatOpenAI(**options, use_responses_api=True)

    async def streamed() -> str:
        return "".join([str(chunk.text) async for chunk in chat.astream(question)])

    async def called() -> Any:
        bound = short.bind_tools([get_weather], tool_choice="get_weather")
        (call,) = (await bound.ainvoke("What is the weather in Paris?")).tool_calls
        return [call["name"], call["args"]]

    async def made() -> Any:
        asked = short.with_structured_output(Person, method="json_schema")
        found: Any = await asked.ainvoke("Give me a person as JSON.")
        return found.model_dump()

    await tell(
        {
            "chat": lambda: str(chat.invoke(question).text),
            "chat streamed": streamed,
            "tools": called,
            "objects": made,
            "responses": lambda: str(responses.invoke(question).text),
        }
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
