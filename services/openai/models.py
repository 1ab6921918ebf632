"""A role's models as OpenAI lists them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from services.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Models:
    """The names that a role answers to."""

    def __init__(self, names: Iterable[str]) -> None:
        """Answer to `names`, each once, in their order."""
        self.names = tuple(dict.fromkeys(names))
        self._created = int(time.time())

    def check(self, name: str) -> None:
        """Return if the model is served.

        Raises:
            NotFoundError: it is not (`model_not_found`).
        """
        if name not in self.names:
            raise NotFoundError(
                f"The model {name!r} does not exist; this service answers to "
                f"{', '.join(self.names)}.",
                param="model",
                code="model_not_found",
            )

    def card(self, name: str) -> dict[str, Any]:
        """Return one model's card.

        Raises:
            NotFoundError: it is not served.
        """
        self.check(name)
        return {"id": name, "object": "model", "created": self._created, "owned_by": "bentovox"}

    def listed(self) -> dict[str, Any]:
        """Return the list of all."""
        return {"object": "list", "data": [self.card(name) for name in self.names]}
