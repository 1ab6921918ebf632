"""What an image's own Python says, as CycloneDX 1.6."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci import sbom
from ci.errors import CiError

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 Version: no field, but a line of the description

Package: perl-base
Status: install ok installed
Architecture: amd64
Version: 5.36.0-7

Package: bsdutils
Status: install ok installed
Architecture: amd64
Version: 1:2.38.1-5~bpo1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
RELEASE = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian"\n'
PYTHON = [["torch", "2.13.0+cpu", ""], ["Ruamel.YAML", "0.18", "MIT"], ["torch", "2.12.0", ""]]


def made(python: list[list[str]] = PYTHON) -> dict[str, Any]:
    return sbom.bom("me/chat", DIGEST, python=python, status=STATUS, release=RELEASE)


def test_each_package_has_its_package_url() -> None:
    assert [one["purl"] for one in made()["components"]] == [
        "pkg:deb/debian/bsdutils@1:2.38.1-5~bpo1?arch=amd64&distro=bookworm",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=bookworm",
        "pkg:deb/debian/perl-base@5.36.0-7?arch=amd64&distro=bookworm",
        "pkg:pypi/ruamel-yaml@0.18",
        "pkg:pypi/torch@2.12.0",
        "pkg:pypi/torch@2.13.0%2Bcpu",
    ]


def test_a_distribution_that_is_there_twice_is_told_twice() -> None:
    versions = [one["version"] for one in made()["components"] if one["name"] == "torch"]
    assert versions == ["2.12.0", "2.13.0+cpu"]


def test_ubuntus_packages_are_ubuntus() -> None:
    found = sbom.bom(
        "me/chat", DIGEST, python=[], status=STATUS, release='ID=ubuntu\nVERSION_CODENAME="noble"\n'
    )
    assert found["components"][1]["purl"].startswith("pkg:deb/ubuntu/libc6@")
    assert found["components"][1]["purl"].endswith("&distro=noble")


def test_the_image_is_the_component_by_its_digest() -> None:
    described = made()["metadata"]["component"]
    assert described["version"] == DIGEST
    assert described["hashes"] == [{"alg": "SHA-256", "content": DIGEST.removeprefix("sha256:")}]


def test_the_same_image_gives_the_same_document_whatever_order_it_says_it_in() -> None:
    assert json.dumps(made()) == json.dumps(made(PYTHON[::-1]))


def test_another_image_has_another_serial_number() -> None:
    other = sbom.bom("me/chat", f"sha256:{'1' * 64}", python=PYTHON, status="", release="")
    assert other["serialNumber"] != made()["serialNumber"]


def test_an_image_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(CiError, match="no package that is known here"):
        sbom.bom("me/chat", DIGEST, python=[], status="", release="")


def test_cyclonedxs_own_validator_accepts_it() -> None:
    reason = "cyclonedx-python-lib[json-validation] is not installed"
    validation = pytest.importorskip("cyclonedx.validation.json", reason=reason)
    schema = pytest.importorskip("cyclonedx.schema", reason=reason)
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(made())) is None


def test_package_urls_are_as_their_own_library_writes_them() -> None:
    packageurl = pytest.importorskip("packageurl", reason="packageurl-python is not installed")
    for one in made()["components"]:
        assert packageurl.PackageURL.from_string(one["purl"]).to_string() == one["purl"]
