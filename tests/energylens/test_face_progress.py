"""What a run says while it goes on."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from energylens.cli.nodes import NAME_WIDTH, choose_nodes, node_table, rest_line, short_name
from energylens.cli.progress import LiveProgress, PlainProgress
from energylens.cli.screen import class_words, fleet_screen, used_line
from harness.fleet.view import NODE_STATES, NodeView, RunView


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_are_rare_and_count_what_is_left() -> None:
    clock, stream = Clock(), io.StringIO()
    sink = PlainProgress(stream, every_s=5.0, clock=clock)
    sink.started(100, 20)
    for _ in range(4):
        clock.now += 2.0
        sink.advanced(10, 1, 1000.0, "model on GPU")
    sink.message("a launch is tried again")
    sink.finished(40, 4, 8.0)
    assert stream.getvalue().splitlines() == [
        "100 tasks, 20 done before, 80 to do",
        "10/80 done, 1 failed, 5 tasks/s, about 14.0 s left, 1.00 kJ | model on GPU",
        "40/80 done, 4 failed, 5 tasks/s, about 8.00 s left, 4.00 kJ | model on GPU",
        "a launch is tried again",
        "ended: 40 tasks, 4 failed in 8.00 s",
    ]


def test_the_live_bar_takes_the_same_calls(capsys) -> None:
    sink = LiveProgress()
    sink.started(10, 2)
    sink.advanced(8, 0, 5.0, "model on GPU")
    sink.message("[not markup]")
    sink.finished(8, 0, 1.0)
    text = capsys.readouterr().err
    assert "10/10" in text
    assert "[not markup]" in text


def fleet(number: int) -> tuple[NodeView, ...]:
    """Nodes of which the last four are in each kind of trouble."""
    states = ["busy"] * (number - 5) + ["idle", "silent", "lost", "quarantined", "unusable"]
    return tuple(
        NodeView(
            f"gpu-node-{i:02d}.cluster.example.org/{i:06x}",
            "8 x H200-SXM5-141GB",
            state,  # type: ignore[arg-type]
            "meta-llama/Meta-Llama-3.1-70B tp 8" if state == "busy" else f"[why] it is {state}",
            since_s=42.0,
            done=10 * i,
            failed=i % 3,
            busy_share=0.5,
        )
        for i, state in enumerate(states)
    )


VIEW = RunView(
    sweep="nightly",
    planned=12_000,
    already_done=1000,
    done=3210,
    failed=15,
    lost=12,
    launches_waiting=310,
    launches_running=42,
    retries=3,
    seconds=2520.0,
    rate_per_s=12.3,
    eta_s=678.0,
    energy_kwh=1.2345,
    gpu_hours=14.2,
    cost=35.2,
    failures={"out_of_memory": 12, "timed_out": 3},
    losses={"node_died": 12},
    limits={"max_hours": 8.0, "max_kwh": 5.0},
    nodes=fleet(50),
)


def drawn(what: RenderableType, width: int = 80) -> list[str]:
    """Lines of a screen, without the spaces at their ends."""
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_fleet_fits_a_terminal_of_80_by_24() -> None:
    lines = drawn(fleet_screen(replace(VIEW, stopping="8 h of wall time are used up"), 24))
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "4210/12 000  35.1 %" in lines[0]
    assert "12.3 tasks/s, 11 min left | 42 launches running, 310 waiting, 3 tried again" in text
    assert "42.0 min of 8.00 h, 1.23 of 5.00 kWh measured, 14.2 GPU-hours, cost 35.2" in text
    assert "failed: 12 out of memory, 3 timed out" in text
    assert "lost: 12 node died" in text
    assert "stopping: 8 h of wall time are used up; 42 launches finish" in text
    assert "gpu-node-47/00002f" in text  # the lost one, whose id tells it apart
    assert "busy 42 s, Meta" in text
    assert "and 38 more: 37 busy, 1 idle" in text


def test_a_view_with_nothing_known_yet_is_drawn_too() -> None:
    bare = RunView("s", 10, 0, 0, 0, 0, 1, 0, 0, 0.0, None, None, None, 0.0, None)
    lines = drawn(fleet_screen(replace(bare, nodes=fleet(6)), 24))
    assert "0/10" in lines[0]
    assert "kWh" not in "\n".join(lines)
    assert used_line(bare) == "so far: 0 s"
    assert drawn(fleet_screen(replace(bare, planned=0), 24))


@given(st.lists(st.sampled_from(NODE_STATES), max_size=60), st.integers(3, 12))
def test_every_node_is_shown_or_counted_and_trouble_comes_first(states, most) -> None:
    nodes = [NodeView(f"n{i:02d}/aaaaaa", "h", state) for i, state in enumerate(states)]
    shown, rest = choose_nodes(nodes, most)
    assert Counter(n.name for n in [*shown, *rest]) == Counter(n.name for n in nodes)
    assert len(shown) == min(most, len(nodes))
    troubled = [node.troubled for node in shown]
    assert troubled == sorted(troubled, reverse=True)
    if any(not node.troubled for node in nodes):
        assert not all(troubled)
    if any(node.troubled for node in rest):
        assert any(troubled)
    if rest:
        assert rest_line(rest).startswith(f"and {len(rest)} more: ")


@given(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=60))
def test_a_short_name_fits(name: str) -> None:
    assert len(short_name(name)) <= NAME_WIDTH


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("gpu01/1a2b3c", "gpu01/1a2b3c"),
        ("gpu01.lab.example.org/1a2b3c", "gpu01/1a2b3c"),
        ("192.168.100.117/1a2b3c", "192.168.10…/1a2b3c"),
        ("a-very-long-host-name-indeed/1a2b3c", "a-very-lon…/1a2b3c"),
    ],
)
def test_a_short_name_keeps_the_id(name: str, short: str) -> None:
    assert short_name(name) == short


def test_text_of_nodes_is_no_markup() -> None:
    text = "\n".join(drawn(node_table(fleet(6), fold=True), 120))
    assert "[why] it is lost" in text


def test_the_classes_that_have_no_room_are_added_up() -> None:
    assert class_words({"a": 1, "b_c": 5, "d": 2, "e": 3, "f": 4, "g": 1}) == (
        "5 b c, 4 f, 3 e, 2 d, 2 for other reasons"
    )


def test_plain_lines_take_their_counts_from_the_view() -> None:
    clock, stream = Clock(), io.StringIO()
    sink = PlainProgress(stream, every_s=5.0, clock=clock)
    sink.started(12_000, 1000)
    sink.view(VIEW)
    for _ in range(30):  # nothing new: one line a minute shows that the run lives
        clock.now += 1.0
        sink.view(VIEW)
    clock.now += 1.0
    sink.advanced(5, 0, 0.0, "model on GPU")
    sink.view(replace(VIEW, done=3215))
    assert stream.getvalue().splitlines() == [
        "12 000 tasks, 1000 done before, 11 000 to do",
        "3210/11 000 done, 15 failed, 12 lost, 12.3 tasks/s, about 11.3 min left, "
        "1.23 kWh measured | 45 of 50 nodes busy",
        "3215/11 000 done, 15 failed, 12 lost, 12.3 tasks/s, about 11.3 min left, "
        "1.23 kWh measured | 45 of 50 nodes busy",
    ]
    clock.now += 61.0
    sink.view(replace(VIEW, done=3215))
    assert len(stream.getvalue().splitlines()) == 4


def live_screen(view: RunView) -> str:
    """What a live screen on an 80-column terminal leaves behind."""
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=80, height=24, color_system=None, _environ={}
    )
    sink = LiveProgress(console)
    sink.started(view.planned, view.already_done)
    sink.advanced(10, 0, 5000.0, "model on GPU")
    sink.view(view)
    sink.finished(view.done, view.failed, 1.0)
    return stream.getvalue()


def test_one_node_keeps_the_simple_bar() -> None:
    text = live_screen(replace(VIEW, nodes=fleet(6)[:1]))
    assert "measuring" in text
    assert "4210/12000" in text
    assert "15 failed 12 lost" in text
    assert "hardware" not in text


def test_a_fleet_gets_its_table() -> None:
    text = live_screen(VIEW)
    assert "hardware" in text
    assert "and 38 more: 37 busy, 1 idle" in text
