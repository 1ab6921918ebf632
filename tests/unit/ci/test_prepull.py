"""Which pulls are retried; tests/images has real pulls."""

from __future__ import annotations

import pytest

from ci import docker, prepull
from ci.errors import CiError


@pytest.fixture(autouse=True)
def _nothing_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "inspect", lambda _: None)


@pytest.mark.parametrize(
    "said",
    [
        "error pulling image: io: read/write on closed pipe",
        "failed to copy: httpReadSeeker: failed open: unexpected status code 503",
        "toomanyrequests: You have reached your pull rate limit",
        "net/http: TLS handshake timeout",
        "unexpected EOF",
    ],
)
def test_what_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    answers = iter([said, said, ""])
    waits: list[float] = []
    monkeypatch.setattr(prepull, "pull", lambda _: next(answers))
    assert prepull.ensure("x", wait=waits.append) == 3
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize(
    "said",
    [
        "manifest unknown",
        "docker.io/x/y:z: not found",
        "pull access denied for x, repository does not exist",
        "write /var/lib/docker/x: no space left on device",
    ],
)
def test_what_stays_so_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(prepull, "pull", lambda _: said)
    with pytest.raises(CiError):
        prepull.ensure("x", wait=lambda _: pytest.fail("it waited"))
