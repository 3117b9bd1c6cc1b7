"""The Python face: load, fit, load_fit, recommend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

    from energylens.recommendation import Recommendation
    from fitting import Fit
    from fitting.facts import Facts

__all__ = ["fit", "load", "load_fit", "recommend"]


def load(path: str | Path) -> pd.DataFrame:
    """Read the measurements of a run folder.

    Parameters
    ----------
    path
        A run folder, as `energylens run` or `energylens import` writes it.

    Returns
    -------
    pandas.DataFrame
        The measurement table, one row a task, SI units in the column names; flagged rows
        (`valid` false) included.

    Raises
    ------
    StoreError
        When there is no run folder at `path`, or a file of it is torn.
    """
    from harness.store import read_measurements

    return read_measurements(Path(path))


def fit(
    data: pd.DataFrame | str | Path,
    *,
    form: str = "energylens12",
    samples: int | None = None,
    seed: int = 0,
    pooled: bool | Literal["auto"] = "auto",
    intervals: str = "covariance",
) -> Fit:
    """Fit one energy law, with parameters for each (model, hardware) pair, and pooled laws.

    Pooled laws are shared over models and GPU types; they answer for what was not measured and
    for pairs with few rows. Datasheets and architectures come from the packaged catalog.

    Parameters
    ----------
    data
        A measurement table, or the run folder to read it from.
    form
        Name of the closed form.
    samples
        Rows drawn at random for each pair; all valid rows if None.
    seed
        Of that draw, and of bootstrap intervals.
    pooled
        Whether to fit pooled laws; `auto`: where they can be fitted, with a note elsewhere.
    intervals
        How 95 % intervals of parameters are found: `covariance`, `profile` or `bootstrap`.

    Raises
    ------
    FitError
        When no law can be fitted, or a pair has few rows and no pooled law covers it.
    """
    from energylens.facts import facts_for
    from fitting import fit_frame

    frame = load(data) if isinstance(data, str | Path) else data
    return with_catalog(
        fit_frame(
            frame,
            form=form,
            samples=samples,
            seed=seed,
            facts=facts_for(frame),
            pooled=pooled,
            intervals=intervals,
        )
    )


def load_fit(path: str | Path) -> Fit:
    """Read a fit that `Fit.save` or `energylens fit --out` wrote.

    Returns
    -------
    Fit
        With `predict(frame)` (joules, in row order), `predict_phases(frame)`,
        `formula(model_id, hardware)` and `to_dict()`. Pooled laws answer for every model and
        GPU type of the catalog.

    Raises
    ------
    FitError
        When the file is missing, damaged, or of an unknown version.
    """
    from fitting import load_fit as read

    return with_catalog(read(Path(path)))


def with_catalog(law: Fit) -> Fit:
    """Let pooled laws look up new models and GPU types in the packaged catalog."""
    law.facts_source = _catalog_facts
    return law


def _catalog_facts(frame: pd.DataFrame) -> Facts:
    """Return the facts of the names of a table; a prediction asks for the same ones repeatedly."""
    names = (frame[c].dropna().astype(str).unique() for c in ("model_id", "hardware"))
    return _facts_of(*(tuple(sorted(found)) for found in names))


@lru_cache(maxsize=64)
def _facts_of(models: tuple[str, ...], hardware: tuple[str, ...]) -> Facts:
    import pandas as pd

    from energylens.facts import facts_for

    columns = {"model_id": models, "hardware": hardware}
    return facts_for(pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in columns.items()}))


def recommend(
    law: Fit | str | Path,
    *,
    model: str,
    batch: int | Sequence[int],
    input_tokens: int,
    output_tokens: int,
    modality: str = "text",
    visual_tokens: int = 0,
    images: int = 0,
    frames: int = 0,
    hardware: Sequence[str] = (),
    precision: Sequence[str] = (),
    max_gpus: int | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    run: pd.DataFrame | str | Path | None = None,
) -> Recommendation:
    """Find the configuration that serves a workload with the least energy.

    Parameters
    ----------
    law
        A fit, or the file it lies in.
    model
        Model id, as in the fit.
    batch
        Batch size, or the sizes to choose from.
    input_tokens, output_tokens
        Tokens of one request; visual tokens are part of the input.
    modality, visual_tokens, images, frames
        The visual part of one request.
    hardware, precision
        What may be chosen; all that the fit holds if empty.
    max_gpus, ttft_s, tpot_s
        Limits: GPUs of the deployment, seconds to the first token, seconds per further one.
    run
        Measurements (or their run folder) for candidates and latencies; if `law` is a file,
        the folder it lies in is tried when None.

    Returns
    -------
    Recommendation
        With `met` false where no candidate meets the limits.

    Examples
    --------
    >>> import energylens  # doctest: +SKIP
    >>> answer = energylens.recommend(
    ...     "runs/quickstart/fit.json",
    ...     model="Qwen/Qwen3-32B",
    ...     batch=8,
    ...     input_tokens=1024,
    ...     output_tokens=256,
    ...     tpot_s=0.03,
    ... )  # doctest: +SKIP
    >>> answer.best.parallelism, answer.command  # doctest: +SKIP
    """
    from energylens.recommendation import Limits, Request
    from energylens.recommendation import recommend as choose

    measurements = load(run) if isinstance(run, str | Path) else run
    if isinstance(law, str | Path):
        if measurements is None:
            measurements = run_beside(Path(law))
        law = load_fit(law)
    request = Request(
        model_id=model,
        batch=(batch,) if isinstance(batch, int) else tuple(batch),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        modality=modality,
        visual_tokens=visual_tokens,
        images=images,
        frames=frames,
        hardware=tuple(hardware),
        precision=tuple(precision),
        limits=Limits(max_gpus=max_gpus, ttft_s=ttft_s, tpot_s=tpot_s),
    )
    return choose(law, request, measurements)


def run_beside(fit_path: Path) -> pd.DataFrame | None:
    """Read the run folder that a fit file lies in, if it lies in one."""
    if not (fit_path.parent / "manifest.json").is_file():
        return None
    return load(fit_path.parent)
