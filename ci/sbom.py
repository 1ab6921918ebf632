r"""`python -m ci sbom`: what is in an image, as CycloneDX 1.6.

    python -m ci sbom bentovox/gateway:cpu --out sbom.cdx.json
    python -m ci sbom ghcr.io/me/bentovox/chat@sha256:... --out sbom.cdx.json

Lists the Python distributions and the packages of the distribution below, each with its package
URL, and the image's digest as what they are in. The image's own Python says what it sees, without
a network; the base's packages count as the bento's do. The same image gives the same file.

Written as plain JSON, which is shorter here than the objects of cyclonedx-python-lib and keeps ci's
dependencies few. That library's validator holds the result in the tests.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from ci import command, docker, naming
from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    import argparse

_NAMESPACE: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562: URLs

_ASK: Final = """
import importlib.metadata, json, pathlib

def text(path):
    path = pathlib.Path(path)
    return path.read_text(errors="replace") if path.is_file() else ""

found = []
for one in importlib.metadata.distributions():
    said = one.metadata
    found.append([said["Name"], one.version, said["License-Expression"] or ""])
print(json.dumps({
    "python": found, "status": text("/var/lib/dpkg/status"), "release": text("/etc/os-release")
}))
"""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.parser("sbom", __doc__)
    options.add_argument("image", metavar="IMAGE", help="by tag or digest, here or in a registry")
    options.add_argument("--out", required=True, type=Path, metavar="FILE", help="where it goes")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Write what is in an image."""
    given = parser().parse_args(arguments)
    return command.run("sbom", lambda: _work(given))


def _work(given: argparse.Namespace) -> None:
    docker.ready()
    name, digest = identity(given.image)
    say(f"Asking the Python of {given.image}")
    made = bom(name, digest, **ask(given.image))
    given.out.write_text(json.dumps(made, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    kinds = [one["purl"].split("/")[0].removeprefix("pkg:") for one in made["components"]]
    counts = {"python": kinds.count("pypi"), "system": kinds.count("deb")}
    if given.json:
        command.result_json({"out": str(given.out), "digest": digest, **counts})
    else:
        found = f"{counts['python']} Python distributions and {counts['system']} packages"
        command.result(f"{given.out}: {found}, of {digest}")


def identity(image: str) -> tuple[str, str]:
    """Return an image's repository and its digest; it is pulled if it is not here.

    Raises:
        CiError: it is neither here nor in a registry.
    """
    known = docker.bring(image)
    return naming.untagged(image), image.partition("@")[2] or str(known["Id"])


def ask(image: str) -> dict[str, Any]:
    """Return what an image's own Python sees in it.

    Raises:
        CiError: it has no Python.
    """
    how = ("run", "--rm", "-i", "--network=none", "--read-only", "--entrypoint=python3")
    try:
        said = docker.call(*how, image, "-I", "-", stdin=_ASK)
    except CiError as error:
        raise CiError(
            f"{image} has no python3 that runs, so nothing can say what is in it"
        ) from error
    found: dict[str, Any] = json.loads(said)
    return found


def bom(
    name: str, digest: str, *, python: list[list[str]], status: str, release: str
) -> dict[str, Any]:
    """Return the document: for the same image the same to the last byte.

    Raises:
        CiError: the image holds no package at all, so that it was not understood.
    """
    components = {
        one["bom-ref"]: one for one in [*_distributions(python), *_packages(status, release)]
    }
    if not components:
        raise CiError(f"{name} holds no package that is known here: no dist-info, no dpkg")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'oci:{name}@{digest}')}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": f"{name}@{digest}",
                "name": name,
                "version": digest,
                "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
            }
        },
        "components": [components[key] for key in sorted(components)],
    }


def _distributions(found: list[list[str]]) -> list[dict[str, Any]]:
    return [
        {
            **_library(f"pkg:pypi/{naming.distribution(name)}@{_quoted(version)}", name, version),
            **({"licenses": [{"expression": licence}]} if licence else {}),
        }
        for name, version, licence in found
        if name and version  # what is left of a distribution that was removed has neither
    ]


def _packages(status: str, release: str) -> list[dict[str, Any]]:
    system = _fields(release, "=")
    vendor = system.get("ID", "debian").strip('"')
    codename = system.get("VERSION_CODENAME", "").strip('"')
    found = []
    for paragraph in status.split("\n\n"):
        fields = _fields(paragraph, ": ")
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        qualifiers = f"?arch={fields['Architecture']}" + (f"&distro={codename}" if codename else "")
        purl = f"pkg:deb/{vendor}/{_quoted(name)}@{_quoted(version)}{qualifiers}"
        found.append(_library(purl, name, version))
    return found


def _library(purl: str, name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _fields(text: str, separator: str) -> dict[str, str]:
    """Return the first line of each field; what goes on over more lines is left out."""
    lines = (line.partition(separator) for line in text.splitlines() if line[:1].strip())
    return {key: value for key, _, value in lines}


def _quoted(text: str) -> str:
    """Return text as a package URL takes it: a colon stays."""
    return quote(text, safe=":")
