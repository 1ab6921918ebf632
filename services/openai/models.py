"""A role's models as OpenAI lists them."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, Literal, NotRequired

from typing_extensions import TypedDict

from services.errors import NotFoundError, no_such_model, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping


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
        """Check that the model is served.

        Raises:
            NotFoundError: it is not (`model_not_found`).
        """
        if name not in self.names:
            raise NotFoundError(
                f"The model {shown(name)} does not exist; this service answers to "
                f"{', '.join(self.names)}. The list is {self._setting}.",
                param="model",
                code="model_not_found",
            )

    def card(self, name: str) -> ModelCard:
        """Return one model's card.

        Raises:
            NotFoundError: it is not served.
        """
        self.check(name)
        return {"id": name, "object": "model", "created": self._created, "owned_by": "bentovox"}

    def named(self) -> NamedModelList:
        """Return the list of all with `models`."""
        models: list[Named] = [{"id": name, "name": name} for name in self.names]
        return {**self.listed(), "models": models}

    def listed(self) -> ModelList:
        """Return the list of all."""
        return {"object": "list", "data": [self.card(name) for name in self.names]}


class Cards:
    """Models that may change: `cards` returns those of the moment, by id."""

    def __init__(self, cards: Callable[[], Awaitable[Mapping[str, Mapping[str, object]]]]) -> None:
        self._cards = cards

    async def listed(self) -> dict[str, object]:
        """Return the list of all."""
        return {"object": "list", "data": [*(await self._cards()).values()]}

    async def card(self, name: str) -> Mapping[str, object]:
        """Return one model's card.

        Raises:
            NotFoundError: there is no such model.
        """
        cards = await self._cards()
        if name not in cards:
            raise no_such_model(name)
        return cards[name]
