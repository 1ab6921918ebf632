"""OpenAI's SDKs, and libraries built on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.driving import HERE, Told, drive, javascript, openai_2, python
from tests.e2e.server import MODEL
from tests.whisper import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.server import Server

PERSON = {"name": "Ada", "age": 36}
SECOND = 24_000 * 2  # of pcm
NEWEST, BEFORE = "OpenAI's SDK for Python", "OpenAI's SDK for Python, before"
NODE, AI_SDK = "OpenAI's SDK for JavaScript", "Vercel's AI SDK"
LANGCHAIN, LITELLM, INSTRUCTOR = "LangChain (langchain-openai)", "LiteLLM", "Instructor"
works = pytest.mark.works


@pytest.fixture(scope="module")
def given(stack: Server, recording: Path, question: str) -> tuple[str, ...]:
    """What most drivers are given."""
    return (stack.url, str(recording), question)


@pytest.fixture(scope="module")
def newest(given: tuple[str, ...]) -> Told:
    return drive([sys.executable, str(HERE / "python" / "drive_openai.py"), *given])


@pytest.fixture(scope="module")
def before(given: tuple[str, ...]) -> Told:
    return openai_2("drive_openai.py", *given)


@pytest.fixture(scope="module")
def node(given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Told:
    return javascript("openai_node.mjs", tmp_path_factory.mktemp("node"), *given)


@pytest.fixture(scope="module")
def ai_sdk(given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Told:
    return javascript("ai_sdk.mjs", tmp_path_factory.mktemp("node"), *given)


@pytest.fixture(scope="module")
def langchain(stack: Server, question: str) -> Told:
    return python("drive_langchain.py", stack.url, question)


@pytest.fixture(scope="module")
def litellm(given: tuple[str, ...]) -> Told:
    return python("drive_litellm.py", *given)


@pytest.fixture(scope="module")
def instructor(stack: Server) -> Told:
    return openai_2("drive_instructor.py", stack.url)


# OpenAI's own


@works(NEWEST, "chat, completions streamed and responses")
def test_the_newest_python_sdk_chats(newest: Told, answer: str) -> None:
    said = [newest[name] for name in ("chat", "chat streamed", "responses")]
    assert said == [answer] * 3
    assert MODEL in newest["models"]


@works(NEWEST, "speech as bytes")
def test_the_newest_python_sdk_speaks(newest: Told) -> None:
    assert newest["speech"] > SECOND // 4


@works(NEWEST, "transcription whole and streamed")
def test_the_newest_python_sdk_hears(newest: Told) -> None:
    assert [newest["transcription"], newest["transcription streamed"]] == [PLAIN] * 2


@works(BEFORE, "chat, completions streamed and responses")
def test_the_python_sdk_before_chats(before: Told, answer: str) -> None:
    said = [before[name] for name in ("chat", "chat streamed", "responses")]
    assert said == [answer] * 3
    assert MODEL in before["models"]


@works(BEFORE, "speech as bytes")
def test_the_python_sdk_before_speaks(before: Told) -> None:
    assert before["speech"] > SECOND // 4


@works(BEFORE, "transcription whole and streamed")
def test_the_python_sdk_before_hears(before: Told) -> None:
    assert [before["transcription"], before["transcription streamed"]] == [PLAIN] * 2


@works(NODE, "chat, completions streamed and responses streamed")
def test_the_javascript_sdk_chats(node: Told, answer: str) -> None:
    said = [node[name] for name in ("chat", "chat streamed", "responses streamed")]
    assert said == [answer] * 3
    assert MODEL in node["models"]


@works(NODE, "speech as bytes")
def test_the_javascript_sdk_speaks(node: Told) -> None:
    assert node["speech"] > SECOND // 4


@works(NODE, "transcription whole and streamed")
def test_the_javascript_sdk_hears(node: Told) -> None:
    assert [node["transcription"], node["transcription streamed"]] == [PLAIN] * 2


@works(NODE, "errors as its own classes")
def test_the_javascript_sdk_raises_its_own_errors(node: Told) -> None:
    assert node["error"] == [404, "voice", True]


# Vercel's AI SDK


@works(AI_SDK, "chat whole and streamed, by either provider")
def test_the_ai_sdk_chats(ai_sdk: Told, answer: str) -> None:
    said = [ai_sdk[name] for name in ("chat", "chat streamed", "compatible streamed")]
    assert said == [answer] * 3


@works(AI_SDK, "responses whole and streamed")
def test_the_ai_sdk_asks_for_responses(ai_sdk: Told, answer: str) -> None:
    assert [ai_sdk["responses"], ai_sdk["responses streamed"]] == [answer] * 2


@works(AI_SDK, "tools and objects by a schema")
def test_the_ai_sdk_gets_tool_calls_and_objects(ai_sdk: Told) -> None:
    assert ai_sdk["tools"] == [["get_weather", {"city": "Paris"}]]
    assert [ai_sdk["objects"], ai_sdk["objects, compatible"]] == [PERSON] * 2


@works(AI_SDK, "speech with speed and instructions")
def test_the_ai_sdk_speaks(ai_sdk: Told) -> None:
    assert ai_sdk["mp3"] > 2000
    assert ai_sdk["wav"] > SECOND // 4
    assert ai_sdk["instructions"] > 2000  # which espeak-ng cannot follow


@works(AI_SDK, "transcription by default, and with segments or words")
def test_the_ai_sdk_hears(ai_sdk: Told) -> None:
    names = ("transcription", "transcription by default", "segments", "words")
    assert [ai_sdk[name]["text"] for name in names] == [PLAIN] * 4
    (segment,) = ai_sdk["segments"]["segments"]
    assert segment["text"].strip() == PLAIN
    assert segment["startSecond"] < segment["endSecond"]
    assert [one["text"] for one in ai_sdk["words"]["segments"]] == PLAIN.split()
    assert ai_sdk["segments"]["language"] == "en"


# What is built on them


@works(LANGCHAIN, "chat whole and streamed, and responses")
def test_langchain_chats(langchain: Told, answer: str) -> None:
    said = [langchain[name] for name in ("chat", "chat streamed", "responses")]
    assert said == [answer] * 3


@works(LANGCHAIN, "tools and objects by a schema")
def test_langchain_gets_tool_calls_and_objects(langchain: Told) -> None:
    assert langchain["tools"] == ["get_weather", {"city": "Paris"}]
    assert langchain["objects"] == PERSON


@works(LITELLM, "chat as `openai` and as `hosted_vllm`, streamed, and responses")
def test_litellm_chats(litellm: Told, answer: str) -> None:
    names = ("chat", "chat, hosted_vllm", "chat streamed", "responses")
    assert [litellm[name] for name in names] == [answer] * 4


@works(LITELLM, "speech and transcription")
def test_litellm_speaks_and_hears(litellm: Told) -> None:
    assert litellm["speech"] > SECOND // 4
    assert litellm["transcription"] == PLAIN


@works(INSTRUCTOR, "objects by a schema and by tools")
def test_instructor_gets_objects(instructor: Told) -> None:
    assert instructor["schema"] == PERSON
    name, age = instructor["tools"].values()  # as the schema has them, whatever a small model says
    assert (type(name), type(age)) == (str, int)
