import json
from pathlib import Path

import pytest

from ci import cache
from ci.__main__ import main
from ci.build import Part, Report, Step


def step(name: str, *inputs: str, cached: bool = False, seconds: float = 1, at: float = 1) -> Step:
    return Step(name, name, cached=cached, seconds=seconds, began=at, inputs=list(inputs))


def report(*steps: Step) -> Report:
    return Report(list(steps), sum(one.seconds for one in steps))


def names(steps: tuple[Step, ...]) -> list[str]:
    return [one.name for one in steps]


def test_hits_and_misses_are_what_buildkit_says() -> None:
    used = cache.use("x", report(step("[1/2] RUN a", cached=True), step("[2/2] RUN b")))
    assert (names(used.hits), names(used.misses)) == (["[1/2] RUN a"], ["[2/2] RUN b"])


def test_what_does_no_work_counts_as_neither() -> None:
    unneeded = step("[other 1/1] RUN c", seconds=0, at=0)
    used = cache.use(
        "x",
        report(
            step("[base 1/2] FROM debian"),
            step("[internal] load context"),
            step("[base 2/2] LINK COPY --link a /a"),
            unneeded,
        ),
    )
    assert (used.hits, used.misses) == ((), ())


def test_the_cause_is_the_step_that_missed_though_nothing_above_it_did() -> None:
    used = cache.use(
        "x",
        report(
            step("[1/4] RUN a", cached=True),
            step("[2/4] COPY b", "[1/4] RUN a", "[internal] load"),
            step("[internal] load"),
            step("[3/4] RUN c", "[2/4] COPY b"),
            step("[4/4] RUN d", "[3/4] RUN c"),
            step("[other 1/1] RUN e"),
        ),
    )
    assert names(used.causes) == ["[2/4] COPY b", "[other 1/1] RUN e"]


def test_what_was_saved_is_known_only_against_an_earlier_build() -> None:
    warm = report(step("RUN", at=1), step("[1/2] RUN a", cached=True, seconds=0))
    cold = report(step("[1/2] RUN a", seconds=7))
    assert cache.use("x", warm).saved_s is None
    assert cache.use("x", warm, cold).saved_s == 7
    assert cache.use("x", warm, warm).saved_s == 0


def test_bytes_are_those_that_buildkit_counts() -> None:
    pulling, loading = step("[1/2] FROM x"), step("[internal] load build context")
    pulling.parts = {"sha256:a": Part(bytes=10), "extracting sha256:a": Part(bytes=99)}
    loading.parts = {"transferring context:": Part(bytes=7)}
    used = cache.use("x", report(pulling, loading))
    assert (used.pulled_bytes, used.context_bytes) == (10, 7)


def test_the_verb_names_the_cause_and_the_totals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat-cpu" / "build.json"
    path.parent.mkdir()
    built = report(
        step("[1/3] RUN a", cached=True, seconds=0),
        step("[2/3] RUN b", "[1/3] RUN a", at=2),
        step("[3/3] RUN c", "[2/3] RUN b", at=3),
    )
    path.write_text(json.dumps(built.as_json()))
    assert main(["cache", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("chat-cpu: 1 of 3 steps from the cache, 2.0 s\n")
    assert "the other misses follow from [2/3] RUN b" in said
    assert said.endswith("1 of 3 steps from the cache, 2.0 s\n")
    main(["cache", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["builds"][0]["causes"] == ["[2/3] RUN b"]


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"steps": [{"a": 1}], "seconds": 1}'])
def test_what_is_no_report_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert main(["cache", str(path)]) == 1
    assert "is no report of a build" in capsys.readouterr().err


def test_a_report_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "nowhere.json"]) == 1
    assert "a build writes its report" in capsys.readouterr().err
