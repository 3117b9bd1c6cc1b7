"""`recommend`: the configuration that uses least, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from energylens.cli.group import EXIT_NO
from energylens.cli.options import JsonOption, comma_integers, comma_list
from energylens.cli.output import console, print_json, provenance_line, table
from energylens.units import duration, energy, interval, percent, probability

if TYPE_CHECKING:
    from energylens.recommendation import Choice, Recommendation

LISTED = 8


def recommend(
    fit: Annotated[
        Path, typer.Argument(metavar="FIT", help="A fit file (JSON).", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model id; default: the first in the fit.", show_default=False),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="N,...", help="Batch size, or sizes to choose from.", show_default=False
        ),
    ] = None,
    input_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Input tokens a request, visual included.", show_default=False),
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Output tokens a request.", show_default=False)
    ] = None,
    modality: Annotated[str, typer.Option(help="text, image or video.")] = "text",
    images: Annotated[int, typer.Option(min=0, help="Images a request.")] = 0,
    frames: Annotated[int, typer.Option(min=0, help="Video frames a request.")] = 0,
    image_height: Annotated[int, typer.Option(min=0, help="Pixels of an image or frame.")] = 0,
    image_width: Annotated[int, typer.Option(min=0, help="Pixels of an image or frame.")] = 0,
    visual_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Default: from images, frames, pixels.", show_default=False),
    ] = None,
    max_gpus: Annotated[
        int | None, typer.Option(min=1, help="Limit: GPUs of the deployment.", show_default=False)
    ] = None,
    ttft_ms: Annotated[
        float | None,
        typer.Option(
            "--ttft-ms", "--ttft", help="Limit: time to first token, ms.", show_default=False
        ),
    ] = None,
    tpot_ms: Annotated[
        float | None,
        typer.Option(
            "--tpot-ms", "--tpot", help="Limit: time per output token, ms.", show_default=False
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="GPU types to choose from.", show_default=False),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Precisions to choose from.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Run with the latencies; default: beside FIT.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the configuration that uses least energy under latency limits.

    Latencies come from the run folder: exact match where the workload was run, else
    interpolated from the other workloads of the same deployment; the answer says which.
    Exit code 1: no configuration meets the limits.
    """
    from energylens.api import load, load_fit, run_beside
    from energylens.recommendation import Limits, Request
    from energylens.recommendation import recommend as choose
    from energylens.recommendation.defaults import fill_request, visual_part

    law = load_fit(fit)
    measurements = load(run) if run is not None else run_beside(fit)
    asked, assumed = fill_request(
        law,
        measurements,
        model_id=model,
        batch=tuple(comma_integers(batch, "--batch")),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        modality=modality,
    )
    request = Request(
        **asked,
        modality=modality,
        visual_tokens=visual_part(
            asked["model_id"], visual_tokens, images, frames, image_height, image_width
        ),
        images=images,
        frames=frames,
        hardware=tuple(comma_list(hardware)),
        precision=tuple(comma_list(precision)),
        limits=Limits(
            max_gpus=max_gpus,
            ttft_s=None if ttft_ms is None else ttft_ms / 1e3,
            tpot_s=None if tpot_ms is None else tpot_ms / 1e3,
        ),
    )
    answer = choose(law, request, measurements)
    if as_json:
        print_json(answer.to_dict() | {"assumed": assumed})
    else:
        _print_question(answer, assumed)
        if answer.met:
            _print_answer(answer)
        else:
            _print_miss(answer)
    if not answer.met:
        raise typer.Exit(EXIT_NO)


def _print_question(answer: Recommendation, assumed: list[str]) -> None:
    request = answer.request
    out = console()
    batch = " or ".join(map(str, request.batch))
    out.print(
        f"[bold]{request.model_id}[/], batch {batch}, {request.input_tokens} input and "
        f"{request.output_tokens} output tokens"
    )
    if assumed:
        out.print(f"[dim]Not given, so taken from the run: {', '.join(assumed)}[/]")
    out.print(provenance_line(answer.provenance.split(", ")))


def _print_answer(answer: Recommendation) -> None:
    best = answer.best
    assert best is not None
    out = console()
    mark = " [yellow](extrapolated)[/]" if best.extrapolated else ""
    rows = [
        ("configuration", f"{_name(best)}, batch {best.batch}"),
        (
            "energy of the batch",
            f"{energy(best.total_energy_j)} "
            f"(95 %: {interval(best.total_energy_lo_j, best.total_energy_hi_j)})",
        ),
        ("energy per output token", energy(best.energy_per_output_token_j)),
        ("latency", _latency(best)),
        ("probability of being best", probability(best.probability_best)),
        (
            "regret bound",
            f"{percent(answer.regret_bound)} more than the true best, with 95 % probability",
        ),
    ]
    if answer.runner_up is not None:
        more = answer.runner_up.energy_per_output_token_j / best.energy_per_output_token_j - 1
        rows.append(("runner-up", f"{_name(answer.runner_up)}, {percent(more)} more energy"))
    if answer.fastest is not None:
        rows.append(("fastest", _fastest(answer)))
    out.print(f"\n[bold]Least energy[/]{mark}")
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        _labelled(label, text, width)
    _print_candidates(answer)
    for note in answer.notes:
        _labelled("note", note, 4)
    out.print("\n[bold]Serve it[/]")
    out.print(answer.command, markup=False, soft_wrap=True)
    from energylens.recommendation.command import checkpoint_note

    checkpoint = checkpoint_note(best.precision)
    if checkpoint:
        _labelled("note", checkpoint, 4)


def _labelled(label: str, text: str, width: int) -> None:
    """Print a label and a text that folds under itself, not under the label."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", width=width)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    console().print(grid)


def _name(choice: Choice) -> str:
    gpus = f"{choice.num_gpus} GPU" + ("s" if choice.num_gpus > 1 else "")
    return f"{choice.hardware} {choice.parallelism} {choice.precision} ({gpus})"


_LATENCY_SOURCES = {"run": "as in the run", "interpolated": "interpolated from the run"}


def _latency(choice: Choice) -> str:
    if choice.latency_source == "unknown":
        return "not known"
    text = f"TTFT {duration(choice.ttft_s)}, {duration(choice.tpot_s)} per output token"
    return f"{text} ({_LATENCY_SOURCES[choice.latency_source]})"


def _fastest(answer: Recommendation) -> str:
    assert answer.fastest is not None
    if answer.fastest == answer.best:
        return "the same configuration"
    return f"{_name(answer.fastest)}, {percent(answer.latency_penalty)} more energy"


def _chance(probability_best: float | None) -> str:
    """Probability of being best, in the few characters of a table cell."""
    if probability_best is None:
        return "–"  # noqa: RUF001
    share = 100 * probability_best
    return "< 1 %" if share < 1 else f"{share:.0f} %"


def _print_candidates(answer: Recommendation) -> None:
    several = len(answer.request.batch) > 1
    mixed = len({choice.precision for choice in answer.candidates}) > 1
    # A line holds 80 columns: the widths of the others are in --json.
    tight = several and mixed
    rows = []
    for choice in answer.candidates[:LISTED]:
        half = (choice.total_energy_hi_j - choice.total_energy_lo_j) / 2 / choice.total_energy_j
        rows.append(
            (
                choice.hardware,
                f"{choice.parallelism} {choice.precision}" if mixed else choice.parallelism,
                *((choice.batch,) if several else ()),
                energy(choice.energy_per_output_token_j if several else choice.total_energy_j),
                *(() if tight else (f"±{100 * half:.0f} %",)),
                duration(choice.ttft_s),
                duration(choice.tpot_s),
                "over" if choice.over_limits else _chance(choice.probability_best),
            )
        )
    out = console()
    left = len(answer.candidates) - len(rows)
    out.print(
        table(
            [
                ("hardware", "<"),
                ("layout", "<"),
                *(("batch",) if several else ()),
                "J/token" if several else "energy",
                *(() if tight else ("95 %",)),
                "TTFT",
                "TPOT",
                "best",
            ],
            rows,
            title="\nCandidates, least energy first" + (f" ({left} more: --json)" if left else ""),
            highlight=0 if answer.met else None,
        )
    )


_LIMITS = {
    "max_gpus": "--max-gpus",
    "ttft": "--ttft-ms (time to first token)",
    "tpot": "--tpot-ms (time per output token)",
}


def _print_miss(answer: Recommendation) -> None:
    nearest, limits = answer.nearest_miss, answer.request.limits
    assert nearest is not None
    assert answer.binding_limit is not None
    out = console()
    over = nearest.over_limits[answer.binding_limit]
    values = {
        "max_gpus": (str(nearest.num_gpus), str(limits.max_gpus)),
        "ttft": (duration(nearest.ttft_s), duration(limits.ttft_s)),
        "tpot": (duration(nearest.tpot_s), duration(limits.tpot_s)),
    }
    value, limit = values[answer.binding_limit]
    out.print("\n[bold red]No configuration meets the limits.[/]")
    _labelled("limit that binds", _LIMITS[answer.binding_limit], 16)
    _labelled(
        "nearest miss",
        f"{_name(nearest)}: {value} against {limit}, {percent(over - 1)} over; it would use "
        f"{energy(nearest.total_energy_j)}",
        16,
    )
    for note in answer.notes:
        _labelled("note", note, 16)
