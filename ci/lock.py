"""`python -m ci lock`: resolve what each bento installs, for each of its platforms.

`bentos/NAME/requirements.PLATFORM.in` says what is wanted (extras of pyproject.toml), and the lock
`requirements.PLATFORM.txt` beside it is made from that. The stack's is made first and constrains
the others, so that every package has one version on a platform, whatever image it is in; it starts
from the versions that `nox -s serve` installs. Where `python -m ci base held` has listed what a
platform's image has, those versions are kept too.

    python -m ci lock                    lock every bento again, keeping versions that still fit
    python -m ci lock chat --upgrade     lock chat with the newest versions that fit
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci import platforms, specs
from ci.errors import CiError
from ci.paths import BENTOS, ROOT
from ci.terminal import result, say
from ci.uv import executable, torch_backend

if TYPE_CHECKING:
    import argparse

    from ci.platforms import Platform
    from ci.specs import Spec

HEADER: Final = "# Made by `nox -s lock`, installed as it is: never edited."
_SERVED: Final = {False: "ci/locks/stack-cpu.txt", True: "ci/locks/stack-cuda.txt"}
_RAY: Final = "ci/locks/ray.txt"
_WITHOUT_CUDA: Final = "ci/locks/overrides.txt"


def options(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.add_argument("bentos", nargs="*", metavar="BENTO", help="default: all")
    parser.add_argument("--upgrade", action="store_true", help="take the newest that fits")


def work(given: argparse.Namespace) -> None:
    """Lock the bentos."""
    changed = []
    known = platforms.load()
    for name in sorted(given.bentos or specs.names(), key=lambda name: name != specs.STACK):
        spec = specs.load(name)
        for platform in spec.platforms:
            path = spec.lock_path(platform)
            say(f"Resolving {path.relative_to(ROOT)}")
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            kept = "" if given.upgrade else before or served(known[platform])
            after = resolve(spec, known[platform], kept)
            platforms.check_torch(specs.read_lock(path, after), known[platform], path)
            if after != before:
                changed.append(str(path.relative_to(ROOT)))
                path.write_text(after, encoding="utf-8")
    result(f"Changed: {', '.join(changed) or 'nothing'}")


def resolve(spec: Spec, platform: Platform, before: str) -> str:
    """Return the lock of a bento for a platform, with the versions of `before` that still fit.

    Raises:
        CiError: nothing satisfies it all; uv's explanation of who asks for what stands above.
    """
    source = spec.lock_path(platform.name).with_suffix(".in")
    if not source.is_file():
        raise CiError(f"{source.relative_to(ROOT)} is missing: it says what {spec.name} needs")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "lock.txt")
        work.write_text(before, encoding="utf-8")
        done = subprocess.run(
            [
                executable(),
                *("pip", "compile", str(source), f"--output-file={work}"),
                *(f"--python-version={platform.python}", "--no-emit-package=bentovox"),
                *("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"),
                *_options(spec, platform),
            ],
            cwd=ROOT,
            env=_environment(platform),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            say(done.stderr.rstrip())
            raise CiError(
                f"{spec.name} cannot be locked for {platform.name}; who asks for what stands above"
            )
        # Torch's CPU build has a local version that PyPI lacks; see `ci.uv.torch_backend`.
        found = work.read_text(encoding="utf-8").replace("+cpu", "")
    return f"{HEADER}\n{found}"


def served(platform: Platform) -> str:
    """Return the lock of what `nox -s serve` installs, to start from."""
    return (ROOT / _SERVED[bool(platform.cuda)]).read_text(encoding="utf-8")


def _options(spec: Spec, platform: Platform) -> list[str]:
    stack = specs.load(specs.STACK).lock_path(platform.name)
    options = [] if spec.name == specs.STACK else [f"--constraint={stack}", f"--constraint={_RAY}"]
    held = BENTOS / "bases" / f"held.{platform.name}.txt"
    if held.exists():
        options.append(f"--constraint={held}")
    if platform.cuda:
        options.append(f"--python-platform={platform.uv_platform}")
    else:
        options += [f"--override={_WITHOUT_CUDA}", *torch_backend()]
    return options


def _environment(platform: Platform) -> dict[str, str]:
    environ = dict(os.environ)
    if platform.cuda:  # a folder with torch's CPU build must not decide what a GPU gets
        environ.pop("UV_FIND_LINKS", None)
    return environ
