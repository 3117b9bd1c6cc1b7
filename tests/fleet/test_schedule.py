"""Who goes where next: properties of the schedule, in virtual time, without Ray."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.fleet.nodes import GpuFacts, Need, NodeFacts, Problem
from harness.fleet.placing import play
from harness.fleet.schedule import Assignment, Schedule, Work, ordered

H100, A100 = "H100-SXM5-80GB", "A100-SXM4-80GB"


def node(name: str, hardware: str, gpus: int, **changes) -> NodeFacts:
    facts = {
        "cpus": 8.0,
        "ray_gpus": float(gpus),
        "locks": 1.0,
        "engines": {"twin": "1", "transformers": "5"},
        "gpus": tuple(GpuFacts(f"{name}-{i}", hardware, hardware, 80 * 2**30) for i in range(gpus)),
    }
    return NodeFacts(name, "10.0.0.1", name, **{**facts, **changes})


def work(name: str, hardware: str = H100, gpus: int = 1, nodes: int = 1, seconds: float = 10.0):
    return Work(name, Need(hardware, gpus, nodes, "transformers"), seconds, stratum=name[0])


def overlapping(started: list[tuple[float, Assignment]]) -> bool:
    """Whether two works were on one node at the same time."""
    spans = defaultdict(list)
    for at, assignment in started:
        for node_id in assignment.nodes:
            spans[node_id].append((at, at + assignment.work.planned_s))
    return any(b[0] < a[1] for each in spans.values() for a, b in pairwise(sorted(each)))


def length(started: list[tuple[float, Assignment]]) -> float:
    return max(at + assignment.work.planned_s for at, assignment in started)


works_lists = st.lists(
    st.tuples(
        st.sampled_from([H100, A100]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 1, 1, 2]),
        st.floats(1, 100),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(works_lists, st.integers(0, 99))
def test_every_work_starts_once_alone_on_nodes_that_can_do_it(drawn, seed):
    works = [work(f"w{i}", h, g, n, s) for i, (h, g, n, s) in enumerate(drawn)]
    nodes = [node("a", H100, 8), node("b", H100, 4), node("c", A100, 8), node("d", A100, 2)]
    nodes.append(node("e", H100, 8))
    works = ordered(works, seed)
    schedule = Schedule(works, nodes)
    started = play(works, nodes)
    by_id = {facts.node_id: facts for facts in nodes}
    names = [assignment.work.work_id for _, assignment in started]
    assert len(names) == len(set(names))
    hopeless = {each.work_id for each in schedule.hopeless()}
    assert hopeless.isdisjoint(names)
    assert hopeless | set(names) == {each.work_id for each in works}
    assert not overlapping(started)
    for _, assignment in started:
        need = assignment.work.need
        assert len(set(assignment.nodes)) == need.nodes
        assert all(
            by_id[i].hardware.get(need.hardware, 0) >= need.num_gpus for i in assignment.nodes
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1, 60), min_size=30, max_size=120), st.integers(0, 99))
def test_the_end_comes_close_to_the_least_that_is_possible(durations, seed):
    works = [work(f"{'abc'[i % 3]}{i}", seconds=s) for i, s in enumerate(durations)]
    nodes = [node(name, H100, 8) for name in "wxyz"]
    makespan = length(play(ordered(works, seed), nodes))
    bound = max(sum(durations) / 4, max(durations))
    assert makespan <= 1.15 * bound


def test_scarce_nodes_are_kept_for_what_only_they_can_do():
    works = [work(f"big{i}", gpus=8, seconds=20) for i in range(10)]
    works += [work(f"small{i}", gpus=1, seconds=10) for i in range(40)]
    nodes = [node("large", H100, 8), *(node(f"n{i}", H100, 2) for i in range(2))]
    started = play(ordered(works, 3), nodes)
    assert length(started) <= 1.15 * 200
    assert all(a.nodes == ("large",) for _, a in started if a.work.work_id.startswith("big"))


def test_a_gang_starts_first_and_singles_do_not_starve_it():
    works = [work(f"one{i}", seconds=10) for i in range(20)]
    works.append(work("gang", gpus=8, nodes=2, seconds=5))
    schedule = Schedule(ordered(works, 0), [node(n, H100, 8) for n in "abc"])
    first = schedule.pick()
    assert first is not None
    assert first.work.work_id == "gang"
    assert len(set(first.nodes)) == 2
    # Put back while all nodes are busy: the next two that get free are held for it.
    running = [schedule.pick()]
    schedule.give_back(first)
    running += [schedule.pick(), schedule.pick()]
    assert None not in running
    assert schedule.pick() is None
    schedule.put(first.work.again())
    schedule.give_back(running[0])
    assert schedule.pick() is None
    schedule.give_back(running[1])
    again = schedule.pick()
    assert again is not None
    assert again.work.work_id == "gang"


def test_a_second_attempt_goes_elsewhere_and_first():
    schedule = Schedule([work(f"w{i}") for i in range(5)], [node("a", H100, 1), node("b", H100, 1)])
    first = schedule.pick()
    assert first is not None
    schedule.give_back(first)
    schedule.put(first.work.again(*first.nodes))
    next_two = [schedule.pick(), schedule.pick()]
    where = {a.work.work_id: a.nodes for a in next_two if a}
    assert where[first.work.work_id] != first.nodes


def test_a_second_attempt_comes_back_where_no_other_node_can():
    schedule = Schedule([work("w")], [node("a", H100, 1), node("b", A100, 8)])
    first = schedule.pick()
    assert first is not None
    schedule.give_back(first)
    schedule.put(first.work.again("a"))
    again = schedule.pick()
    assert again is not None
    assert again.nodes == ("a",)
    assert again.work.attempt == 2


def test_models_are_spread_over_the_run():
    works = [
        Work(f"{m}{i}", Need(H100, 1, engine="transformers"), 10.0, stratum=m)
        for m, n in (("a", 100), ("b", 20))
        for i in range(n)
    ]
    order = [each.stratum for each in ordered(works, 5)]
    for start in range(0, 120, 30):
        assert Counter(order[start : start + 30])["b"] in range(3, 8)
    assert order != [each.stratum for each in ordered(works, 6)]
    assert order == [each.stratum for each in ordered(works, 5)]


@pytest.mark.parametrize("isolation", ["node", "gpu"])
def test_gpus_of_a_node_are_shared_only_where_that_is_allowed(isolation):
    works = [work(f"w{i}", gpus=2) for i in range(6)]
    schedule = Schedule(works, [node("a", H100, 8)], isolation)
    together = 0
    while schedule.pick() is not None:
        together += 1
    assert together == (4 if isolation == "gpu" else 1)


def test_nodes_that_cannot_measure_take_nothing_until_they_can():
    broken = node("a", H100, 8, problems=(Problem("gpu_busy", "somebody works there", "wait"),))
    schedule = Schedule([work("w")], [broken])
    assert schedule.pick() is None
    assert [each.work_id for each in schedule.hopeless()] == ["w"]
    assert "somebody" in schedule.closed("a")
    schedule.add(node("a", H100, 8))
    assert schedule.pick() is not None


def test_what_does_not_fit_into_the_time_left_waits():
    schedule = Schedule([work("long", seconds=100), work("short", seconds=5)], [node("a", H100, 1)])
    chosen = schedule.pick(longest_s=10)
    assert chosen is not None
    assert chosen.work.work_id == "short"


def test_an_abandoned_worker_keeps_its_node_busy():
    schedule = Schedule([work("w")], [node("a", H100, 1)])
    schedule.hold("a", "ticket")
    assert schedule.pick() is None
    schedule.release("a", "ticket")
    assert schedule.pick() is not None


def test_many_projections_share_a_node():
    need = Need("", 0)
    works = [Work(f"p{i}", need, 0.0) for i in range(40)]
    schedule = Schedule(works, [node("a", H100, 8, cpus=2.0)])
    together = 0
    while schedule.pick() is not None:
        together += 1
    assert together == 4


@pytest.mark.parametrize("isolation", ["node", "gpu"])
def test_a_gang_has_its_nodes_alone_whatever_it_leaves_free(isolation):
    works = [work("gang", gpus=4, nodes=2), *(work(f"one{i}", gpus=1) for i in range(4))]
    schedule = Schedule(works, [node("a", H100, 8), node("b", H100, 8)], isolation)
    first = schedule.pick()
    assert first is not None
    assert first.work.work_id == "gang"
    assert schedule.pick() is None


def test_a_gang_that_takes_too_long_holds_no_nodes():
    works = [work("gang", gpus=8, nodes=2, seconds=100), work("one", seconds=5)]
    schedule = Schedule(works, [node("a", H100, 8), node("b", H100, 8)])
    chosen = schedule.pick(longest_s=10)
    assert chosen is not None
    assert chosen.work.work_id == "one"


def test_a_node_without_cpus_takes_nothing():
    schedule = Schedule([Work("p", Need("", 0), 0.0)], [node("head", H100, 0, cpus=0.0)])
    assert schedule.pick() is None
    assert [each.work_id for each in schedule.hopeless()] == ["p"]


def test_launches_that_share_a_node_are_no_more_than_its_cpus():
    works = [work(f"w{i}", gpus=1) for i in range(8)]
    schedule = Schedule(works, [node("a", H100, 8, cpus=3.0)], "gpu")
    together = 0
    while schedule.pick() is not None:
        together += 1
    assert together == 3
