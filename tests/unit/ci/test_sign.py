"""What `sign` and `verify` ask of cosign: a stand-in here writes down its arguments.

It proves the command lines, not that cosign accepts them: there is no cosign without a network.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from ci import sign, verify

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = f"ghcr.io/me/bentovox/chat@sha256:{'0' * 64}"
STAND_IN = """#!{python}
import json, os, sys
with open(os.environ["COSIGN_CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if os.environ.get("COSIGN_FAILS") == sys.argv[1]:
    print("Error: no matching signatures")
    sys.exit(12)
"""


class Cosign:
    """A stand-in for the command, first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._calls = folder / "calls"
        (folder / "cosign").write_text(STAND_IN.format(python=sys.executable))
        (folder / "cosign").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("COSIGN_CALLS", str(self._calls))

    @property
    def calls(self) -> list[list[str]]:
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text().splitlines()]


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cosign:
    return Cosign(tmp_path, monkeypatch)


def test_an_image_is_signed_without_a_key_and_without_a_question(cosign: Cosign) -> None:
    assert sign.main([IMAGE]) == 0
    assert cosign.calls == [["sign", "--yes", IMAGE]]


def test_what_is_in_it_is_attested_after_it_is_signed(cosign: Cosign, tmp_path: Path) -> None:
    document = tmp_path / "sbom.cdx.json"
    document.write_text("{}")
    assert sign.main([IMAGE, "--sbom", str(document), "--key", "cosign.key"]) == 0
    assert cosign.calls == [
        ["sign", "--yes", "--key=cosign.key", IMAGE],
        [
            "attest",
            "--yes",
            "--type=cyclonedx",
            f"--predicate={document}",
            "--key=cosign.key",
            IMAGE,
        ],
    ]


@pytest.mark.parametrize(
    "image", ["ghcr.io/me/bentovox/chat:cuda13", "chat", "chat@sha256:0123", "chat@sha512:0"]
)
def test_an_image_without_a_digest_is_refused_before_cosign_runs(
    cosign: Cosign, capsys: pytest.CaptureFixture[str], image: str
) -> None:
    for main in (sign.main, verify.main):
        assert main([image]) == 1
        assert "names no digest" in capsys.readouterr().err
    assert cosign.calls == []


def test_a_list_of_contents_that_is_not_there_is_refused_before_anything_is_signed(
    cosign: Cosign, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign.main([IMAGE, "--sbom", "nowhere.json"]) == 1
    assert "nowhere.json: is no file" in capsys.readouterr().err
    assert cosign.calls == []


def test_a_signature_is_held_to_the_workflow_and_to_who_vouches_for_it(cosign: Cosign) -> None:
    identity = "https://github.com/me/bentovox/.github/workflows/_image.yml@refs/heads/main"
    assert verify.main([IMAGE, "--identity", identity, "--sbom"]) == 0
    who = [
        f"--certificate-identity={identity}",
        "--certificate-oidc-issuer=https://token.actions.githubusercontent.com",
    ]
    assert cosign.calls == [
        ["verify", *who, IMAGE],
        ["verify-attestation", "--type=cyclonedx", *who, IMAGE],
    ]


@pytest.mark.parametrize("options", [[], ["--key", "cosign.pub", "--identity", "https://x"]])
def test_without_one_signer_nothing_is_verified(
    cosign: Cosign, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert verify.main([IMAGE, *options]) == 1
    assert "say who must have signed" in capsys.readouterr().err
    assert cosign.calls == []


def test_a_signature_that_is_not_there_is_exit_code_1_with_cosigns_words(
    cosign: Cosign, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_FAILS", "verify")
    assert verify.main([IMAGE, "--key", "cosign.pub", "--sbom"]) == 1
    assert "cosign verify: Error: no matching signatures" in capsys.readouterr().err
    assert [call[0] for call in cosign.calls] == ["verify"]


def test_without_cosign_one_line_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sign.main([IMAGE]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "https://github.com/sigstore/cosign/releases" in said
