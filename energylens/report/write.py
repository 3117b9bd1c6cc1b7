"""Gather what a report needs, reuse what is already computed, write the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energylens.evaluation import evaluate_run, saved_evaluation
from energylens.fitfile import is_of
from energylens.htmlpage import write
from harness.errors import EnergyLensError, StoreError

if TYPE_CHECKING:
    import pandas as pd

    from fitting import Fit

FIT_FILE = "fit.json"
REPORT_FILE = "report.html"
SAMPLES = 50


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """Where a report went and what it was made from.

    Attributes
    ----------
    fit_source, evaluation_source
        Whether the law and its scores were read from files or computed, in words.
    """

    path: Path
    size_bytes: int
    fit_source: str
    evaluation_source: str


@dataclass(frozen=True, slots=True)
class Material:
    """Everything a report is made from.

    Attributes
    ----------
    law, law_missing
        The fit, or the reason why there is none.
    evaluation, evaluation_missing
        What `evaluate_run` gives, or the reason why there is nothing.
    """

    directory: Path
    manifest: dict[str, Any]
    events: list[dict[str, Any]]
    frame: pd.DataFrame
    law: Fit | None
    law_missing: str | None
    evaluation: dict[str, Any] | None
    evaluation_missing: str | None


def write_report(
    directory: Path, *, out: Path | None = None, fit_path: Path | None = None
) -> WrittenReport:
    """Write the report of a run folder.

    Parameters
    ----------
    directory
        The run folder.
    out
        The page; `DIR/report.html` if None.
    fit_path
        A fit to show; if None `DIR/fit.json`, where it was made from these measurements, else
        a new fit to `SAMPLES` rows of every pair.

    Raises
    ------
    StoreError
        When there is no run folder, it has no rows, or the page cannot be written.
    """
    from energylens.report.page import render

    material, fit_source, evaluation_source = gather(directory, fit_path)
    from harness.store import local_folder

    path = out or local_folder(directory) / REPORT_FILE
    html = render(material)
    write(html, path, what="report", option="--out")
    return WrittenReport(path, path.stat().st_size, fit_source, evaluation_source)


def gather(directory: Path, fit_path: Path | None = None) -> tuple[Material, str, str]:
    """Read the run; read or compute its law and its evaluation."""
    from harness.store import RunFolder, read_measurements

    folder = RunFolder.open(directory)
    frame = read_measurements(folder)
    if frame.empty:
        raise StoreError(
            "the run has no measurements yet",
            where=str(directory),
            fix="run or import something into it first",
        )
    law, law_text = _law(directory, frame, fit_path)
    evaluation, evaluation_text = _evaluation(directory, frame)
    material = Material(
        directory=directory,
        manifest=dict(folder.manifest),
        events=list(folder.events()),
        frame=frame,
        law=law,
        law_missing=None if law is not None else law_text,
        evaluation=evaluation,
        evaluation_missing=None if evaluation is not None else evaluation_text,
    )
    return material, f"law: {law_text}", f"evaluation: {evaluation_text}"


def _law(directory: Path, frame: pd.DataFrame, given: Path | None) -> tuple[Fit | None, str]:
    from fitting import fit_frame, load_fit
    from harness.store import local_folder

    beside = local_folder(directory) / FIT_FILE
    if given is not None:
        law, text = load_fit(given), f"read from {given}"
    elif is_of(beside, frame):
        law, text = load_fit(beside), f"read from {beside.name}"
    else:
        try:
            law = fit_frame(frame, samples=SAMPLES, pooled=False)
        except EnergyLensError as error:
            return None, error.what
        text = f"fitted now, {SAMPLES} rows a pair"
    if not law.pairs:
        names = ", ".join(pooled.name for pooled in law.pooled)
        return None, f"only pooled laws ({names}), none of one model on one GPU type ({text})"
    return law, text


def _evaluation(directory: Path, frame: pd.DataFrame) -> tuple[dict[str, Any] | None, str]:
    saved = saved_evaluation(directory, frame)
    if saved is not None:
        return saved, "read from evaluation.json"
    try:
        return evaluate_run(directory, frame=frame).to_dict(), "computed now"
    except EnergyLensError as error:
        return None, error.what
