"""What the simulation of the routing says of few backends holds for the choice itself."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.routing import Case, Simulation, took_s
from services.backends.pools import AHEAD
from services.settings.sections import GatewaySettings

FEW = {"backends": 20, "requests": 4000, "subjects": 400}


def apart(seen: Simulation) -> float:
    return statistics.mean(seen.apart)


def test_one_gateway_keeps_all_backends_alike_busy() -> None:
    seen = Simulation(Case(**FEW, affinity=False))
    assert apart(seen) < 3
    assert seen.refused == 0


def test_affinity_finds_caches_and_keeps_its_bound() -> None:
    without, with_it = (Simulation(Case(**FEW, affinity=on)) for on in (False, True))
    assert with_it.hit_share > 0.8
    assert with_it.hit_share > 2 * without.hit_share
    assert apart(with_it) < AHEAD + 4  # the least loaded one may end some more meanwhile


def test_gateways_that_do_not_know_of_each_other_share_the_bound() -> None:
    """Each may be eight ahead: together they would fill some backends while others are idle."""
    of_eight = {**FEW, "subjects": 2, "gateways": AHEAD}
    each = Simulation(Case(**of_eight))
    shared = Simulation(Case(**of_eight, ahead=1))
    assert apart(shared) < apart(each) - 10
    assert statistics.mean(shared.waits_s) < statistics.mean(each.waits_s) / 2


def test_who_says_that_it_ends_loses_nothing() -> None:
    replaced = {**FEW, "requests": 10_000, "load": 0.3, "gateways": 4, "replaced": 0.25}
    at_once, draining = (Simulation(Case(**replaced, drain_s=s)) for s in (0.0, 3.0))
    assert at_once.moved > 0
    assert (draining.moved, draining.lost) == (0, 0)


@pytest.mark.parametrize(("at_work", "ms"), [(1, 389.3), (8, 457.84), (32, 774.77)])
def test_a_request_takes_as_long_as_was_measured(at_work: int, ms: float) -> None:
    assert took_s(at_work) * 1000 == pytest.approx(ms)


def test_the_gateways_own_bound_is_that_of_a_pool() -> None:
    assert GatewaySettings().affinity_ahead == AHEAD
