from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from services.telemetry import merge, render

OWN = b"""# HELP x_total Things.
# TYPE x_total counter
x_total{role="gateway"} 1.0
# HELP up Up.
# TYPE up gauge
up 1.0
"""
OTHER = b"""# HELP x_total Things.
# TYPE x_total counter
x_total{role="chat",name="a } b"} 2.0
# HELP vllm:running Running.
# TYPE vllm:running gauge
vllm:running 3.0
# HELP h Seconds.
# TYPE h histogram
h_bucket{le="+Inf"} 4.0
h_count 4.0
h_sum 0.5
"""


def samples(text: bytes) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_families_come_once_and_samples_name_their_backend() -> None:
    merged = merge(OWN, {"chat-0": OTHER, "chat-1": OTHER})
    assert merged.count(b"# HELP x_total ") == merged.count(b"# TYPE h histogram") == 1
    found = samples(merged)
    assert ("up", (), 1.0) in found
    assert ("x_total", (("role", "gateway"),), 1.0) in found
    for name in ("chat-0", "chat-1"):
        labels = (("backend", name), ("name", "a } b"), ("role", "chat"))
        assert ("x_total", labels, 2.0) in found
        assert ("vllm:running", (("backend", name),), 3.0) in found
        assert ("h_bucket", (("backend", name), ("le", "+Inf")), 4.0) in found


def test_nothing_of_a_backend_is_lost_or_made_up() -> None:
    before = {(name, value) for name, _, value in samples(OWN) | samples(OTHER)}
    after = {(name, value) for name, _, value in samples(merge(OWN, {"b": OTHER}))}
    assert after == before


def test_a_backend_that_talks_nonsense_does_not_break_the_rest() -> None:
    merged = merge(OWN, {"b": b"\xff\xfe\n<html>\nno metrics here\n"})
    assert samples(merged) == samples(OWN)


def test_without_backends_the_text_is_our_own() -> None:
    own = render()
    assert samples(merge(own, {})) == samples(own)


def test_each_family_is_in_one_block() -> None:
    lines = merge(OWN, {"b": OTHER}).decode().splitlines()
    names = [
        line.split(" ")[2] if line.startswith("#") else line.partition("{")[0].partition(" ")[0]
        for line in lines
    ]
    seen = [name for name, before in zip(names, ["", *names], strict=False) if name != before]
    assert seen.count("x_total") == 1
