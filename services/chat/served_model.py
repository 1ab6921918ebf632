"""Which model is served: a directory, a Hugging Face id or the one that is shipped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import ConfigurationError
from services.hub import HubModel, is_hub_id

if TYPE_CHECKING:
    from services.settings.sections import ChatSettings

DEMO_NAME = "bentovox-demo"
DEMO_DIRECTORY = Path(__file__).with_name("demo_model")


@dataclass(frozen=True)
class ServedModel:
    """What vLLM loads, a path or id, and the name that clients use."""

    source: str
    name: str


def resolve(chat: ChatSettings) -> ServedModel:
    """Return the model of these settings.

    Raises:
        ConfigurationError: it is not there, or not a model; the message names it.
    """
    if chat.model == DEMO_NAME:
        return ServedModel(str(DEMO_DIRECTORY), chat.served_model_name or DEMO_NAME)
    path = Path(chat.model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigurationError(
                f"BENTOVOX_CHAT__MODEL={chat.model}: the directory has no config.json; give a "
                "model directory in Hugging Face's layout."
            )
        return ServedModel(str(path), chat.served_model_name or path.resolve().name)
    if not is_hub_id(chat.model):
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={chat.model}: there is no such directory, and it is no Hugging "
            f"Face id such as Qwen/Qwen3-0.6B; `{DEMO_NAME}` is shipped."
        )
    hub = HubModel(chat.model, ("config.json",), chat.revision or "main")
    if hub.is_offline and hub.cached() is None:
        raise ConfigurationError(
            f"BENTOVOX_CHAT__MODEL={chat.model} is not in {hub.cache}, and HF_HUB_OFFLINE is set; "
            f"unset it once to download, or run `hf download {chat.model}` where a hub can be "
            "reached."
        )
    return ServedModel(chat.model, chat.served_model_name or chat.model)
