"""`python -m ci.demo_model`: train the demo chat model and write it to a folder."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from ci.demo_model.artefacts import write_answers, write_card, write_model
from ci.demo_model.check import ENOUGH_GAP, forbidden_tokens
from ci.demo_model.conversations import Sampler, held_by_heart
from ci.demo_model.corpus import load
from ci.demo_model.tokenizer import encode, train_tokenizer
from ci.demo_model.train import CONTEXT, ROUNDS, SEED, VOCABULARY, fit, new_model, prepare

_OUT = Path("services/chat/demo_model")
_DRILLS = 3  # copies of every conversation to know, among the draws of a drill

# A few phrasings of hundreds may fail; `answers.json` lists only what the model knows.
_ENOUGH_SHARE = 0.98


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    options = argparse.ArgumentParser(prog="python -m ci.demo_model", description=__doc__)
    options.add_argument("--out", type=Path, default=_OUT, help="folder to write")
    options.add_argument("--steps", type=int, help="steps of each round, for a trial")
    return options


def say(line: str) -> None:
    """Print progress at once, also into a pipe."""
    print(line, flush=True)  # noqa: T201 - a command line's output


def main(arguments: list[str] | None = None) -> int:
    """Train, check and write; 0 only if nearly every answer is known by heart with a margin."""
    options = parser().parse_args(arguments)
    started = time.monotonic()
    corpus = load()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(corpus, out, VOCABULARY, CONTEXT)
    held = list(held_by_heart(corpus))
    encoded = [encode(tokenizer, conversation) for conversation in held]
    prepare()
    model = new_model(tokenizer)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{parameters:,} parameters, {len(tokenizer)} tokens, {len(held)} answers to learn")
    table = forbidden_tokens(tokenizer)
    for now in ROUNDS:
        steps = options.steps or now.steps
        sampler = Sampler(corpus, random.Random(SEED), drill=now.drill)  # noqa: S311 - reproducible
        examples = [encode(tokenizer, sampler.draw()) for _ in range(now.draws)]
        examples += encoded * _DRILLS if now.drill else []
        say(f"a round of {steps} steps over {len(examples)} conversations")
        result = fit(model.float(), examples, encoded, table=table, now=now, steps=steps, say=say)
        say(f"exact: {result.exact} of {len(held)}")
    sure = [held[index] for index in result.held]
    write_model(model, tokenizer, out)
    write_answers(sure, corpus, out)
    write_card(result, corpus, out)
    for index in set(range(len(held))) - set(result.held):
        say(f"not known ({result.gaps[index]:.2f} nats): {held[index].messages[-2:]}")
    say(f"{len(sure)} of {len(held)} answers known, {time.monotonic() - started:.0f} s in all")
    if len(sure) < _ENOUGH_SHARE * len(held):
        say(f"error: fewer than {_ENOUGH_SHARE:.0%} are known with a gap of {ENOUGH_GAP} nats")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
