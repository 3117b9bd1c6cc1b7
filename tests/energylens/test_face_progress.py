"""What a run says while it goes on."""

from __future__ import annotations

import io

from energylens.cli.progress import LiveProgress, PlainProgress


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
