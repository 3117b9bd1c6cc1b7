"""A view of a run survives JSON, whatever is in it, and versions that know more or less."""

from __future__ import annotations

import json
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from harness.fleet.view import NODE_STATES, TROUBLED, NodeState, NodeView, RunView

COUNTS = st.integers(0, 10**6)
NUMBERS = st.floats(0, 1e9)
CLASSES = st.dictionaries(st.text(max_size=9), COUNTS, max_size=4)
NODES = st.builds(
    NodeView,
    name=st.text(max_size=20),
    hardware=st.text(max_size=20),
    state=st.sampled_from(NODE_STATES),
    doing=st.text(max_size=20),
    since_s=NUMBERS,
    done=COUNTS,
    failed=COUNTS,
    lost=COUNTS,
    busy_share=st.floats(0, 1),
)
VIEWS = st.builds(
    RunView,
    sweep=st.text(max_size=9),
    planned=COUNTS,
    already_done=COUNTS,
    done=COUNTS,
    failed=COUNTS,
    lost=COUNTS,
    launches_waiting=COUNTS,
    launches_running=COUNTS,
    retries=COUNTS,
    seconds=NUMBERS,
    rate_per_s=st.none() | NUMBERS,
    eta_s=st.none() | NUMBERS,
    energy_kwh=st.none() | NUMBERS,
    gpu_hours=NUMBERS,
    cost=st.none() | NUMBERS,
    failures=CLASSES,
    losses=CLASSES,
    limits=st.dictionaries(st.sampled_from(["max_hours", "max_kwh"]), NUMBERS),
    stopping=st.text(max_size=9),
    nodes=st.lists(NODES, max_size=4).map(tuple),
)


@given(VIEWS)
def test_a_view_comes_back_from_json(view: RunView) -> None:
    assert RunView.from_dict(json.loads(json.dumps(view.to_dict()))) == view


@given(VIEWS)
def test_fields_of_a_later_version_are_passed_over(view: RunView) -> None:
    values = view.to_dict()
    later = {
        **values,
        "colour": "green",
        "nodes": [{**node, "colour": "green"} for node in values["nodes"]],
    }
    assert RunView.from_dict(later) == view


def test_trouble_is_some_of_the_states() -> None:
    assert get_args(NodeState) == NODE_STATES
    assert set(TROUBLED) < set(NODE_STATES)
    assert NodeView("a", "h", "lost").troubled
    assert not NodeView("a", "h", "busy").troubled
