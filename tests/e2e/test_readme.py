"""The pages' examples, copied and run against the stack that the README's command started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.examples import EXAMPLES, check_example

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docs.pages import Block
    from tests.e2e.server import Server


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
async def test_example_does_what_the_page_says(block: Block, stack: Server, tmp_path: Path) -> None:
    await check_example(block, stack.url, tmp_path)
