"""A role's models as OpenAI lists them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final, Literal, NotRequired

from typing_extensions import TypedDict

from services.errors import InvalidRequestError, NotFoundError, shown


class ModelCard(TypedDict):
    """A model as OpenAI lists it; vLLM's have more."""

    id: str
    object: Literal["model"]
    created: NotRequired[int]
    owned_by: NotRequired[str]


class ModelList(TypedDict):
    """A list of models."""

    object: Literal["list"]
    data: list[ModelCard]


class Named(TypedDict):
    """An entry to choose from: `id` goes into requests, `name` is shown."""

    id: str
    name: str


class NamedModelList(ModelList):
    """A list of models for clients that look for `models`."""

    models: list[Named]


_DIARIZING: Final = "-diarize"
_DATE: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def without_date(name: str) -> str:
    """Return a model's name without the date that OpenAI's snapshots end with."""
    return _DATE.sub("", name)


class Models:
    """The model names that a role answers to."""

    def __init__(self, names: Iterable[str], *, role: str) -> None:
        """Answer to `names`, in their order, without duplicates, for `role`."""
        self.names = tuple(dict.fromkeys(names))
        self._setting = f"BENTOVOX_{role.upper()}__MODELS"
        self._created = int(time.time())

    def check(self, name: str) -> None:
        """Check that a model is served under this name, or under this name without its date."""
        named = without_date(name)
        if name in self.names or named in self.names:
            return
        if named.endswith(_DIARIZING):
            raise InvalidRequestError(
                f"{named} tells speakers apart, and this server does not; use "
                f"{named.removesuffix(_DIARIZING)} for text, or verbose_json for text with times",
                param="model",
                code="unsupported_value",
            )
        raise self.missing(name)

    def missing(self, name: str) -> NotFoundError:
        """Return the error for a model that is not served."""
        return NotFoundError(
            f"The model {shown(name)} does not exist; this service answers to "
            f"{', '.join(self.names)}. The list is {self._setting}.",
            param="model",
            code="model_not_found",
        )

    def cards(self) -> dict[str, ModelCard]:
        """Return the card of each model."""
        return {
            name: {"id": name, "object": "model", "created": self._created, "owned_by": "bentovox"}
            for name in self.names
        }

    def named(self) -> NamedModelList:
        """Return the list of all with `models`."""
        models: list[Named] = [{"id": name, "name": name} for name in self.names]
        return {"object": "list", "data": [*self.cards().values()], "models": models}
