from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from services.server.telemetry import merge, render

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


def test_a_gateway_behind_a_gateway_is_parsable_and_names_the_way() -> None:
    inner = merge(OWN, {"chat-0": OTHER, "chat-1": OTHER})
    outer = merge(OWN, {"chat-0": inner})
    found = samples(outer)
    for way in ("chat-0/chat-0", "chat-0/chat-1"):
        labels = (("backend", way), ("name", "a } b"), ("role", "chat"))
        assert ("x_total", labels, 2.0) in found
    assert ("x_total", (("backend", "chat-0"), ("role", "gateway")), 1.0) in found
    names = [line for line in outer.decode().splitlines() if line.startswith("#")]
    assert len(names) == len(set(names))


def test_only_a_label_that_is_called_backend_is_the_way() -> None:
    labels = {"my_backend": "a", "more": 'backend="b"', "other": "a,backend="}
    given = b'x{my_backend="a",more="backend=\\"b\\"",other="a,backend="} 1.0\n'
    ((_, found, _),) = samples(merge(b"", {"chat-0": b"# TYPE x gauge\n" + given}))
    assert dict(found) == {"backend": "chat-0", **labels}


def test_what_has_no_help_or_type_keeps_its_family() -> None:
    text = b"""# TYPE a gauge
a 1.0
# TYPE b histogram
b_bucket{le="+Inf"} 2.0
b_count 2.0
c 3.0
"""
    lines = merge(text, {"chat-0": text}).decode().splitlines()
    about = [line for line in lines if line.startswith("#")]
    assert about == ["# TYPE a gauge", "# TYPE b histogram"]
    assert lines.index("c 3.0") > lines.index('b_count{backend="chat-0"} 2.0')


def test_exemplars_and_ends_of_openmetrics_are_left_out() -> None:
    text = b"""# TYPE h histogram
h_bucket{le="1"} 2.0 # {trace_id="a } b"} 0.5 1.7e9
h_count 2.0
# EOF
"""
    merged = merge(text, {"chat-0": text})
    assert (b"EOF" in merged, b"trace_id" in merged) == (False, False)
    assert ("h_bucket", (("backend", "chat-0"), ("le", "1")), 2.0) in samples(merged)
