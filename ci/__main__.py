"""`python -m ci VERB`: what builds Bentovox and what it is made of. Needs only Python."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Final

# A verb's module has `main(arguments) -> exit code`; it is imported when it is asked for.
VERBS: Final = {
    "engine": ("ci.engine.command", "a throw-away docker engine, where none is installed"),
    "base": ("ci.base", "build the shared bases, pin their digests"),
    "bento": ("ci.bento", "build a bento for a platform"),
    "image": ("ci.image", "build a bento's image"),
    "test-image": ("ci.test_image", "run an image as it will be run, and look at what it does"),
    "plan": ("ci.plan", "which images a change touches, and which bases they stand on"),
    "tags": ("ci.tags", "the tags that an image gets"),
    "prepull": ("ci.prepull", "pull what a platform's bases are made from, and try again"),
    "lock": ("ci.lock", "resolve what each bento installs, for each platform"),
    "layers": ("ci.layers.command", "show what an image holds and weighs, and judge it"),
    "cosyvoice": ("ci.cosyvoice.command", "bring upstream's CosyVoice code to this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb, or say which there are."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in {"-h", "--help", "help"}:
        print(usage())  # noqa: T201  a command line's output
        return 0 if given else 2
    verb, *rest = given
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"python -m ci: {verb!r} is no verb{hint}\n{usage()}", file=sys.stderr)  # noqa: T201
        return 2
    run = importlib.import_module(VERBS[verb][0]).main
    return int(run(rest))


def usage() -> str:
    """Return the list of verbs."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:{width}}  {purpose}" for verb, (_, purpose) in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m ci VERB [options]",
            "",
            *lines,
            "",
            "`python -m ci VERB --help` says more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
