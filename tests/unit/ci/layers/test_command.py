import pytest

from ci.__main__ import main
from ci.layers.image import on_base, read
from tests.oci_layouts import Layouts

MIB = 1 << 20
BASE = {"etc/os-release": "x", "usr/lib/x.so": b"x" * 3 * MIB}
CODE = {"app/src/service.py": b"c" * 5000}


@pytest.fixture
def base(layouts: Layouts) -> str:
    return str(layouts.make(BASE, name="base", labels={}))


def test_the_base_part_is_what_the_image_shares_with_its_base(
    layouts: Layouts, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = layouts.archived(BASE, CODE, created_by=["", "COPY bento /app"])
    assert main(["layers", str(image), "--base", base]) == 0
    below, app = capsys.readouterr().out.splitlines()[3:5]
    assert below.split()[:2] == ["1", "base"]
    assert below.endswith("lib, etc")
    assert app.split()[:2] == ["2", "app"]
    assert app.endswith("code")
    there = on_base(read(str(image)), base)
    assert there.app_bytes == there.layers[1].compressed_bytes


def test_an_image_on_another_base_is_refused(
    layouts: Layouts, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = layouts.make({"other": "x"}, CODE)
    assert main(["layers", str(image), "--base", base]) == 1
    assert "does not stand on" in capsys.readouterr().err


def test_a_fault_is_exit_code_1_and_stands_in_the_table(
    layouts: Layouts, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = layouts.make(BASE, {**CODE, "usr/bin/gcc": "x"}, user="0")
    assert main(["layers", str(image), "--base", base]) == 1
    said = capsys.readouterr()
    assert "  FAIL  not root\n" in said.out
    assert "has a compiler: usr/bin/gcc" in said.out
    assert "faults named above: 2" in said.err


def test_a_secrets_value_is_never_printed(
    layouts: Layouts, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = layouts.make(BASE, environment=["HF_TOKEN=hf_abcdefghijkl"])
    main(["layers", str(image), "--base", base])
    said = capsys.readouterr()
    assert "HF_TOKEN" in said.out
    assert "hf_abcdefghijkl" not in said.out + said.err
