"""What a bentofile may contain: it is only data here, whatever BentoML would do with it."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ci import platforms, specs
from ci.errors import CiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD: dict[str, Any] = {
    "service": "services.speech.service:Speech",
    "name": "bentovox-speech",
    "description": "Text to speech behind OpenAI's API",
    "labels": {
        "bentovox.platforms": "cuda13 cpu",
        "bentovox.base": "cosyvoice",
        "bentovox.base.cpu": "slim",
        "bentovox.budget-mib": "160",
        "team": "voices",
    },
    "include": ["/services/"],
    "exclude": ["/services/chat/"],
    "envs": [{"name": "MODE", "value": "fast, and safe"}],
    "docker": {
        "base_image": "bentovox/base-cosyvoice:cuda13",
        "python_version": "3.12",
        "setup_script": "bentos/bases/stock-setup.sh",
    },
    "python": {
        "requirements_txt": "bentos/speech/requirements.cuda13.txt",
        "lock_packages": False,
    },
}
INJECTIONS = [
    "x\nRUN id",
    "x\r\nRUN id",
    "x\u2028RUN id",
    "$(id)",
    "`id`",
    "x; id",
    "x && id",
    "x | id",
    'x" y="z',
    "x' y='z",
    "x # y",
    "x \\\n y",
    "x\\",
    "${PATH}",
    "{{ 7 * 7 }}",
    "x\x00",
]
Place = tuple["str | int", ...]
TEXTS: list[Place] = [
    ("service",),
    ("name",),
    ("labels", "team"),
    ("labels", "bentovox.base"),
    ("labels", "bentovox.base.cpu"),
    ("labels", "bentovox.platforms"),
    ("labels", "bentovox.budget-mib"),
    ("include", 0),
    ("exclude", 0),
    ("envs", 0, "name"),
    ("envs", 0, "value"),
    ("docker", "base_image"),
    ("docker", "python_version"),
    ("docker", "setup_script"),
    ("python", "requirements_txt"),
]
"""Every text of a bentofile but its description, which goes into no Dockerfile."""


def but(*place: str | int, value: object) -> dict[str, Any]:
    """Return the good bentofile with one value changed or added."""
    changed: Any = copy.deepcopy(GOOD)
    *way, last = place
    inner = changed
    for key in way:
        inner = inner[key]
    inner[last] = value
    return changed  # type: ignore[no-any-return]


def wrong(data: object) -> list[str]:
    return list(specs.faults(data))


@pytest.mark.parametrize("name", specs.names())
def test_every_bentofile_of_the_repository_has_no_fault(name: str) -> None:
    spec = specs.load(name)
    assert wrong(spec.data) == []
    for platform in spec.platforms:
        assert platform in platforms.load()
        assert spec.requirements(platform)


def test_the_good_bentofile_of_these_tests_has_no_fault() -> None:
    assert wrong(GOOD) == []


@pytest.mark.parametrize("place", TEXTS, ids=lambda place: ".".join(map(str, place)))
@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_carries_a_second_instruction(place: Place, text: str) -> None:
    assert wrong(but(*place, value=text)) != []


@given(
    place=st.sampled_from(TEXTS),
    before=st.text(max_size=8),
    bad=st.sampled_from("\n\r\"'`$\\#;&|{}<>"),
    after=st.text(max_size=8),
)
def test_no_text_with_a_newline_a_quote_or_what_a_shell_reads_passes_anywhere(
    place: Place, before: str, bad: str, after: str
) -> None:
    assert wrong(but(*place, value=f"{before}{bad}{after}")) != []


@given(key=st.text(max_size=12).filter(lambda key: not re.fullmatch("[a-z][a-z0-9._-]*", key)))
def test_no_labels_name_carries_more_than_a_name(key: str) -> None:
    assert wrong(but("labels", key, value="text")) != []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ),
    st.sampled_from([None, *TEXTS, ("docker",), ("python",), ("labels",), ("envs",), ("envs", 0)]),
)
def test_whatever_a_bentofile_says_it_is_judged_not_tripped_over(
    value: object, place: Place | None
) -> None:
    found = wrong(but(*place, value=value) if place else value)
    assert all(isinstance(fault, str) for fault in found)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (but("conda", value={}), "conda: Extra inputs"),
        (but("docker", "system_packages", value=["curl"]), "docker.system_packages: Extra inputs"),
        (but("python", "packages", value=["torch"]), "python.packages: Extra inputs"),
        (but("python", "index_url", value="http://x"), "python.index_url: Extra inputs"),
        (but("docker", "distro", value="debian"), "docker.distro: Extra inputs"),
        (but("docker", "cuda_version", value="12.8"), "docker.cuda_version: Extra inputs"),
        (but("envs", 0, "stage", value="build"), "envs.0.stage: Extra inputs"),
        (but("envs", 0, value="MODE=fast"), "envs.0: Input should be a valid dictionary"),
        (but("include", value="/services/"), "include: Input should be a valid list"),
        (but("docker", value="debian"), "docker: Input should be a valid dictionary"),
        (but("labels", "bentovox.bass", value="x"), "labels: bentovox.bass is no label of ours"),
        (but("labels", "bentovox.bases", value="x"), "labels: bentovox.bases is no label of ours"),
        (but("labels", "bentovox.base.cuda12", value="x"), "bentovox.base.cuda12 is no label"),
        (but("labels", "team", value=7), "labels.team: Input should be a valid string"),
        (but("labels", "bentovox.budget-mib", value="many"), "'many' is no number of MiB"),
        (but("labels", "bentovox.budget-mib", value="²"), "'²' is no number of MiB"),
        (but("labels", "bentovox.platforms", value=""), "labels: bentovox.platforms is missing"),
        (but("python", "lock_packages", value=True), "python.lock_packages: Input should be False"),
        (
            but("python", "requirements_txt", value="bentos/speech/requirements.txt"),
            "has no .cuda13. in its name",
        ),
        ([], "Input should be a valid dictionary"),
        (None, "Input should be a valid dictionary"),
    ],
)
def test_what_is_not_known_is_refused_by_its_key(data: object, fault: str) -> None:
    assert any(fault in one for one in wrong(data)), wrong(data)


@pytest.mark.parametrize("key", ["service", "name", "labels", "include", "docker", "python"])
def test_what_is_missing_is_named(key: str) -> None:
    assert wrong({k: v for k, v in GOOD.items() if k != key}) == [f"{key}: Field required"]


@pytest.mark.parametrize(
    ("data", "key"),
    [
        # CVE-2026-44345: the base's name with a second line.
        (but("docker", "base_image", value="debian:12\nRUN id"), "docker.base_image"),
        # CVE-2026-33744: packages that are words of a shell.
        (but("docker", "system_packages", value=["curl; id"]), "docker.system_packages"),
        # BentoML's issue 5656: a table of variables, written as it is.
        (but("docker", "env", value={"A": "b\nRUN id"}), "docker.env"),
        (but("docker", "env", value={"A\nRUN id": "b"}), "docker.env"),
        (but("docker", "dockerfile_template", value="x.j2"), "docker.dockerfile_template"),
        (but("docker", "setup_script", value="x.sh; id"), "docker.setup_script"),
        (but("docker", "setup_script", value="../../etc/cron.d/x"), "docker.setup_script"),
        (but("docker", "python_version", value="3.12 && id"), "docker.python_version"),
        (but("envs", 0, "name", value="A=b\nRUN id #"), "envs"),
        (but("envs", 0, "value", value="b\nRUN id"), "envs"),
        (but("python", "requirements_txt", value="x\nRUN id"), "python.requirements_txt"),
    ],
)
def test_shapes_of_known_injections_are_refused_by_their_key(data: object, key: str) -> None:
    assert any(one.startswith(key) for one in wrong(data)), wrong(data)


@pytest.mark.parametrize(
    "place",
    [
        ("include", 0),
        ("exclude", 0),
        ("docker", "setup_script"),
        ("python", "requirements_txt"),
    ],
)
@pytest.mark.parametrize("path", ["../x", "a/../../x", ".."])
def test_no_path_leads_out_of_the_repository(place: Place, path: str) -> None:
    assert wrong(but(*place, value=path)) != []


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "PGPASSWD"),
        *("KEY", "API_KEYS", "GOOGLE_CREDENTIALS", "SSH_PRIVATE", "TOKENS"),
    ],
)
def test_a_variable_that_is_called_a_secret_is_refused(name: str) -> None:
    (fault,) = wrong(but("envs", 0, value={"name": name, "value": "x"}))
    assert fault.startswith(f"envs.0: {name} looks like a secret")
    assert "when the container starts" in fault


@pytest.mark.parametrize(
    "value",
    [
        "hf_abcdefghij",
        "sk-abcdefghij",
        "sk-proj-abcdefghij",
        "ghp_abcdefghij",
        "github_pat_abcdefghij",
        "AKIAABCDEFGHIJKLMNOP",
        "token hf_abcdefghij",
        "https://me:word@host/x",
    ],
)
def test_a_value_that_is_shaped_like_a_secret_is_refused(value: str) -> None:
    (fault,) = wrong(but("envs", 0, value={"name": "MODE", "value": value}))
    assert fault.startswith("envs.0: MODE looks like a secret")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYBOARD", "de"),
        ("MONKEY", "yes"),
        ("HF_HOME", "/models/huggingface"),
        ("URL", "https://host:8080/x"),
        ("MODEL", "risk-abcdefghij"),
    ],
)
def test_what_is_no_secret_passes(name: str, value: str) -> None:
    assert wrong(but("envs", 0, value={"name": name, "value": value})) == []


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a bentofile, the only one there is."""
    monkeypatch.setattr(specs, "BENTOS", tmp_path)
    monkeypatch.setattr(specs, "names", lambda: ["speech"])
    (tmp_path / "speech").mkdir()
    return tmp_path / "speech" / "bentofile.yaml"


@pytest.mark.parametrize("text", ["service: [", "a: b: c", b"\xff\xfe\x00", "!!python/name:os.x"])
def test_what_is_no_yaml_is_one_line_with_the_file(path: Path, text: str | bytes) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CiError) as refused:
        specs.load("speech")
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("path")
def test_a_file_that_is_not_there_is_one_line_with_its_name() -> None:
    with pytest.raises(CiError, match="No such file"):
        specs.load("speech")


def test_the_first_fault_is_the_message(path: Path) -> None:
    path.write_text(yaml.safe_dump(but("conda", value={})))
    with pytest.raises(CiError, match=r"bentofile\.yaml: conda: Extra inputs are not permitted"):
        specs.load("speech")


def test_an_unknown_bento_is_told_with_those_that_are_there() -> None:
    with pytest.raises(CiError, match="there is no bento 'spech'; there are chat, conv"):
        specs.load("spech")


@pytest.fixture
def spec(path: Path) -> specs.Spec:
    path.write_text(yaml.safe_dump(GOOD))
    return specs.load("speech")


def test_a_label_of_a_platform_wins_there_only(spec: specs.Spec) -> None:
    assert (spec.base("cuda13"), spec.base("cpu")) == ("cosyvoice", "slim")
    assert spec.budget_mib("cpu") == spec.budget_mib("cuda13") == 160


def test_a_platform_that_a_bento_is_not_built_for_is_told(spec: specs.Spec) -> None:
    with pytest.raises(
        CiError, match="speech is not built for rocm; its platforms are cuda13, cpu"
    ):
        spec.lock_for("rocm")


def test_a_missing_lock_is_told_with_what_makes_it(
    spec: specs.Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "ROOT", tmp_path)
    said = (
        r"speech has no lock for cpu: bentos/speech/requirements\.cpu\.txt is missing; "
        "make it with `nox -s lock`"
    )
    with pytest.raises(CiError, match=said):
        spec.lock_for("cpu")


@pytest.fixture
def lock(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    def read(text: str) -> dict[str, str]:
        path = tmp_path / "requirements.cpu.txt"
        path.write_text(text, encoding="utf-8")
        return specs.read_lock(path)

    return read


def test_a_lock_is_read_without_its_comments_and_markers(
    lock: Callable[[str], dict[str, str]],
) -> None:
    text = "# made\n\ntorch==2.13.0  # why\ncolorama==0.4.6 ; sys_platform == 'win32'\n"
    assert lock(text) == {"torch": "2.13.0", "colorama": "0.4.6"}


@pytest.mark.parametrize(
    "line",
    [
        *("numpy", "numpy>=2", "numpy==2.*", "numpy == 2.0", "-e .", "--index-url=http://x"),
        *(
            "numpy @ https://x/numpy.whl",
            "./numpy.whl",
            "numpy==2.0 --hash=sha256:0",
            "-r other.txt",
        ),
    ],
)
def test_a_line_that_is_not_pinned_is_told_with_its_number(
    lock: Callable[[str], dict[str, str]], line: str
) -> None:
    with pytest.raises(CiError, match=r"requirements\.cpu\.txt:2: .* is not name==version; `nox"):
        lock(f"torch==2.13.0\n{line}\n")


def test_a_package_that_is_locked_twice_is_told(lock: Callable[[str], dict[str, str]]) -> None:
    with pytest.raises(CiError, match=r"requirements\.cpu\.txt:3: numpy is there twice"):
        lock("numpy==2.0\ntorch==2.13.0\nnumpy==1.0\n")
