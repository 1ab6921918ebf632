import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import docker
from ci.errors import CiError
from ci.layers.image import read
from tests.oci_layouts import Layouts

BIG = b"b" * (3 << 20)
LAYERS = ({"usr/bin/tool": BIG, "etc": None}, {"./app/main.py": "print()", "bin": "->usr/bin"})


@pytest.mark.parametrize("how", ["gzip", "zstd", ""])
@pytest.mark.parametrize("make", [Layouts.make, Layouts.archived])
def test_layers_are_read_whatever_they_are_compressed_with(
    layouts: Layouts, how: str, make: Callable[..., Path]
) -> None:
    image = read(str(make(layouts, *LAYERS, compression=how)))
    assert [[file.path for file in layer.files] for layer in image.layers] == [
        ["usr/bin/tool"],
        ["app/main.py", "bin"],
    ]
    assert image.layers[0].raw_bytes > len(BIG)
    assert (image.layers[0].compressed_bytes < len(BIG)) is bool(how)


def test_the_raw_size_is_that_of_the_archive_to_its_last_byte(layouts: Layouts) -> None:
    image = read(str(layouts.make(*LAYERS, compression="")))
    assert [layer.raw_bytes for layer in image.layers] == [
        layer.compressed_bytes for layer in image.layers
    ]


def test_only_instructions_that_made_a_layer_are_named(layouts: Layouts) -> None:
    image = read(str(layouts.make(*LAYERS, created_by=["RUN a", "COPY b /b"])))
    assert [layer.created_by for layer in image.layers] == ["RUN a", "COPY b /b"]


def test_the_configuration_is_read(layouts: Layouts) -> None:
    image = read(str(layouts.make({}, environment=["A=1=2", "B="])))
    assert image.environment == {"A": "1=2", "B": ""}
    assert image.labels["bentovox.bento"] == "gateway"
    assert image.config["User"] == "10001:10001"


def test_big_files_have_their_digest_and_small_ones_have_none(layouts: Layouts) -> None:
    image = read(str(layouts.make(*LAYERS)))
    assert len(image.layers[0].files[0].digest) == 64
    assert image.layers[1].files[0].digest == ""


def test_whiteouts_are_no_files(layouts: Layouts) -> None:
    image = read(str(layouts.make({"a/.wh.b": "", "c/.wh..wh..opq": "", ".wh.d": "", "e": "1"})))
    layer = image.layers[0]
    assert [file.path for file in layer.files] == ["e"]
    assert layer.removed == ["a/b", "d"]
    assert layer.emptied == ["c"]


@pytest.mark.parametrize("how", ["gzip", "zstd"])
@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:9] + b"no" * 99]
)
def test_a_damaged_layer_is_one_line_that_names_it(
    layouts: Layouts, how: str, spoil: Callable[[bytes], bytes]
) -> None:
    root = layouts.make(*LAYERS, compression=how)
    for blob in (root / "blobs/sha256").iterdir():
        data = blob.read_bytes()
        if not data.startswith(b"{"):
            blob.write_bytes(spoil(data))
    with pytest.raises(CiError, match=r"the layer sha256:\w{12} is no layer: .*again"):
        read(str(root))


def test_what_is_no_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("hello")
    with pytest.raises(CiError, match=r"no OCI layout: there is no index\.json"):
        read(str(tmp_path))
    with pytest.raises(CiError, match=r"no archive of an OCI layout.*\Z"):  # in one line
        read(str(tmp_path / "some.txt"))


def test_a_layout_of_two_images_is_refused(layouts: Layouts) -> None:
    one, other = layouts.make({"a": "1"}, name="one"), layouts.make({"b": "1"}, name="other")
    shutil.copytree(other / "blobs", one / "blobs", dirs_exist_ok=True)
    manifests = [(root / "index.json").read_text()[15:-2] for root in (one, other)]
    (one / "index.json").write_text(f'{{"manifests": [{", ".join(manifests)}]}}')
    with pytest.raises(CiError, match="contains 2 images"):
        read(str(one))


def test_reading_a_large_layer_takes_little_memory(layouts: Layouts) -> None:
    path = layouts.make({f"f{at}": bytes(64 << 20) for at in range(2)})
    tracemalloc.start()
    try:
        read(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20  # a quarter of one of the files


def test_an_image_of_the_engine_is_what_it_saves(
    layouts: Layouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = layouts.archived(*LAYERS)

    def save(verb: str, output: str, name: str) -> str:
        assert (verb, name) == ("save", "of:engine")
        shutil.copyfile(saved, output.removeprefix("--output="))
        return ""

    monkeypatch.setattr(docker, "ready", lambda: "")
    monkeypatch.setattr(docker, "inspect", lambda _: {"Id": "sha256:0"})
    monkeypatch.setattr(docker, "call", save)
    assert read("of:engine").layers == read(str(saved)).layers


def test_an_image_that_the_engine_has_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ready", lambda: "")
    monkeypatch.setattr(docker, "inspect", lambda _: None)
    with pytest.raises(CiError, match="neither a path nor an image of the engine"):
        read("of:engine")
