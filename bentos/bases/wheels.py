#!/usr/bin/env python3
"""Runs inside the bases while images are built: `wheels.py COMMAND`. Python and uv only.

check-python VERSION        the interpreter is the platform's
check-torch VERSION FROM    `base`: the platform's image holds that torch; `wheels`: it holds none
install GROUP OUT           install a wheel group into OUT, laid out as in the image; leave out what
                            the image holds in that very version
holding                     print what this Python finds, `name==version`
held OUT                    write which packages the base holds: etc/uv/base-held.txt with versions,
                            etc/uv/base-excludes.txt with names, for UV_EXCLUDE
venv LOCK HOME OUT          make an environment for HOME that sees what the base holds, install what
                            it does not, check the whole, and leave it below OUT
rest LOCK                   print what the lock wants and the base does not hold in that version
check LOCK                  the environment as a whole is what the lock says, each package once, and
                            torch comes from the base
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

EPOCH = 315532800  # 1980-01-01, as in ci/build.py
SITE = Path("/usr/local/lib", f"python{sysconfig.get_python_version()}", "dist-packages")
HELD = Path("/etc/uv/base-held.txt")
EXCLUDES = Path("/etc/uv/base-excludes.txt")
WHEELS = Path("/wheels")
SYSTEM = Path("/usr/lib/python3/dist-packages")  # the distribution's own tools


def normal(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """Return a version without its local part: 2.13.0+cu130 is 2.13.0."""
    return version.partition("+")[0]


def holding() -> dict[str, str]:
    """Return what this Python finds: each package with the version that is imported."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normal(name), distribution.version)
    return found


def wanted(path: Path) -> dict[str, str]:
    """Return the `name==version` lines of a lock or a group."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.partition(";")[0].split("==") for line in lines if "==" in line]
    return {normal(name.strip()): version.strip() for name, version in pairs}


def lacking(lock: dict[str, str], held: dict[str, str]) -> dict[str, str]:
    """Return what is wanted and not held in that version."""
    return {n: v for n, v in lock.items() if public(held.get(n, "")) != public(v)}


def check_python(version: str) -> None:
    """End with a line unless this is the platform's Python."""
    if version != sysconfig.get_python_version():
        sys.exit(
            f"the image has Python {sysconfig.get_python_version()}, platforms.toml says "
            f"{version}: locks are made for one version"
        )


def check_torch(version: str, source: str) -> None:
    """End with a line unless torch is there, or is not, as platforms.toml says."""
    found = holding().get("torch")
    if source == "base" and (found is None or public(found) != version):
        sys.exit(
            f"the image holds torch {found}, platforms.toml and the locks say {version}: vllm dies "
            "at import with another; choose the image's tag that holds it"
        )
    if source == "wheels" and found is not None:
        sys.exit(f"the image holds torch {found}; platforms.toml says torch_from = 'wheels'")


def settle(folder: Path) -> None:
    """Give all below a folder one time, so that the same packages are the same layer."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def find_links() -> list[str]:
    """Return uv's option for the folder of wheels that the build was given, if any."""
    return ["--find-links", str(WHEELS)] if WHEELS.is_dir() else []


def install(group: Path, out: Path) -> None:
    """Install what the image lacks of a group below `out`, where the image will have it."""
    held = holding()
    missing = {n: v for n, v in lacking(wanted(group), held).items() if n not in held}
    site = out / SITE.relative_to("/")
    site.mkdir(parents=True)
    if not missing:
        settle(out)
        return
    has_torch = any(WHEELS.glob("torch-*"))
    cpu = ["--torch-backend=cpu"] if "torch" in missing and not has_torch else []
    packages = [f"{name}=={version}" for name, version in sorted(missing.items())]
    options = ["--python", sys.executable, "--no-deps", "--target", str(site), *find_links(), *cpu]
    run("uv", "pip", "install", *options, *packages)
    torch = next(site.glob("torch-*.dist-info"), None)
    if torch is not None and "+cpu" not in torch.name:
        sys.exit(f"{torch.name}: is no CPU build; the platform's torch comes from the CPU's index")
    if (site / "bin").is_dir():
        shutil.move(site / "bin", out / "usr/local/bin")
        point_to_path(out / "usr/local/bin")
    (site / ".lock").unlink(missing_ok=True)
    settle(out)


def point_to_path(folder: Path) -> None:
    """Let commands run in the bento's environment, which is first on the path and sees all."""
    for command in folder.iterdir():
        line, end, rest = command.read_bytes().partition(b"\n")
        if re.match(rb"#!.*python", line):
            command.write_bytes(b"#!/usr/bin/env python3" + end + rest)


def held(out: Path) -> None:
    """Write what the base holds below `out`."""
    folder = out / "etc/uv"
    folder.mkdir(parents=True)
    found = holding()
    (folder / HELD.name).write_text("".join(f"{n}=={v}\n" for n, v in sorted(found.items())))
    (folder / EXCLUDES.name).write_text("".join(f"{name}\n" for name in sorted(found)))
    settle(out)


def rest(lock: Path) -> list[str]:
    """Return what a bento's own environment must hold."""
    base = wanted(HELD) if HELD.exists() else {}
    return [f"{n}=={v}" for n, v in sorted(lacking(wanted(lock), base).items())]


def venv(lock: Path, home: Path, out: Path) -> None:
    """Make a bento's environment and check it together with the base."""
    options = ["--system-site-packages", "--no-project", "--python", sys.executable]
    run("uv", "venv", "--quiet", *options, str(home))
    python = str(home / "bin/python")
    environ = {**os.environ, "UV_NO_CACHE": "0"}
    environ.pop("UV_EXCLUDE", None)
    packages = [*find_links(), *rest(lock)]
    run("uv", "pip", "install", "--python", python, "--no-deps", *packages, env=environ)
    (home / ".lock").unlink(missing_ok=True)
    run(python, "-B", __file__, "check", str(lock))
    place = out / home.relative_to("/")
    place.parent.mkdir(parents=True)
    shutil.move(home, place)
    settle(out)


def run(*command: str, env: "dict[str, str] | None" = None) -> None:
    """Run a command; end with its exit code if that is not 0."""
    if code := subprocess.call(command, env=env):
        sys.exit(code)


def check(lock: Path) -> None:
    """End with what is wrong with the environment as a whole, a line each."""
    places: dict[str, list[tuple[str, Path]]] = {}
    for distribution in importlib.metadata.distributions():
        name, place = distribution.metadata["Name"], Path(str(distribution.locate_file("")))
        if name and place != SYSTEM:
            places.setdefault(normal(name), []).append((distribution.version, place))
    faults = []
    for name, version in wanted(lock).items():
        found = places[name][0][0] if name in places else "not there"
        if public(found) != public(version):
            faults.append(f"{name} is {found}, the lock says {version}")
    for name, copies in places.items():
        if len(copies) > 1:
            faults.append(
                f"{name} is there twice: {' and '.join(f'{v} in {place}' for v, place in copies)}; "
                "lock again with what the base holds (`python -m ci base held`)"
            )
    for version, place in places.get("torch", ()):
        if place.is_relative_to(sys.prefix) and sys.prefix != sys.base_prefix:
            faults.append(
                f"torch {version} is in {place}: gigabytes in a layer of the bento; its base must "
                "hold it"
            )
    if faults:
        sys.exit("\n".join(faults))


def main() -> None:
    """Run one command."""
    commands = {
        "check-python": check_python,
        "check-torch": check_torch,
        "install": lambda group, out: install(Path(group), Path(out)),
        "holding": lambda: print(*(f"{n}=={v}" for n, v in sorted(holding().items())), sep="\n"),
        "held": lambda out: held(Path(out)),
        "venv": lambda lock, home, out: venv(Path(lock), Path(home), Path(out)),
        "rest": lambda lock: print(*rest(Path(lock)), sep="\n"),
        "check": lambda lock: check(Path(lock)),
    }
    command, *arguments = sys.argv[1:] or ["help"]
    if command not in commands:
        sys.exit(__doc__)
    commands[command](*arguments)


if __name__ == "__main__":
    main()
