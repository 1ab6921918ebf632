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


def test_instructions_come_in_the_order_in_which_they_began() -> None:
    steps = after(
        vertex("c", "[2/2] COPY b /b"),
        vertex("b", "[1/2] COPY a /a", 1, 2),
        vertex("c", "[2/2] COPY b /b", 3, 4),
        vertex("d", "[internal] load build context", 0, 1),
        vertex("e", "[context wheels] load from client", 0, 1),
    )
    names = [step.name for step in Report([*steps.values()], 4).instructions]
    assert names == ["[1/2] COPY a /a", "[2/2] COPY b /b"]
