"""What a pull refuses before it begins; pulls themselves are in tests/integration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci import prepull
from ci.errors import CiError

if TYPE_CHECKING:
    from pathlib import Path

LARGE = prepull.Size(layers=3, sent_bytes=10**18)


def test_a_disk_that_is_too_small_is_told_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(CiError, match=r"needs about 3000000000\.0 GB.*python -m ci disk"):
        prepull.enough(LARGE, tmp_path)


def test_an_image_that_fits_is_not_refused(tmp_path: Path) -> None:
    prepull.enough(prepull.Size(layers=3, sent_bytes=1), tmp_path)


def test_the_disk_of_an_engine_elsewhere_is_not_judged() -> None:
    prepull.enough(LARGE, None)


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
def test_what_may_pass_is_tried_again(said: str) -> None:
    with pytest.raises(prepull.Broken):
        prepull._refuse(said, "docker pull x")


@pytest.mark.parametrize(
    "said",
    [
        "manifest unknown",
        "docker.io/x/y:z: not found",
        "pull access denied for x, repository does not exist",
        "write /var/lib/docker/x: no space left on device",
    ],
)
def test_what_stays_so_is_not_tried_again(said: str) -> None:
    with pytest.raises(CiError):
        prepull._refuse(said, "docker pull x")
