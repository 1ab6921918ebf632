r"""`python -m ci verify`: hold a pushed image to its signature, with cosign.

    python -m ci verify ghcr.io/me/bentovox/chat@sha256:... --sbom \
        --identity https://github.com/me/bentovox/.github/workflows/_image.yml@refs/heads/main
    python -m ci verify localhost:5000/bentovox/chat@sha256:... --key cosign.pub

Exit code 0 only if that workflow (or that key) signed this very digest; with --sbom also only if it
attested what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci import command, cosign
from ci.errors import CiError

if TYPE_CHECKING:
    import argparse

_GITHUB: Final = "https://token.actions.githubusercontent.com"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("verify", __doc__)
    cosign.add_options(options, "a public key, instead of an identity")
    options.add_argument("--identity", default="", metavar="URL", help="the workflow that signed")
    options.add_argument(
        "--issuer", default=_GITHUB, metavar="URL", help=f"who vouches for it (default: {_GITHUB})"
    )
    options.add_argument("--sbom", action="store_true", help="also what is in it must be attested")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Verify an image."""
    given = parser().parse_args(arguments)
    return command.run("verify", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    image = cosign.by_digest(given.image)
    if bool(given.key) == bool(given.identity):
        raise CiError("say who must have signed: --identity with a workflow's URL, or --key")
    who = (
        [f"--key={given.key}"]
        if given.key
        else [
            f"--certificate-identity={given.identity}",
            f"--certificate-oidc-issuer={given.issuer}",
        ]
    )
    cosign.call("verify", *who, image)
    if given.sbom:
        cosign.call("verify-attestation", "--type=cyclonedx", *who, image)
    if given.json:
        command.result_json({"image": image, "verified": True})
    else:
        command.result(f"{image} is what {given.identity or given.key} signed")
