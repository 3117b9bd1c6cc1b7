"""`fit` and `evaluate`: from measurements to laws, and how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption, RunArgument, comma_integers, comma_list
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.plain import plain
from energylens.units import coefficient, count, duration, percent

if TYPE_CHECKING:
    from rich.console import Console

    from fitting import Fit

CLASSES = {
    "S1": "model, hardware, workload and GPU count given: choose (t, p)",
    "S2": "GPU count free, under a latency limit",
    "S3": "hardware free too",
}


POOLED = {
    "S1": "model, task, GPU type, batch limit and GPU count given: choose the layout",
    "S2": "GPU count free",
    "S3": "GPU type free too",
}


def fit(
    directory: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FIT", help="Write the fit here (JSON).")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Rows drawn for each (model, hardware); default: all.", show_default=False
        ),
    ] = None,
    form: Annotated[str, typer.Option(help="Name of the closed form.")] = "energylens12",
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="Print the law of this model.", show_default=False)
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Print the law on this hardware.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit one energy law, with parameters for each (model, hardware)."""
    from energylens.fitfile import save_fit
    from fitting import fit_frame
    from harness.store import read_measurements

    frame = read_measurements(directory)
    law = fit_frame(frame, form=form, samples=samples, seed=seed)
    if out is not None:
        save_fit(law, out, frame)
    if as_json:
        print_json(law.to_dict())
    else:
        _print_fit(law, dict(frame["provenance"].value_counts()), out, model, hardware)


def _print_fit(
    law: Fit, provenances: dict[Any, int], out: Path | None, model: str | None, hardware: str | None
) -> None:
    console_ = console()
    console_.print(provenance_line({str(k): int(v) for k, v in provenances.items()}))
    rows = [
        (
            pair.model_id,
            pair.hardware,
            str(pair.n_rows),
            f"{sum(p.identifiable for p in pair.parameters)} of {len(pair.parameters)}",
            percent(pair.mape),
        )
        for pair in law.pairs
    ]
    console_.print(
        table(
            [("model", "<"), ("hardware", "<"), "rows", "identified", "MAPE"],
            rows,
            title=f"Law {law.form}: {len(rows)} pairs (MAPE: each row left out in turn)",
        )
    )
    chosen = [
        pair
        for pair in law.pairs
        if (model is None or pair.model_id == model)
        and (hardware is None or pair.hardware == hardware)
    ]
    if not chosen:
        from harness.errors import FitError

        raise FitError(
            "the fit holds no such pair",
            where=f"--model {model} --hardware {hardware}",
            fix="take both names from the table above",
        )
    shown = chosen if model or hardware else chosen[:1]
    for pair in shown:
        _print_pair(console_, law, pair)
    if len(law.pairs) > len(shown):
        console_.print("[dim]Another pair: --model M --hardware H. All of them: --json.[/]")
    for note in law.notes:
        console_.print(f"- {note}", markup=False)
    if out is not None:
        console_.print(f"Written: {out}", markup=False)


def _print_pair(out: Console, law: Fit, pair: Any) -> None:
    out.print()
    out.print(law.formula(pair.model_id, pair.hardware), markup=False, soft_wrap=True)
    rows = [
        (
            p.name,
            coefficient(p.value),
            f"{coefficient(p.lo)} to {coefficient(p.hi)}" if p.identifiable else "not identifiable",
            p.unit,
        )
        for p in pair.parameters
    ]
    out.print(table([("parameter", "<"), "value", "95 % interval", ("unit", "<")], rows))
    for note in pair.notes:
        out.print(f"- {note}", markup=False)


def evaluate(
    directory: RunArgument,
    samples: Annotated[
        str, typer.Option(metavar="N,...", help="Rows each method may learn from, per pair.")
    ] = "50",
    classes: Annotated[str, typer.Option(metavar="S1,...", help="Scenario classes.")] = "S1,S2,S3",
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Methods; default: all.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of random draws.")] = 1,
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
        methods=comma_list(methods) or None,
        seeds=seeds,
    )
    if as_json:
        print_json({k: v for k, v in result.to_dict().items() if k != "predictions"})
    else:
        _print_evaluation(plain(result.to_dict()), result.saved_to)


def _print_evaluation(result: dict[str, Any], saved_to: Path | None) -> None:
    out = console()
    from energylens.evaluation import SERVING, is_ours

    out.print(provenance_line(result["provenance"]))
    overall = [row for row in result["scores"] if row["group_kind"] == "all"]
    pooled = any(row["method"] == SERVING for row in overall)
    for name in dict.fromkeys(row["scenario_class"] for row in overall):
        for budget in dict.fromkeys(row["samples"] for row in overall):
            rows = [
                row for row in overall if row["scenario_class"] == name and row["samples"] == budget
            ]
            if not rows:
                continue
            rows.sort(key=lambda row: -(row["top1"] or 0.0))
            out.print(
                table(
                    [("method", "<"), "Top-1", "95 % interval", "within 1 %", "regret", "MAPE"],
                    [_score_cells(row) for row in rows],
                    title=f"{name}: {(POOLED if pooled else CLASSES).get(name, '')}\n"
                    f"{count(rows[0]['scenarios'])} scenarios, {budget} rows to learn from",
                    highlight=next(
                        (i for i, row in enumerate(rows) if is_ours(row["method"])), None
                    ),
                )
            )
    for note in result["notes"]:
        out.print(f"- {note}", markup=False)
    split = result.get("divergence")
    if split:
        out.print(
            f"- the fastest configuration is not the one that uses least in "
            f"{percent(split['share'])} of scenarios; there it uses "
            f"{percent(split['mean_penalty'])} more on average, {percent(split['max_penalty'])} "
            "at most"
        )
    out.print(f"[dim]computed in {duration(result['seconds'])}[/]")
    if saved_to is not None:
        out.print(f"Written: {saved_to}", markup=False)


def _score_cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["method"],
        percent(row["top1"]),
        f"{percent(row['top1_lo'])[:-2]} to {percent(row['top1_hi'])}",
        percent(row["top1_within_1pct"]),
        percent(row["mean_regret"]),
        percent(row["mape"]),
    )
