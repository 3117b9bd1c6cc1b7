"""`evaluate`: how often each method chooses right, and how wrong it predicts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption, RunArgument, comma_integers, comma_list
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.plain import plain
from energylens.units import count, duration, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CLASSES = {
    "S1": "model, hardware, workload and GPU count given: choose (t, p)",
    "S2": "GPU count free, under a latency limit",
    "S3": "hardware free too",
    "S4": "hardware given: choose layout, precision and batch; energy per output token",
    "S5": "hardware free too; energy per output token",
}
POOLED = {
    "S1": "model, task, GPU type, batch limit and GPU count given: choose the layout",
    "S2": "GPU count free",
    "S3": "GPU type free too",
}
_METHOD: str | tuple[str, str] = ("method", "<")
_BUDGET = re.compile(r" at (\d+) samples")
MOST_LEVERS = 8


def evaluate(
    directory: RunArgument,
    samples: Annotated[
        str,
        typer.Option(
            metavar="N,...", help="Rows each method learns from, per pair; several: a curve."
        ),
    ] = "50",
    classes: Annotated[
        str, typer.Option(metavar="S1,...", help="Scenario classes, of S1 to S5; or all.")
    ] = "all",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Methods; default: the usual ones.",
            show_default=False,
        ),
    ] = None,
    all_methods: Annotated[
        bool, typer.Option("--all-methods", help="Compare the slower methods too.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws.")] = 1,
    hold_out: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Share of workloads that nothing learns from; only they count."
        ),
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Score every method: Top-1, regret, MAPE per scenario class, rules beside it.

    The result is also written to DIR/evaluation.json, from where `report` takes it.
    """
    from energylens.evaluation import evaluate_run

    result = evaluate_run(
        directory,
        samples=comma_integers(samples, "--samples"),
        classes=comma_list(classes),
        methods=["all"] if all_methods else comma_list(methods) or None,
        seeds=seeds,
        hold_out=hold_out,
    )
    if as_json:
        print_json({k: v for k, v in result.to_dict().items() if k != "predictions"})
    else:
        _print(plain(result.to_dict()), result.saved_to)


def _print(result: dict[str, Any], saved_to: Path | None) -> None:
    from energylens.evaluation import SERVING, main_budget

    out = console()
    out.print(provenance_line(result["provenance"]))
    overall = [row for row in result["scores"] if row["group_kind"] == "all"]
    pooled = any(row["method"] == SERVING for row in overall)
    titles = {**CLASSES, **(POOLED if pooled else {})}
    budgets = list(dict.fromkeys(row["samples"] for row in overall))
    for name in dict.fromkeys(row["scenario_class"] for row in overall):
        rows = [row for row in overall if row["scenario_class"] == name]
        for part in _tables(name, titles.get(name, ""), rows, budgets):
            out.print(part)
    if any(row.get("knows") for row in overall):
        out.print("[dim]* knows the true latency or throughput, which only measuring tells[/]")
    _print_levers(out, result.get("levers") or [])
    main = main_budget(budgets)
    for note in result["notes"]:
        about = _BUDGET.search(note)
        if about is None or main is None or int(about[1]) == main:
            out.print(f"- {note}", markup=False)
    for sentence in _divergence(result.get("divergence")):
        out.print(f"- {sentence}", markup=False)
    out.print(f"[dim]computed in {duration(result['seconds'])}[/]")
    if saved_to is not None:
        out.print(f"Written: {saved_to}", markup=False)


def _tables(
    name: str, text: str, rows: list[dict[str, Any]], budgets: list[int | None]
) -> list[Table]:
    """Return the table of one class; with several budgets Top-1 and MAPE by budget."""
    scenarios = count(max(row["scenarios"] for row in rows))
    title = f"{name}: {text}\n{scenarios} scenarios"
    if len(budgets) == 1:
        rows = _sorted(rows)
        heads = [_METHOD, "Top-1", "95 % interval", "within 1 %", "regret", "MAPE"]
        cells = [_cells(row) for row in rows]
        title += f", {budgets[0]} rows to learn from"
        return [table(heads, cells, title=title, highlight=_ours(rows))]
    out = []
    for key, label in (("top1", "Top-1"), ("mape", "MAPE")):
        found = {(row["method"], row["samples"]): row for row in rows}
        most = [row for row in rows if row["samples"] == budgets[-1]]
        ranked = [row for row in _sorted(most) if key == "top1" or row["mape"] is not None]
        cells = [
            (
                _name(row),
                *(percent((found.get((row["method"], b)) or {}).get(key)) for b in budgets),
            )
            for row in ranked
        ]
        if cells:
            heads = [_METHOD, *(str(b) for b in budgets)]
            text_ = f"{title}: {label} by rows to learn from"
            out.append(table(heads, cells, title=text_, highlight=_ours(ranked)))
    return out


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-(row["top1"] or 0.0), row["mean_regret"] or 0.0))


def _ours(rows: list[dict[str, Any]]) -> int | None:
    from energylens.evaluation import is_ours

    return next((i for i, row in enumerate(rows) if is_ours(row["method"])), None)


def _name(row: dict[str, Any]) -> str:
    return f"{row['method']}{' *' if row.get('knows') else ''}"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        _name(row),
        percent(row["top1"]),
        f"{percent(row['top1_lo'])[:-2]} to {percent(row['top1_hi'])}",
        percent(row["top1_within_1pct"]),
        percent(row["mean_regret"]),
        percent(row["mape"]),
    )


def _print_levers(out: Console, levers: list[dict[str, Any]]) -> None:
    """Print which levers cost energy, in one table of at most `MOST_LEVERS` lines."""
    if not levers:
        return
    rows = [
        (
            lever["lever"],
            count(lever["cases"]),
            percent(lever["share_backfires"]),
            percent(lever["mean_change"]),
            percent(lever["worst_change"]),
            lever["where"] or "",
        )
        for lever in levers[:MOST_LEVERS]
    ]
    heads: list[str | tuple[str, str]] = [("lever", "<")]
    heads += ["cases", "backfires", "mean", "worst", ("most at", "<")]
    out.print(table(heads, rows, title="Levers: how often energy rises, and by how much"))


def _divergence(split: dict[str, Any] | None) -> list[str]:
    """Say how often the fastest configuration is not the one that uses least."""
    if not split or split.get("share") is None:
        return []
    out = [
        f"the fastest configuration is not the one that uses least in {percent(split['share'])} "
        f"of scenarios of a fixed GPU count; there it uses {percent(split['mean_penalty'])} more "
        f"on average, {percent(split['max_penalty'])} at most"
    ]
    for key, text in (("all_free", "GPU count free"), ("batch_free", "GPU count and batch free")):
        part = split.get(key)
        if part and part.get("share") is not None:
            out.append(
                f"{text}: in {percent(part['share'])}, {percent(part['mean_penalty'])} more on "
                f"average, {percent(part['max_penalty'])} at most"
            )
    return out
