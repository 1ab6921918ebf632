from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from services.errors import AuthenticationError, ConfigurationError
from services.gateway.keys import Keys, key_of
from services.settings.sections import GatewaySettings

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-made-for-the-test"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def keys(text: str = f"anna:{HASH}", file: str = "") -> Keys:
    return Keys.from_settings(GatewaySettings(keys=SecretStr(text), keys_file=file))


def sent(*headers: tuple[bytes, bytes]) -> bytes | None:
    return key_of({"type": "http", "headers": [(b"host", b"x"), *headers]})


def bearer(token: str, scheme: str = "Bearer") -> bytes | None:
    return sent((b"authorization", f"{scheme} {token}".encode()))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_known_key_passes(scheme: str) -> None:
    keys().check(bearer(KEY, scheme))


@pytest.mark.parametrize("token", ["", "sk-other", KEY + "x", KEY[:-1], HASH])
def test_another_one_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(AuthenticationError, match="Incorrect API key") as refused:
        keys().check(bearer(token))
    assert not token or token not in refused.value.message


@pytest.mark.parametrize("headers", [[], [(b"api-key", KEY.encode())]])
def test_no_key_is_refused_and_told_how(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(AuthenticationError, match="Authorization: Bearer"):
        keys().check(sent(*headers))


def test_another_scheme_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        keys().check(bearer(KEY, "Basic"))


def test_no_keys_at_all_let_everybody_in() -> None:
    keys("").check(None)


def test_every_hash_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare_digest = hmac.compare_digest

    def noting(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return compare_digest(a, b)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    others = ",".join(f"u{n}:{hashlib.sha256(bytes([n])).hexdigest()}" for n in range(3))
    keys(f"anna:{HASH},{others}").check(bearer(KEY))
    assert len(compared) == 4


def test_keys_come_from_the_environment_and_the_file(tmp_path: Path) -> None:
    other = hashlib.sha256(b"sk-other").hexdigest()
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\n\nbert:{other}  # until May\n")
    both = keys(f"anna:{HASH}", str(file))
    both.check(bearer(KEY))
    both.check(bearer("sk-other"))


def test_a_missing_file_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"KEYS_FILE=.*No such file.*gateway\.keys NAME"):
        keys("", str(tmp_path / "none"))


@pytest.mark.parametrize("line", [KEY, f"anna={HASH}", f"anna:{HASH[:-1]}", f"an na:{HASH}"])
def test_a_bad_line_is_refused_without_being_shown(line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        keys(f"bert:{HASH},{line}")
    assert "API key 2 is not" in refused.value.message
    assert line not in refused.value.message
    assert KEY not in refused.value.message


def test_a_name_stands_for_one_key() -> None:
    with pytest.raises(ConfigurationError, match="two API keys are named 'anna'"):
        keys(f"anna:{HASH},anna:{HASH}")


def test_a_key_that_the_command_makes_is_let_in() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "services.gateway.keys", "anna"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    key = re.search(r"(sk-\S+)", made)
    line = re.search(r"(anna:[0-9a-f]{64})", made)
    assert key
    assert line
    assert len(key[1]) >= 43  # 256 bits
    keys(line[1]).check(bearer(key[1]))


def test_the_command_refuses_a_name_that_the_server_could_not_read() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "services.gateway.keys", "an na"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2
    assert "other characters" in made.stderr
    assert "sk-" not in made.stdout
