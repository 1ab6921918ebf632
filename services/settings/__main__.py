"""`python -m services.settings`: print what is in force and where each value came from."""

from __future__ import annotations

import argparse
import json
import sys
from operator import attrgetter
from typing import Any

from pydantic import SecretStr

from services.errors import ConfigurationError
from services.settings import leaves, provenance, settings, variable


def table() -> list[dict[str, str]]:
    """Return every setting as key, variable, value, source and description; secrets masked."""
    rows = []
    for key, field in leaves():
        node: Any = attrgetter(key)(settings())
        if isinstance(node, SecretStr):
            node = "********" if node.get_secret_value() else ""
        rows.append(
            {
                "key": key,
                "variable": variable(key),
                "value": node if isinstance(node, str) else json.dumps(node, ensure_ascii=False),
                "source": provenance(key),
                "description": str(field.description),
            }
        )
    return rows


def main() -> int:
    """Print the settings in force."""
    argparse.ArgumentParser(prog="python -m services.settings", description=__doc__).parse_args()
    try:
        rows = table()
    except ConfigurationError as error:
        print(f"bentovox: {error.message}", file=sys.stderr)  # noqa: T201
        return 2
    for row in rows:
        print(f"{row['variable']} = {row['value']}")  # noqa: T201
        print(f"    {row['description']}  ({row['source']})")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
