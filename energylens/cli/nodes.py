"""Nodes of a fleet on screen: which ones are shown, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from energylens.units import count, duration

if TYPE_CHECKING:
    from rich.table import Table

    from harness.fleet.view import NodeView, RunView

NAME_WIDTH = 18
HARDWARE_WIDTH = 19
_STYLE = {"idle": "dim", "starting": "cyan", "busy": "green"}


def short_name(name: str, width: int = NAME_WIDTH) -> str:
    """Shorten `host/id` to a width: first the domain goes, then the end of the host's name."""
    if len(name) <= width:
        return name
    host, slash, node_id = name.rpartition("/")
    first = host.partition(".")[0]
    host = host if first.isdecimal() else first
    if len(host + slash + node_id) <= width:
        return host + slash + node_id
    room = width - len(slash + node_id) - 1
    return f"{host[:room]}…{slash}{node_id}" if slash and room > 0 else f"{name[: width - 1]}…"


def choose_nodes(nodes: Sequence[NodeView], most: int) -> tuple[list[NodeView], Sequence[NodeView]]:
    """Choose the nodes that are shown, and tell the rest.

    Troubled ones come first, the worst news first; at least a third of the places is for those
    that work. Within each kind they go by name, so that lines do not jump about.
    """
    from harness.fleet.view import TROUBLED

    by_name = sorted(nodes, key=lambda node: node.name)
    troubled = sorted(
        (node for node in by_name if node.troubled), key=lambda node: TROUBLED.index(node.state)
    )
    well = [node for node in by_name if not node.troubled]
    places = min(len(well), max(most // 3, most - len(troubled)))
    kept = max(0, most - places)
    return troubled[:kept] + well[:places], troubled[kept:] + well[places:]


def rest_line(rest: Sequence[NodeView]) -> str:
    """Write the nodes that are not shown in one line: `and 40 more: 38 busy, 2 idle`."""
    states = Counter(node.state for node in rest).most_common()
    return f"and {len(rest)} more: {', '.join(f'{number} {state}' for state, number in states)}"


def state_text(node: NodeView) -> str:
    """Write what a node does, for how long, and with what or why."""
    since = (
        f" {duration(node.since_s, 2)}" if node.since_s >= 1 and node.state != "unusable" else ""
    )
    model, space, rest = node.doing.partition(" ")
    # A launch is named by its model first, whose owner there is no room for.
    launch = node.state in ("busy", "starting")
    doing = f"{model.rpartition('/')[2]}{space}{rest}" if launch else node.doing
    return f"{node.state}{since}" + (f", {doing}" if doing else "")


def node_table(nodes: Sequence[NodeView], *, fold: bool = False) -> Table:
    """Build the table of nodes, as wide as the screen.

    Parameters
    ----------
    nodes
        Those to show.
    fold
        Let long reasons go over several lines, and tell lost tasks from failed ones; otherwise
        each node keeps to one line and `failed` holds both.
    """
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, expand=True, header_style="dim")
    out.add_column("node", no_wrap=True, min_width=10)
    out.add_column("hardware", no_wrap=True, overflow="ellipsis", max_width=HARDWARE_WIDTH)
    out.add_column("state", ratio=1, no_wrap=not fold, overflow="fold" if fold else "ellipsis")
    lost = fold and any(node.lost for node in nodes)
    for head in ("done", "failed", *(["lost"] if lost else []), "busy"):
        out.add_column(head, justify="right", no_wrap=True)
    for node in nodes:
        out.add_row(
            Text(short_name(node.name)),
            Text(node.hardware),
            Text(state_text(node), style="red" if node.troubled else _STYLE.get(node.state, "")),
            count(node.done),
            *([count(node.failed), count(node.lost)] if lost else [count(node.failed + node.lost)]),
            f"{100 * node.busy_share:.0f} %",
        )
    return out


def stopping_line(view: RunView) -> str:
    """Say that a run starts no more launches, and why."""
    running = f"; {count(view.launches_running)} launches finish" if view.launches_running else ""
    return f"stopping: {view.stopping}{running}"
