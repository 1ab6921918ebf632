"""A large request's lists, validated item by item before vLLM validates the whole.

Its schema writes down each fault of each member of each union, on the event loop: 2000 malformed
items of /v1/responses are 462,001 faults and 15 s. Here the first fault ends it, and others have
their turn in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from services.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

_AT_A_TIME: Final = 32


async def check_items(model: type[BaseModel], body: Mapping[str, Any]) -> None:
    """Return if `model`, vLLM's own, takes each item of `body`'s lists.

    Raises:
        InvalidRequestError: it does not; `param` names the item.
    """
    for name, items in body.items():
        if name not in model.model_fields or not isinstance(items, list):
            continue
        if all(type(item) is int and item >= 0 for item in items):
            continue  # tokens
        for index, item in enumerate(items):
            if index % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            fault = _fault(model, name, item)
            if fault is not None:
                place = f"{name}[{index}]"
                inner = ".".join(str(part) for part in fault["loc"] if str(part).isidentifier())
                raise InvalidRequestError(
                    f"{place}: {inner[:128]}: {fault['msg']}", param=place, code="invalid_value"
                )


def _fault(model: type[BaseModel], name: str, item: Any) -> Any:
    """Return the first fault of one item; what the rest of the body lacks is none of its."""
    try:
        model.model_validate({name: [item]})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        return next((fault for fault in faults if fault["loc"][:1] == (name,)), None)
    except Exception:  # noqa: BLE001  a validator that misses the rest: vLLM will say
        return None
    return None
