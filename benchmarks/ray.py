"""Chat over Ray Serve, beside plain vLLM and the stack without Ray.

Added to what `nox -s bench` measures: the processor time of a stream, of all processes of a
contestant and of the one that relays. `python -m benchmarks.ray PORT` is the contestant behind
Ray's own proxy, in the environment with Ray: the replica is that of `services.ray`; only the way to
it is another.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import uvloop

from benchmarks import front_door, report
from benchmarks.contestants import ROOT, Server, free_port, python, running

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECT, PROXY = "gateway, direct ingress", "Ray's proxy"
_SHARE_AIM, _CPU_AIM = 0.9, 5


def servers(stack_python: str, ray_python: str) -> list[Server]:
    """Return plain vLLM first, then the stack and two ways to a replica of Ray's."""
    found = {one.name: one for one in front_door.servers(stack_python)}
    plain, stack = found[front_door.PLAIN], found[front_door.STACK]
    stack.door = "--service-name bentovox"
    direct, dashboard, proxy = (free_port() for _ in range(3))
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    return [
        plain,
        stack,
        Server(
            DIRECT,
            [ray_python, "-m", "services.ray", f"--port={direct}"],
            direct,
            environment={**own, "BENTOVOX_RAY__DASHBOARD_PORT": str(dashboard)},
            door="--service-name gateway",
        ),
        Server(
            PROXY,
            [ray_python, "-m", "benchmarks.ray", str(proxy)],
            proxy,
            environment={
                **own,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            door="ray::ProxyActor",
        ),
    ]


def main(arguments: list[str]) -> None:
    options = report.parser("ray", __doc__, rounds=3).parse_args(arguments)
    measured = servers(python(), python("RAY_PYTHON"))
    with running(*measured):
        lines = uvloop.run(front_door.measure(measured, options.rounds))
    report.write(
        options.out,
        "benchmarks-ray",
        plot(lines),
        rounds=options.rounds,
        load=os.getloadavg()[0],
        chat=front_door.table(lines),
        cpu=cpu_table(lines),
        aims=aims(lines),
    )


def cpu_table(lines: front_door.Lines) -> str:
    columns = ("server", *(f"{count} concurrent" for count in front_door.REQUESTS))
    rows = []
    for name in lines[front_door.MOST]:
        mine = [of_one[name] for of_one in lines.values()]
        rows.append((name, *(f"{front_door.median(one, 'cpu_ms'):.2f}" for one in mine)))
        if name != front_door.PLAIN:
            doors = (f"{front_door.median(one, 'door_ms'):.2f}" for one in mine)
            rows.append((f"{name}: what relays", *doors))
    return report.table(columns, rows)


def aims(lines: front_door.Lines) -> str:
    names = (DIRECT, front_door.STACK, PROXY)
    direct, stack, proxy = (lines[front_door.MOST][name] for name in names)
    share = front_door.median(direct, "share") / front_door.median(stack, "share")
    less = front_door.median(proxy, "door_ms") / front_door.median(direct, "door_ms")
    return (
        f"- The gateway over direct ingress, share of the stack's requests a second at "
        f"{front_door.MOST} concurrent: {share:.3f}, aim {_SHARE_AIM}: "
        f"{front_door.verdict(share >= _SHARE_AIM)}.\n"
        f"- Processor time of {PROXY} a stream, over that of the gateway, at {front_door.MOST} "
        f"concurrent: {less:.1f}, aim {_CPU_AIM}: {front_door.verdict(less >= _CPU_AIM)}."
    )


def plot(lines: front_door.Lines) -> Figure:
    """Draw requests a second and the processor time of a stream in the process that relays."""
    rates, doors = (
        report.by_contestant(lines, attrgetter(what)) for what in ("requests_per_s", "door_ms")
    )
    del doors[front_door.PLAIN]
    colors = dict(zip(rates, (report.GREY, report.NAVY, report.BLUE, report.RED), strict=True))
    figure = report.plot(11, 4.2)
    left, right = figure.subplots(1, 2)
    report.bars(left, rates, colors)
    report.bars(right, doors, colors)
    said = "concurrent streams"
    report.tidy(left, front_door.REQUESTS, title="Requests a second", xlabel=said)
    title = "Processor time a stream in the process that relays, ms"
    report.tidy(right, front_door.REQUESTS, title=title, xlabel=said)
    report.legend(figure, left)
    return figure


class _Replica:
    def __serve_build_asgi_app__(self) -> Any:
        return import_module("services.chat.service").Chat.shell()


def serve_behind_proxy(port: int) -> None:
    """Serve the chat role behind Ray's own proxy until SIGTERM; `servers` sets Ray's variables."""
    import ray  # noqa: PLC0415  elsewhere there is none
    from ray import serve  # noqa: PLC0415

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    deployment = serve.deployment(
        serve.ingress()(_Replica), name="Chat", max_ongoing_requests=10_000
    )
    ray.init("local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment.bind(), route_prefix="/", blocking=True)
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    serve_behind_proxy(int(sys.argv[1]))
