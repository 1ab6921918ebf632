"""Fetching upstream's code: what is taken and refused, and that a folder is never incomplete."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.__main__ import main as ci
from ci.cosyvoice import command, pins, sources
from ci.cosyvoice.command import default_folder
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
UPSTREAM = {
    "LICENSE": "Apache-2.0",
    "README.md": "left behind",
    "cosyvoice/__init__.py": "",
    "cosyvoice/llm/llm.py": "class CosyVoice3LM: ...",
    "cosyvoice/tokenizer/assets/all.tiktoken": "aGk= 0",
    "cosyvoice/bin/train.py": "left behind",
    "cosyvoice/bin/spk2info.pt": "left behind",
    "runtime/python/fastapi/server.py": "left behind",
}
MATCHA = {
    "LICENSE": "MIT, Matcha",
    "matcha/__init__.py": "",
    "matcha/hifigan/models.py": "",
    "matcha/models/components/decoder.py": "",
    "matcha/utils/__init__.py": "",
    "matcha/utils/audio.py": "",
    "matcha/train.py": "left behind",
}
COPY = {**UPSTREAM, "cosyvoice/llm/llm.py": "class Qwen2LM: ..."}


def archive_paths() -> dict[str, str]:
    return {"cosyvoice": sources._ARCHIVES["cosyvoice"], "matcha": sources._ARCHIVES["matcha"]}


def tarball(path: Path, files: dict[str, str], *members: tarfile.TarInfo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"top-of-archive/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        for extra in members:
            archive.addfile(extra, io.BytesIO(b"x" * extra.size))


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def wheel(path: Path, files: dict[str, str]) -> Path:
    dist = "xinference-4.1.0.dist-info"
    inner = {f"xinference/thirdparty/{name}": text for name, text in files.items()}
    inner["xinference/__init__.py"] = "left behind"
    inner[f"{dist}/licenses/LICENSE"] = files["LICENSE"]
    inner[f"{dist}/METADATA"] = "Metadata-Version: 2.1\nName: xinference\nVersion: 4.1.0\n"
    inner[f"{dist}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    inner[f"{dist}/RECORD"] = "".join(f"{name},,\n" for name in [*inner, f"{dist}/RECORD"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as made:
        for name, text in inner.items():
            made.writestr(name, text)
    return path


def hash_of(files: dict[str, str], package: str) -> str:
    return pins.tree_hash({name: text.encode() for name, text in files.items()}, package)


@pytest.fixture(autouse=True)
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin the little stand-ins too, beside what is really pinned."""
    for files, source, families in ((UPSTREAM, "github", (1, 2, 3)), (COPY, "pypi", (1, 2))):
        origin = pins.Origin(source, f"{source}-version", families)
        monkeypatch.setitem(pins.COSYVOICE, hash_of(files, "cosyvoice"), origin)
    monkeypatch.setattr(sources, "MATCHA", pins.MATCHA | {hash_of(MATCHA, "matcha")})
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving(directory: Path, *, cut_after: int | None = None) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            if cut_after is None:
                super().copyfile(source, outputfile)
            else:
                outputfile.write(source.read(cut_after))
                self.close_connection = True

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(directory))
    )
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def github(tmp_path: Path) -> Iterator[str]:
    paths = archive_paths()
    tarball(tmp_path / "www" / paths["cosyvoice"], UPSTREAM)
    tarball(tmp_path / "www" / paths["matcha"], MATCHA)
    with serving(tmp_path / "www") as url:
        yield url


@pytest.fixture
def nobody() -> str:
    """Return the URL of a port that nobody listens on."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder that both pip and uv take for all there is."""
    wheels = tmp_path / "wheels"
    made = wheel(wheels / "xinference-4.1.0-py3-none-any.whl", {**MATCHA, **COPY})
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "WHEEL_SHA256", digest)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return wheels


def fetch(into: Path, *options: str) -> int:
    return ci(["cosyvoice", "--into", str(into), *options])


def names_in(into: Path) -> set[str]:
    return {path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file()}


EXPECTED = {
    "source.json",
    "cosyvoice/LICENSE",
    "cosyvoice/__init__.py",
    "cosyvoice/llm/llm.py",
    "cosyvoice/tokenizer/assets/all.tiktoken",
    "matcha/LICENSE",
    "matcha/__init__.py",
    "matcha/hifigan/models.py",
    "matcha/models/components/decoder.py",
    "matcha/utils/__init__.py",
    "matcha/utils/audio.py",
}


def test_github_gives_all_families_and_only_what_inference_needs(
    github: str, tmp_path: Path
) -> None:
    into = tmp_path / "deep" / "code"
    assert fetch(into, "--from", "github", "--github-url", github) == 0
    assert names_in(into) == EXPECTED
    assert json.loads((into / "source.json").read_text()) == {
        "source": "github",
        "version": "github-version",
        "families": [1, 2, 3],
    }
    assert (into / "matcha" / "LICENSE").read_text() == "MIT, Matcha"
    assert [path.name for path in into.parent.iterdir() if path.suffix == ".part"] == []


def test_what_is_there_and_right_is_left_alone(
    github: str, nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "code"
    fetch(into, "--github-url", github)
    stamp = (into / "source.json").stat().st_mtime_ns
    assert fetch(into, "--from", "github", "--github-url", nobody) == 0
    assert (into / "source.json").stat().st_mtime_ns == stamp
    assert "is already in" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["changed", "added", "removed", "licence"])
def test_what_was_damaged_is_made_anew(github: str, tmp_path: Path, damage: str) -> None:
    into = tmp_path / "code"
    fetch(into, "--github-url", github)
    if damage == "changed":
        (into / "cosyvoice" / "llm" / "llm.py").write_text("import evil")
    elif damage == "added":
        (into / "cosyvoice" / "extra.py").write_text("import evil")
    elif damage == "licence":
        (into / "cosyvoice" / "LICENSE").unlink()
    else:
        (into / "matcha" / "utils" / "audio.py").unlink()
    assert command.there(into) is None
    assert fetch(into, "--github-url", github) == 0
    assert names_in(into) == EXPECTED
    assert command.there(into) is not None


def test_bytecode_beside_the_code_is_no_damage(github: str, tmp_path: Path) -> None:
    into = tmp_path / "code"
    fetch(into, "--github-url", github)
    folder(into, {"cosyvoice/__pycache__/__init__.cpython-311.pyc": "compiled"})
    assert command.there(into) is not None


def test_archives_that_are_not_what_is_pinned_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = archive_paths()
    tarball(tmp_path / "www" / paths["cosyvoice"], {**UPSTREAM, "cosyvoice/llm/llm.py": "evil"})
    tarball(tmp_path / "www" / paths["matcha"], MATCHA)
    with serving(tmp_path / "www") as url:
        assert fetch(tmp_path / "code", "--from", "github", "--github-url", url) == 1
    assert not (tmp_path / "code").exists()
    said = capsys.readouterr().err.splitlines()[-1]
    assert "cosyvoice is not what is pinned" in said
    assert "nothing was kept" in said


def test_a_failure_leaves_what_was_there(github: str, nobody: str, tmp_path: Path) -> None:
    into = tmp_path / "code"
    fetch(into, "--github-url", github)
    (into / "cosyvoice" / "extra.py").write_text("")
    assert fetch(into, "--from", "github", "--github-url", nobody) == 1
    assert (into / "cosyvoice" / "extra.py").exists()


def test_a_folder_of_somebody_else_is_not_touched(
    github: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = folder(tmp_path / "home", {"thesis.txt": "years"})
    assert fetch(into, "--github-url", github) == 1
    assert names_in(into) == {"thesis.txt"}
    assert "contains something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("cosyvoice/llm/llm.py", True),
        ("cosyvoice/flow/DiT/dit.py", True),
        ("cosyvoice/../../etc/passwd.py", False),
        ("/cosyvoice/llm.py", False),
        ("cosyvoice/..\\evil.py", False),
        ("cosyvoice/bin/train.py", False),
        ("cosyvoice/spk2info.pt", False),
        ("matcha/utils/audio.py", True),
        ("matcha/utils/utils.py", False),
        ("cosyvoice.py", False),
    ],
)
def test_only_named_places_are_taken(path: str, *, kept: bool) -> None:
    assert pins.is_kept(path) is kept


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("top/cosyvoice/llm/more.py")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tarball(tmp_path / "a.tar.gz", UPSTREAM, link)
    with pytest.raises(CiError, match="is a link"):
        sources.from_tarball((tmp_path / "a.tar.gz").read_bytes(), "cosyvoice")
    checkout = folder(tmp_path / "checkout", {**UPSTREAM, **MATCHA})
    (checkout / "cosyvoice" / "more.py").symlink_to("/etc/passwd")
    with pytest.raises(CiError, match="is a link"):
        sources.from_folder(checkout)


def test_an_archive_that_swells_is_refused(tmp_path: Path) -> None:
    big = tarfile.TarInfo("top/cosyvoice/big.py")
    big.size = sources._FILE_BYTES + 1
    tarball(tmp_path / "a.tar.gz", UPSTREAM, big)
    with pytest.raises(CiError, match="far larger"):
        sources.from_tarball((tmp_path / "a.tar.gz").read_bytes(), "cosyvoice")


def test_a_portal_instead_of_an_archive_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "www" / archive_paths()["cosyvoice"]
    folder(page.parent, {page.name: "<html>please log in</html>"})
    with serving(tmp_path / "www") as url:
        assert fetch(tmp_path / "code", "--from", "github", "--github-url", url) == 1
    assert "cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_archive_says_what_the_server_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path) as url:
        assert fetch(tmp_path / "code", "--from", "github", "--github-url", url) == 1
    assert "404" in capsys.readouterr().err.splitlines()[-1]


def test_a_cut_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tarball(tmp_path / "www" / archive_paths()["cosyvoice"], UPSTREAM)
    with serving(tmp_path / "www", cut_after=20) as url:
        assert fetch(tmp_path / "code", "--from", "github", "--github-url", url) == 1
    assert "cannot be read" in capsys.readouterr().err.splitlines()[-1]


def test_no_other_scheme_is_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(tmp_path / "code", "--from", "github", "--github-url", "file:///etc") == 1
    assert "no http or https address" in capsys.readouterr().err


def test_a_proxy_of_the_environment_is_used(
    github: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", github)
    monkeypatch.setenv("no_proxy", "")
    far = "http://no-such-host.invalid"
    paths = archive_paths()
    for path in paths.values():  # a proxy is asked for the whole address
        whole = tmp_path / "www" / "http:" / "no-such-host.invalid" / path
        whole.parent.mkdir(parents=True)
        whole.write_bytes((tmp_path / "www" / path).read_bytes())
    assert fetch(tmp_path / "code", "--from", "github", "--github-url", far) == 0


def installers() -> list[Any]:
    python = str(Path(sys.base_prefix, "bin", "python3"))
    with_pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    has_uv = any(Path(p, "uv").exists() for p in os.environ.get("PATH", "").split(os.pathsep))
    return [
        pytest.param(
            [python, "-m", "pip"],
            id="pip",
            marks=[] if with_pip.returncode == 0 else pytest.mark.skip("no pip on this machine"),
        ),
        pytest.param(
            ["uv", "pip"],
            id="uv",
            marks=[] if has_uv else pytest.mark.skip("no uv on this machine"),
        ),
    ]


@pytest.mark.usefixtures("package_index")
@pytest.mark.parametrize("installer", installers())
def test_the_index_gives_families_1_and_2(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    installer: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sources, "_installer", lambda: installer)
    monkeypatch.setenv("PIP_USER", "1")  # as .ci/run has it where Debian has no venv
    into = tmp_path / "code"
    assert fetch(into, "--from", "pypi") == 0
    assert names_in(into) == EXPECTED
    assert json.loads((into / "source.json").read_text())["families"] == [1, 2]
    assert "Matcha-TTS" not in (into / "cosyvoice" / "LICENSE").read_text()
    assert "Shivam Mehta" in (into / "matcha" / "LICENSE").read_text()
    assert "Family 3 is missing" in capsys.readouterr().out


@pytest.mark.parametrize("installer", installers())
def test_another_wheel_of_that_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    package_index: Path,
    tmp_path: Path,
    installer: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wheel(package_index / "xinference-4.1.0-py3-none-any.whl", {**MATCHA, **UPSTREAM})
    monkeypatch.setattr(sources, "_installer", lambda: installer)
    assert fetch(tmp_path / "code", "--from", "pypi") == 1
    assert not (tmp_path / "code").exists()
    assert "the package index: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("package_index")
def test_without_github_the_index_is_taken_and_said(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path / "code", "--github-url", nobody) == 0
    out, err = capsys.readouterr()
    assert "Not from GitHub" in err
    assert f"is in {tmp_path / 'code'} (families 1, 2; pypi pypi-version)" in out


def test_an_empty_index_is_one_line(
    package_index: Path, nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(package_index.glob("*.whl")).unlink()
    assert fetch(tmp_path / "code", "--github-url", nobody) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "neither GitHub nor the package index has it" in said


@pytest.mark.usefixtures("package_index")
def test_family_3_replaces_a_copy_without_it_when_asked_for(github: str, tmp_path: Path) -> None:
    into = tmp_path / "code"
    fetch(into, "--from", "pypi")
    assert fetch(into, "--github-url", github) == 0
    assert json.loads((into / "source.json").read_text())["families"] == [1, 2]  # auto: enough
    assert fetch(into, "--from", "github", "--github-url", github) == 0
    assert json.loads((into / "source.json").read_text())["families"] == [1, 2, 3]


def test_a_checkout_with_its_submodule_is_enough(tmp_path: Path) -> None:
    checkout = folder(tmp_path / "up", UPSTREAM)
    folder(checkout / "third_party" / "Matcha-TTS", MATCHA)
    assert fetch(tmp_path / "code", "--from-dir", str(checkout)) == 0
    assert names_in(tmp_path / "code") == EXPECTED
    assert (tmp_path / "code" / "matcha" / "LICENSE").read_text() == "MIT, Matcha"


def test_a_copy_made_on_another_machine_is_enough(github: str, tmp_path: Path) -> None:
    fetch(tmp_path / "usb", "--github-url", github)
    assert fetch(tmp_path / "code", "--from-dir", str(tmp_path / "usb")) == 0
    assert names_in(tmp_path / "code") == EXPECTED


def test_a_checkout_without_its_submodule_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout = folder(tmp_path / "up", UPSTREAM)
    assert fetch(tmp_path / "code", "--from-dir", str(checkout)) == 1
    assert "--recurse-submodules" in capsys.readouterr().err
    folder(checkout / "third_party" / "Matcha-TTS", MATCHA)
    assert fetch(tmp_path / "code", "--from-dir", str(checkout)) == 0


def test_two_runs_at_once_are_harmless(tmp_path: Path) -> None:
    into = tmp_path / "code"
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "from ci.cosyvoice import command, pins, sources\n"
        "from ci.paths import alone\n"
        "from pathlib import Path\n"
        "into = Path(sys.argv[2])\n"
        "files = {f'cosyvoice/{n}.py': b'x' * 1000 for n in range(200)}\n"
        "code = sources.Code(files, pins.Origin('github', 'v', (1,)))\n"
        "with alone(into.parent):\n"
        "    command.put(code, into)\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(into)]) for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0, 0]
    assert len(names_in(into)) == 201


def test_what_a_killed_run_left_is_cleared_away(github: str, tmp_path: Path) -> None:
    left = folder(tmp_path / ".code.4711.part", {"cosyvoice/llm.py": "half"})
    fetch(tmp_path / "code", "--github-url", github)
    assert not left.exists()


def test_the_default_folder_is_the_one_that_the_service_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BENTOVOX_SPEECH__COSYVOICE__CODE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert default_folder() == Path("/var/cache/me/bentovox/cosyvoice")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path("~/.cache/bentovox/cosyvoice").expanduser()
    monkeypatch.setenv("BENTOVOX_SPEECH__COSYVOICE__CODE", "/srv/cosyvoice")
    assert default_folder() == Path("/srv/cosyvoice")


def test_the_verb_needs_nothing_installed() -> None:
    command = [sys.executable, "-I", "-S", "-c"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from ci.__main__ import main; "
    done = subprocess.run(
        [*command, code + "main(['cosyvoice', '--help'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--from-dir" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["cosyvoce"]])
def test_the_verbs_are_taught(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = ci(arguments)
    out, err = capsys.readouterr()
    assert "bring upstream's CosyVoice code" in out + err
    assert code == (0 if arguments == ["--help"] else 2)
    assert ("is no verb" in err) is (arguments == ["cosyvoce"])
