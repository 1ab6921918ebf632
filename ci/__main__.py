"""`python -m ci VERB`: what builds Bentovox and what it is made of. Needs only Python."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

from ci.errors import CiError
from ci.terminal import result, say

# A verb's module has `options(parser)` and `work(given)`, which returns an exit code if not 0; its
# docstring is the verb's help. It is imported when the verb is asked for.
VERBS: Final = {
    "engine": ("ci.engine", "a throw-away docker engine, where none is installed"),
    "base": ("ci.base", "build the shared bases, pin their digests"),
    "image": ("ci.image", "build a bento and its image"),
    "plan": ("ci.plan", "which images a change touches, and which bases they stand on"),
    "tags": ("ci.tags", "the tags that an image gets"),
    "layers": ("ci.layers.command", "show what an image's layers contain and weigh, and check it"),
    "cosyvoice": ("ci.cosyvoice.command", "bring upstream's CosyVoice code to this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb, or list them all; 1 with one line if it cannot be done, 130 if stopped."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in {"-h", "--help", "help"}:
        result(usage())
        return 0 if given else 2
    verb, *rest = given
    if verb not in VERBS:
        say(f"python -m ci: {verb!r} is no verb\n{usage()}")
        return 2
    options = parser(verb).parse_args(rest)
    try:
        return int(importlib.import_module(VERBS[verb][0]).work(options) or 0)
    except (CiError, OSError) as error:
        say(f"python -m ci {verb}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"python -m ci {verb}: stopped")
        return 130


def parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb's options."""
    module = importlib.import_module(VERBS[verb][0])
    made = argparse.ArgumentParser(
        prog=f"python -m ci {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.options(made)
    return made


def usage() -> str:
    """Return the list of verbs."""
    lines = (f"  {verb:10} {purpose}" for verb, (_, purpose) in VERBS.items())
    head, last = "usage: python -m ci VERB [options]", "`python -m ci VERB --help` says more."
    return "\n".join([head, "", *lines, "", last])


if __name__ == "__main__":
    sys.exit(main())
