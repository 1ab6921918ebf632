"""The noxfile, without a network: how it finds wheels, counts tests and describes itself."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from nox.registry import get as sessions

import ci.__main__
from ci.__main__ import VERBS

ROOT = Path(__file__).parents[3]


def told_by_pip(monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace, text: str) -> None:
    done = subprocess.CompletedProcess(["pip"], 0, text, "")
    fake = SimpleNamespace(run=lambda *_args, **_options: done)
    monkeypatch.setitem(noxfile.uv_variables.__wrapped__.__globals__, "subprocess", fake)
    for name in ("UV_FIND_LINKS", "UV_DEFAULT_INDEX", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_every_session_says_what_it_is_for(noxfile: SimpleNamespace) -> None:
    names = {"serve", "tests", "unit", "contract", "e2e", "lint", "types", "docs", "bench"}
    names |= {"lock", "demo-model", "clients", "cosyvoice", "cosyvoice-code", "images", "ray"}
    names |= {"test-image", "gpu-pack", "playground"}
    assert names | set(noxfile.VERBS) == set(sessions())
    assert all((session.__doc__ or "").strip().endswith(".") for session in sessions().values())


def test_the_sessions_for_images_are_verbs_of_ci(noxfile: SimpleNamespace) -> None:
    assert set(noxfile.VERBS) <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_ci_says_what_it_does_without_a_network_or_an_engine(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit) as ended:
        ci.__main__.main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m ci {verb}")


def test_a_session_for_images_hands_its_arguments_to_its_verb(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace
) -> None:
    told_by_pip(monkeypatch, noxfile, "global.index-url='https://mirror/simple'\n")
    names = noxfile.run.__globals__
    monkeypatch.setitem(names, "environment", lambda _session, name: Path(f"/{name}/python"))
    ran: list[tuple[tuple[str, ...], dict[str, str]]] = []
    session = SimpleNamespace(
        posargs=["chat", "--platform", "cuda13"],
        run=lambda *arguments, env, external: ran.append((arguments, env)) if external else None,
    )
    sessions()["image"](session)
    ((arguments, environ),) = ran
    assert arguments == ("/dev/python", "-m", "ci", "image", "chat", "--platform", "cuda13")
    assert environ["UV_DEFAULT_INDEX"] == "https://mirror/simple"


def test_uv_reaches_what_pip_reaches(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace
) -> None:
    configured = "global.find-links='\\n/a\\n/b'\nglobal.index-url='https://mirror/simple'\n"
    told_by_pip(monkeypatch, noxfile, configured)
    found = noxfile.uv_variables()
    assert found["UV_FIND_LINKS"] == "/a,/b"
    assert found["UV_DEFAULT_INDEX"] == "https://mirror/simple"


def test_the_environment_wins_over_pips_files_and_uvs_own_over_both(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace
) -> None:
    told_by_pip(monkeypatch, noxfile, ":env:.find-links='/env'\nglobal.find-links='/file'\n")
    assert noxfile.uv_variables()["UV_FIND_LINKS"] == "/env"
    noxfile.uv_variables.cache_clear()
    monkeypatch.setenv("UV_FIND_LINKS", "/uv")
    assert noxfile.uv_variables()["UV_FIND_LINKS"] == "/uv"


def test_a_cpu_gets_torch_from_a_folder_that_has_it(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace, tmp_path: Path
) -> None:
    told_by_pip(monkeypatch, noxfile, f"global.find-links='{tmp_path}'\n")
    assert noxfile.torch_backend() == ["--torch-backend=cpu"]
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert noxfile.torch_backend() == []


def test_a_cpu_gets_torch_from_pytorch_where_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace
) -> None:
    told_by_pip(monkeypatch, noxfile, "")
    assert noxfile.torch_backend() == ["--torch-backend=cpu"]


def test_what_is_run_keeps_bytecode_and_sends_no_statistics(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    given = noxfile.variables(MORE="yes")
    assert "PYTHONDONTWRITEBYTECODE" not in given
    assert (given["BENTOML_DO_NOT_TRACK"], given["MORE"]) == ("True", "yes")


def in_a_copy(monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace, home: Path) -> list[str]:
    """Have environments made in `home`; return the list of what is installed there."""
    names, made = noxfile.clients_there.__globals__, []
    monkeypatch.setitem(names, "ENVIRONMENTS", home)
    monkeypatch.setitem(names, "environment", lambda _session, name, **_: Path(f"/{name}/python"))
    monkeypatch.setitem(names, "npm", lambda _session, _folder, verb: made.append(verb))
    return made


def test_clients_from_npm_are_installed_once_a_lock(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace, tmp_path: Path
) -> None:
    made = in_a_copy(monkeypatch, noxfile, tmp_path)
    session = SimpleNamespace(log=print, warn=print)
    found = [noxfile.clients_there(session) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["CLIENTS_NODE_MODULES"] == str(tmp_path / "clients-npm" / "node_modules")
    assert made == ["ci"]


def test_clients_that_npm_cannot_bring_are_not_there(
    monkeypatch: pytest.MonkeyPatch, noxfile: SimpleNamespace, tmp_path: Path
) -> None:
    in_a_copy(monkeypatch, noxfile, tmp_path)

    def broken(*_arguments: object) -> None:
        raise subprocess.CalledProcessError(1, "npm")

    monkeypatch.setitem(noxfile.clients_there.__globals__, "npm", broken)
    said: list[str] = []
    found = noxfile.clients_there(SimpleNamespace(log=print, warn=said.append))
    assert found == {"CLIENTS_PYTHON": "/clients/python", "OPENAI_2_PYTHON": "/openai-2/python"}
    assert said == ["No packages from npm: what needs them is skipped"]


def test_the_npm_lock_names_no_host_and_pins_each_package_by_its_content() -> None:
    locked = json.loads((ROOT / "tests" / "clients" / "node" / "package-lock.json").read_text())
    packages = {name: entry for name, entry in locked["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert entry["integrity"].startswith("sha512-"), name


def test_outcomes_are_counted_as_pytest_counts_them(
    noxfile: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_not_here(): pytest.skip('why')\n"
    )
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c/dev/null", f"--junit-xml={report}"]
    subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    assert noxfile.counted(report) == {"passed": 1, "failed": 1, "skipped": 1}


def test_lanes_go_side_by_side_and_one_total_comes_last(
    monkeypatch: pytest.MonkeyPatch,
    noxfile: SimpleNamespace,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each lane's first test ends only once the other one's has begun."""
    names = noxfile.pytest.__globals__
    monkeypatch.setitem(names, "environment", lambda _session, _lock: Path(sys.executable))
    monkeypatch.setitem(names, "ROOT", tmp_path)
    met = "import time\nfrom pathlib import Path\n\n\ndef test_meets_the_other():\n"
    met += (
        "    Path('{0}').touch()\n    while not Path('{1}').exists():\n        time.sleep(0.01)\n"
    )
    (tmp_path / "test_one.py").write_text(met.format("one", "other"))
    (tmp_path / "test_other.py").write_text(met.format("other", "one"))
    (tmp_path / "test_fails.py").write_text("def test_bad(): assert False\n")
    failed: list[str] = []
    runs = {
        name: noxfile.Run("dev", ["-c/dev/null", f"test_{name}.py"])
        for name in ("one", "other", "fails")
    }
    session = SimpleNamespace(error=failed.append)
    noxfile.pytest(session, [runs["one"]], [runs["other"], runs["fails"]])
    said = capfd.readouterr().out
    assert failed == ["the tests did not pass"]
    assert (
        said.index("test_one.py .") < said.index("test_other.py .") < said.index("test_fails.py F")
    )
    assert said.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("BENTOVOX_GATEWAY__KEYS=alice:00", True),
        ("export bentovox_gateway__keys_file = /keys", True),
        ("BENTOVOX_GATEWAY__KEYS=", False),
        ("# BENTOVOX_GATEWAY__KEYS=alice:00", False),
        ("BENTOVOX_PROFILE=gpu", False),
    ],
)
def test_keys_are_found_where_the_server_looks_for_them(
    noxfile: SimpleNamespace, line: str, *, found: bool
) -> None:
    assert bool(noxfile.KEYS.match(line)) is found


def test_only_who_names_a_host_is_taken_at_their_word(
    noxfile: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENTOML_HOST", raising=False)
    assert noxfile.names_host(["--port", "3100", "--host", "::1"])
    assert noxfile.names_host(["--host=::"])
    assert not noxfile.names_host(["--port=3100"])
    monkeypatch.setenv("BENTOML_HOST", "::1")
    assert noxfile.names_host([])
