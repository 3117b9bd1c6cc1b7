"""`fit`: from measurements to laws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from energylens.cli.options import JsonOption, RunArgument
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.rowkinds import origins
from energylens.units import coefficient, percent

if TYPE_CHECKING:
    from rich.console import Console

    from fitting import Fit, PairFit


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
    form: Annotated[
        str, typer.Option(help="Name of the closed form, or auto: by the number of rows.")
    ] = "energylens12",
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the bootstrap.")] = 0,
    intervals: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Intervals of parameters: covariance, profile or bootstrap."
        ),
    ] = "covariance",
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled/--no-pooled",
            help="Also laws shared over models and GPU types, for what was not measured.",
        ),
    ] = True,
    model: Annotated[
        str | None, typer.Option(help="Print the law of this model.", show_default=False)
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Print the law on this hardware.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit energy laws: parameters for each (model, hardware), and pooled laws for the rest."""
    from energylens.api import fit as fit_laws
    from energylens.fitfile import save_fit
    from harness.store import read_measurements

    frame = read_measurements(directory)
    law = fit_laws(
        frame,
        form=form,
        samples=samples,
        seed=seed,
        intervals=intervals,
        pooled="auto" if pooled else False,
    )
    if out is not None:
        save_fit(law, out, frame)
    if as_json:
        print_json(law.to_dict())
    else:
        _print_fit(law, origins(frame), out, model, hardware)


def _print_fit(
    law: Fit, provenances: dict[Any, int], out: Path | None, model: str | None, hardware: str | None
) -> None:
    console_ = console()
    console_.print(provenance_line({str(k): int(v) for k, v in provenances.items()}))
    if law.pairs:
        _print_pairs(console_, law)
    chosen = [pair for pair in law.pairs if _named(pair, model, hardware)]
    shown = chosen if model or hardware else chosen[:1]
    if not shown and (model or hardware):
        _print_shared(console_, law, model, hardware)
    for pair in shown:
        _print_pair(console_, law, pair)
    if len(law.pairs) > len(shown):
        console_.print("[dim]Another pair: --model M --hardware H. All of them: --json.[/]")
    if not (model or hardware):
        _print_pooled(console_, law)
    for note in law.notes:
        console_.print(f"- {note}", markup=False)
    if out is not None:
        console_.print(f"Written: {out}", markup=False)


def _named(pair: Any, model: str | None, hardware: str | None) -> bool:
    return (model is None or pair.model_id == model) and (
        hardware is None or pair.hardware == hardware
    )


def _print_pairs(out: Console, law: Fit) -> None:
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
    out.print(
        table(
            [("model", "<"), ("hardware", "<"), "rows", "identified", "MAPE"],
            rows,
            title=f"Law {law.form}: {len(rows)} pairs (MAPE: each row left out in turn)",
        )
    )


def _print_pair(out: Console, law: Fit, pair: PairFit) -> None:
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
    how = "" if pair.intervals == "covariance" else f" ({pair.intervals})"
    out.print(table([("parameter", "<"), "value", f"95 % interval{how}", ("unit", "<")], rows))
    if pair.identifiability is not None:
        for sentence in pair.identifiability.sentences():
            out.print(f"- {sentence}", markup=False)
    for note in pair.notes:
        out.print(f"- {note}", markup=False)


def _print_shared(out: Console, law: Fit, model: str | None, hardware: str | None) -> None:
    """Print what the pooled laws say of a pair that has no law of its own."""
    from harness.errors import FitError

    if model is not None and hardware is not None and law.pooled:
        out.print()
        out.print(f"{model} on {hardware} has no law of its own:", markup=False)
        out.print(law.formula(model, hardware), markup=False, soft_wrap=True)
        return
    raise FitError(
        "the fit holds no such pair",
        where=f"--model {model} --hardware {hardware}",
        fix="take both names from the table above"
        if law.pairs
        else "give both --model and --hardware, as in the measurements",
    )


def _print_pooled(out: Console, law: Fit) -> None:
    """Print the laws that are shared over models and GPU types."""
    for pooled in law.pooled:
        kinds = ", ".join(f"{n} {kind}" for kind, n in pooled.provenance.items())
        out.print()
        out.print(f"Pooled law {pooled.name}, {kinds} rows", markup=False)
        out.print(pooled.formula(), markup=False, soft_wrap=True)
    if law.pooled_pairs:
        models = len({p.model_id for p in law.pooled_pairs})
        kinds_of_gpu = len({p.hardware for p in law.pooled_pairs})
        out.print(
            f"{len(law.pooled_pairs)} pairs ({models} models, {kinds_of_gpu} GPU types) have no "
            "law of their own; the pooled law answers for them."
        )
