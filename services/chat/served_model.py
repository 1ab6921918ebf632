"""Which model the chat role serves: a directory, a Hugging Face id or the one that is shipped."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import ConfigurationError

if TYPE_CHECKING:
    from services.settings.sections import ChatSettings

DEMO_NAME = "bentovox-demo"
DEMO_DIRECTORY = Path(__file__).with_name("demo_model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+\Z")


@dataclass(frozen=True)
class ChatModel:
    """What vLLM is told to load (a path or id) and the name that clients ask for."""

    source: str
    name: str


def resolve(chat: ChatSettings) -> ChatModel:
    """Return the model of these settings.

    Raises:
        ConfigurationError: a directory that is missing or holds no model; the message names it.
    """
    if chat.model == DEMO_NAME:
        return ChatModel(str(DEMO_DIRECTORY), chat.served_model_name or DEMO_NAME)
    path = Path(chat.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"BENTOVOX_CHAT__MODEL={chat.model}: the directory holds no config.json; give a "
                "model directory in Hugging Face's layout."
            )
        return ChatModel(str(path), chat.served_model_name or path.resolve().name)
    if not _HUB_ID.match(chat.model):
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={chat.model}: there is no such directory, and it is no Hugging "
            f"Face id such as Qwen/Qwen3-0.6B; `{DEMO_NAME}` is shipped."
        )
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        _check_cached(chat.model)
    return ChatModel(chat.model, chat.served_model_name or chat.model)


def _check_cached(hub_id: str) -> None:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", str(home / "hub")))
    if not (cache / f"models--{hub_id.replace('/', '--')}").is_dir():
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={hub_id} is not in {cache}, and HF_HUB_OFFLINE is set; unset it "
            f"once to download, or run `hf download {hub_id}` where a hub can be reached."
        )
