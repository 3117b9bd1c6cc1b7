"""Latency of a candidate, from the latencies that the run measured.

A FIT holds energy only, so limits on latency are checked against the run folder:

1. exact match: rows of the same model, deployment and workload; their median;
2. else interpolation, per (model, deployment), from its other workloads, with three
   non-negative coefficients each, fitted to relative residuals:

       TTFT = r (a0 + a1 b n + a2 b n^2)          r = 1 + (k - 1) / p
       TPOT = q (c0 + c1 b + c2 b (n + m / 2))    q = max(1, k / p)

   n, m: input and output tokens; p: pipeline stages; the batch B goes through them in
   k = ceil(B / b) micro-batches of b = ceil(B / p) requests. The terms are launch,
   matrix work, attention; weight reads, per-token work, KV-cache reads.

The terms are those of the work itself, so that a few rows a deployment are enough and
small batches do not bend the law as they bend a straight line through logarithms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

DEPLOYMENT = (
    "hardware",
    "tensor_parallel",
    "pipeline_parallel",
    "expert_parallel",
    "data_parallel",
    "precision",
)
WORKLOAD = ("modality", "batch", "input_tokens", "output_tokens", "visual_tokens")
SMALLEST_SAMPLE = 5


def _work(frame: pd.DataFrame) -> tuple[NDArray[np.float64], ...]:
    batch = frame["batch"].to_numpy(dtype=np.float64)
    stages = frame["pipeline_parallel"].to_numpy(dtype=np.float64)
    micro = np.ceil(batch / stages)
    waves = np.ceil(batch / micro)
    return (
        micro,
        waves,
        stages,
        frame["input_tokens"].to_numpy(dtype=np.float64),
        frame["output_tokens"].to_numpy(dtype=np.float64),
    )


def _ttft_terms(frame: pd.DataFrame) -> NDArray[np.float64]:
    b, k, p, n, _ = _work(frame)
    r = 1 + (k - 1) / p
    return np.column_stack([r, r * b * n, r * b * n * n])


def _tpot_terms(frame: pd.DataFrame) -> NDArray[np.float64]:
    b, k, p, n, m = _work(frame)
    q = np.maximum(1.0, k / p)
    return np.column_stack([q, q * b, q * b * (n + m / 2)])


def _solve(terms: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative coefficients that minimise the squared relative residuals."""
    from scipy.optimize import nnls

    relative = terms / seconds[:, None]
    norm = np.linalg.norm(relative, axis=0)
    norm[norm == 0] = 1.0
    coefficients, _ = nnls(relative / norm, np.ones(len(seconds)))
    return np.asarray(coefficients / norm, dtype=np.float64)


def _interpolate(
    terms: NDArray[np.float64], seconds: NDArray[np.float64], asked: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return seconds for the asked rows and the 90th percentile of relative held-out error."""
    folds = np.arange(len(seconds)) % min(5, len(seconds))
    errors = np.empty(len(seconds))
    for fold in np.unique(folds):
        out = folds == fold
        coefficients = _solve(terms[~out], seconds[~out])
        errors[out] = np.abs(terms[out] @ coefficients / seconds[out] - 1)
    return asked @ _solve(terms, seconds), float(np.quantile(errors, 0.9))


def latency_table(asked: pd.DataFrame, measurements: pd.DataFrame | None) -> pd.DataFrame:
    """Find the latencies of candidates in a run's measurements.

    Parameters
    ----------
    asked
        One row a candidate: `DEPLOYMENT` and `WORKLOAD` columns, and model_id.
    measurements
        Measurement table of the run, or None where there is none.

    Returns
    -------
    pandas.DataFrame
        In row order of `asked`: ttft_s, tpot_s, total_latency_s (null where unknown),
        latency_source (`run`: found there, `interpolated` or `unknown`), latency_error (relative,
        90th percentile of held-out rows; 0 for those of the run).
    """
    import pandas as pd

    result = pd.DataFrame(
        {
            "ttft_s": np.nan,
            "tpot_s": np.nan,
            "total_latency_s": np.nan,
            "latency_source": "unknown",
            "latency_error": np.nan,
        },
        index=asked.index,
    )
    if measurements is None or "ttft_s" not in measurements.columns:
        return result
    known = _with_tpot(measurements[measurements["model_id"].isin(asked["model_id"].unique())])
    for key, rows in asked.groupby([*DEPLOYMENT, "model_id"], sort=False):
        wanted = dict(zip([*DEPLOYMENT, "model_id"], key, strict=True))
        mine = known[_matches(known, wanted)]
        for index in rows.index:
            exact = mine[_matches(mine, {name: asked.at[index, name] for name in WORKLOAD})]
            if exact["ttft_s"].notna().any() and exact["tpot_s"].notna().any():
                for name in ("ttft_s", "tpot_s", "total_latency_s"):
                    result.loc[index, name] = exact[name].median()
                result.loc[index, "latency_source"] = "run"
                result.loc[index, "latency_error"] = 0.0
        open_rows = rows[result.loc[rows.index, "latency_source"].eq("unknown")]
        if len(open_rows):
            _fill(result, open_rows, mine)
    return result


def _with_tpot(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return rows with known workload, and time per output token from ITL or decode time."""
    known = measurements.copy()
    if "valid" in known.columns:
        known = known[known["valid"].fillna(True).astype(bool)]
    tpot = known["itl_s"].astype("float64") if "itl_s" in known.columns else np.nan
    if "decode_latency_s" in known.columns:
        steps = (known["output_tokens"].astype("float64") - 1).where(lambda x: x > 0)
        decode = known["decode_latency_s"].astype("float64") / steps
        tpot = decode if not hasattr(tpot, "fillna") else tpot.fillna(decode)
    known["tpot_s"] = tpot
    if "total_latency_s" not in known.columns:
        known["total_latency_s"] = np.nan
    return known


def _matches(frame: pd.DataFrame, wanted: dict[str, Any]) -> pd.Series:
    import pandas as pd

    hit = pd.Series(True, index=frame.index)
    for name, value in wanted.items():
        if name in frame.columns:
            hit &= frame[name].eq(value).fillna(False).astype(bool)
    return hit


def _fill(result: pd.DataFrame, asked: pd.DataFrame, mine: pd.DataFrame) -> None:
    """Interpolate TTFT and TPOT of one deployment into `result`, where rows suffice."""
    import pandas as pd

    worst = 0.0
    for name, terms in (("ttft_s", _ttft_terms), ("tpot_s", _tpot_terms)):
        usable = mine[
            mine[[name, "batch", "input_tokens", "output_tokens"]].notna().all(axis=1)
            & pd.to_numeric(mine[name]).gt(0)
        ]
        if len(usable) < SMALLEST_SAMPLE:
            return
        seconds, error = _interpolate(
            terms(usable), usable[name].to_numpy(dtype=np.float64), terms(asked)
        )
        result.loc[asked.index, name] = seconds
        worst = max(worst, error)
    result.loc[asked.index, "total_latency_s"] = (
        result.loc[asked.index, "ttft_s"]
        + (asked["output_tokens"].astype("float64") - 1) * result.loc[asked.index, "tpot_s"]
    )
    result.loc[asked.index, "latency_source"] = "interpolated"
    result.loc[asked.index, "latency_error"] = worst
