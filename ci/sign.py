r"""`python -m ci sign`: sign a pushed image with cosign, and attest what is in it.

    python -m ci sign ghcr.io/me/bentovox/chat@sha256:... --sbom sbom.cdx.json
    python -m ci sign localhost:5000/bentovox/chat@sha256:... --key cosign.key

Without --key there is no key to keep: in a workflow cosign proves with GitHub's token which
workflow signs, elsewhere it opens a browser. `python -m ci verify` checks it. An image is named by
its digest: a signature on a tag would be one on whatever the tag names later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ci import command, cosign
from ci.errors import CiError

if TYPE_CHECKING:
    import argparse


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("sign", __doc__)
    cosign.add_options(options, "a private key, instead of the identity of who signs")
    options.add_argument(
        "--sbom", type=Path, metavar="FILE", help="also attest this file of `python -m ci sbom`"
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Sign an image."""
    given = parser().parse_args(arguments)
    return command.run("sign", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    image = cosign.by_digest(given.image)
    if given.sbom and not given.sbom.is_file():
        raise CiError(f"--sbom {given.sbom}: is no file; `python -m ci sbom` writes it")
    key = [f"--key={given.key}"] if given.key else []
    cosign.call("sign", "--yes", *key, image)
    if given.sbom:
        predicate = ("--type=cyclonedx", f"--predicate={given.sbom}")
        cosign.call("attest", "--yes", *predicate, *key, image)
    if given.json:
        command.result_json({"image": image, "sbom": str(given.sbom) if given.sbom else None})
    else:
        command.result(f"{image} is signed" + (", its contents are attested" if given.sbom else ""))
