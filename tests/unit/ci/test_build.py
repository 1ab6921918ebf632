import json
from typing import Any

from ci.build import Report, Step, follow

AT = "2026-11-24T10:00:0{}Z"


def vertex(
    digest: str, name: str, began: int | None = None, ended: int | None = None, **more: Any
) -> dict[str, Any]:
    said = {"digest": digest, "name": name, **more}
    if began is not None:
        said["started"] = AT.format(began)
    if ended is not None:
        said["completed"] = AT.format(ended)
    return {"vertexes": [said]}


def after(*events: dict[str, Any]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for event in events:
        follow(steps, event)
    return steps


def test_a_step_that_buildkit_takes_up_again_counts_all_its_time() -> None:
    steps = after(
        vertex("a", "[1/2] FROM x", 0),
        vertex("a", "[1/2] FROM x", 0, 2),
        vertex("a", "[1/2] FROM x", 5, 6),
        vertex("a", "[1/2] FROM x", 5, 6),
    )
    assert steps["a"].seconds == 3


def test_bytes_that_are_pulled_and_sent_are_kept_by_what_they_are() -> None:
    status = {"vertex": "a", "id": "sha256:b", "current": 10, "started": AT.format(1)}
    steps = after(
        vertex("a", "[1/2] FROM x", 0),
        {"statuses": [status]},
        {"statuses": [{**status, "current": 30, "completed": AT.format(3)}]},
    )
    assert (steps["a"].parts["sha256:b"].bytes, steps["a"].parts["sha256:b"].seconds) == (30, 2)


def test_instructions_come_in_the_order_in_which_they_began() -> None:
    steps = after(
        vertex("c", "[2/2] COPY b /b"),
        vertex("b", "[1/2] COPY a /a", 1, 2),
        vertex("c", "[2/2] COPY b /b", 3, 4),
        vertex("d", "[internal] load build context", 0, 1),
        vertex("e", "[context wheels] load from client", 0, 1),
    )
    assert [step.digest for step in Report([*steps.values()], 4).instructions] == ["b", "c"]


def test_a_report_is_the_same_after_a_file() -> None:
    status = {"vertex": "a", "id": "pushing layers", "current": 0, "started": AT.format(1)}
    steps = after(
        vertex("a", "exporting to image", 0, 3, inputs=["b"]),
        {"statuses": [{**status, "completed": AT.format(3)}]},
    )
    steps["a"].spans.clear()
    report = Report([*steps.values()], 3.5)
    assert Report.from_json(json.loads(json.dumps(report.as_json()))) == report


def test_a_report_of_before_there_were_parts_can_be_read() -> None:
    step = {"digest": "a", "name": "[1/1] RUN x", "cached": False, "seconds": 1.0, "error": ""}
    assert Report.from_json({"seconds": 1, "steps": [step]}).steps[0].parts == {}
