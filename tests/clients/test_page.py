"""`docs/clients.md` agrees with the results of the other tests in this folder; it runs last."""

from __future__ import annotations

import os

import pytest

from tests.clients import page


def test_the_page_says_what_works_and_nothing_else(request: pytest.FixtureRequest) -> None:
    claims = request.config.stash[page.CLAIMS].values()
    unknown = [f"{one.client}: {one.what}" for one in claims if len(one.outcomes) < one.tests]
    unknown += [f"{one.client}: {one.what}" for one in claims if "skipped" in one.outcomes]
    if unknown or {one.client for one in claims} != set(page.CLIENTS):
        pytest.skip(f"not every client was driven: {', '.join(unknown) or 'tests were chosen'}")
    text = page.text(one for one in claims if one.holds)
    if os.environ.get("WRITE_DOCS"):
        page.PAGE.write_text(text, encoding="utf-8")
    failed = "\n".join(f"{one.client}: {one.what}" for one in claims if not one.holds)
    said = f"does not hold:\n{failed}" if failed else "run it again with WRITE_DOCS=1"
    assert page.PAGE.read_text(encoding="utf-8") == text, said
