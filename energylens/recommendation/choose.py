"""Rank candidate configurations by predicted energy and say how sure the ranking is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from energylens.recommendation.request import Limits, Request
from energylens.recommendation.result import Choice, Recommendation
from energylens.recommendation.unseen import BATCH_LAW
from harness.errors import FitError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from fitting import Fit, PairFit

DRAWS = 4000
_Z95 = 1.959964


def recommend(
    fit: Fit, request: Request, measurements: pd.DataFrame | None = None, *, seed: int = 0
) -> Recommendation:
    """Find the configuration that uses least energy for a workload under limits.

    Parameters
    ----------
    fit
        Laws of the (model, hardware) pairs that may be chosen.
    request
        Workload, limits, and what may be chosen.
    measurements
        Measurement table of the run: candidates and latencies come from it. Without it
        candidates come from the domain of the fit and no latency is known.
    seed
        Of the Monte Carlo draws.

    Raises
    ------
    FitError
        When the fit knows no such model or hardware, when nothing fits in memory, or when
        a latency limit is asked for and no latency is known at all.
    """
    from energylens.recommendation.candidates import candidate_frame
    from energylens.recommendation.latency import latency_table

    asked, notes = candidate_frame(fit, request, measurements)
    phases = fit.predict_phases(asked)
    latencies = latency_table(asked, measurements)
    if request.limits.on_latency and latencies["latency_source"].eq("unknown").all():
        raise FitError(
            "a latency limit was given, but no latency of this model is known",
            where=f"--model {request.model_id}",
            fix="point --run at a run folder that measured latencies of this model",
        )
    laws = fit.law_names(asked)
    if BATCH_LAW in laws:
        notes = [*notes, _pooled_note(request.model_id, asked["hardware"], laws)]
    choices = _choices(asked, phases, latencies, fit.extrapolated(asked), request.limits)
    meeting = [i for i, choice in enumerate(choices) if not choice.over_limits]
    provenance = _provenance(fit, request, measurements)
    if not meeting:
        return _unmet(request, choices, provenance, notes)

    score = np.array([choices[i].energy_per_output_token_j for i in meeting])
    wins, regret_bound = _monte_carlo(fit, asked.iloc[meeting], phases.iloc[meeting], score, seed)
    for index, share in zip(meeting, wins, strict=True):
        choices[index] = replace(choices[index], probability_best=float(share))
    ranked = sorted(
        choices, key=lambda c: (bool(c.over_limits), c.energy_per_output_token_j, c.num_gpus)
    )
    best = ranked[0]
    timed = [c for c in ranked[: len(meeting)] if c.total_latency_s is not None]
    # `ranked` is by energy, so of equally fast candidates the thriftier one is named.
    fastest = min(timed, key=lambda c: c.total_latency_s or 0.0) if timed else None
    return Recommendation(
        request=request,
        met=True,
        best=best,
        runner_up=ranked[1] if len(meeting) > 1 else None,
        regret_bound=regret_bound,
        fastest=fastest,
        latency_penalty=(
            fastest.energy_per_output_token_j / best.energy_per_output_token_j - 1
            if fastest
            else None
        ),
        binding_limit=None,
        nearest_miss=None,
        candidates=tuple(ranked),
        provenance=provenance,
        notes=(*notes, *_notes(best, choices, request)),
    )


def _choices(
    asked: pd.DataFrame,
    phases: pd.DataFrame,
    latencies: pd.DataFrame,
    extrapolated: NDArray[np.bool_],
    limits: Limits,
) -> list[Choice]:
    rows = asked.reset_index(drop=True).to_dict("records")
    energies = phases.reset_index(drop=True).to_dict("records")
    times = latencies.reset_index(drop=True).to_dict("records")
    choices = []
    for row, energy, time, outside in zip(rows, energies, times, extrapolated, strict=True):
        known = {
            name: None if time[name] != time[name] else float(time[name])
            for name in ("ttft_s", "tpot_s", "total_latency_s", "latency_error")
        }
        choices.append(
            Choice(
                hardware=str(row["hardware"]),
                num_gpus=int(row["num_gpus"]),
                tensor_parallel=int(row["tensor_parallel"]),
                pipeline_parallel=int(row["pipeline_parallel"]),
                expert_parallel=int(row["expert_parallel"]),
                data_parallel=int(row["data_parallel"]),
                precision=str(row["precision"]),
                batch=int(row["batch"]),
                total_energy_j=float(energy["total_energy_j"]),
                total_energy_lo_j=float(energy["total_energy_j_lo"]),
                total_energy_hi_j=float(energy["total_energy_j_hi"]),
                prefill_energy_j=float(energy["prefill_energy_j"]),
                decode_energy_j=float(energy["decode_energy_j"]),
                energy_per_output_token_j=float(energy["total_energy_j"])
                / (int(row["batch"]) * int(row["output_tokens"])),
                ttft_s=known["ttft_s"],
                tpot_s=known["tpot_s"],
                total_latency_s=known["total_latency_s"],
                latency_source=str(time["latency_source"]),
                latency_error=known["latency_error"],
                extrapolated=bool(outside),
                over_limits=_over(limits, int(row["num_gpus"]), known["ttft_s"], known["tpot_s"]),
            )
        )
    return choices


def _over(
    limits: Limits, gpus: int, ttft_s: float | None, tpot_s: float | None
) -> dict[str, float]:
    """Return value / limit of every limit that is broken; an unknown latency breaks its limit."""
    over = {}
    for name, limit, value in (
        ("max_gpus", limits.max_gpus, float(gpus)),
        ("ttft", limits.ttft_s, ttft_s),
        ("tpot", limits.tpot_s, tpot_s),
    ):
        if limit is None:
            continue
        ratio = float("inf") if value is None else value / limit
        if ratio > 1:
            over[name] = ratio
    return over


def _monte_carlo(
    fit: Fit, asked: pd.DataFrame, phases: pd.DataFrame, score: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], float]:
    """Return each candidate's probability of being best and the regret bound of the first.

    Errors are relative and normal. The error of the parameters is drawn from their
    covariance, so candidates of one law share it as they do in truth: what moves all of them
    alike does not change the ranking. The rest of each 95 % interval, the scatter of rows
    about the law, is drawn for every candidate on its own.
    """
    rng = np.random.default_rng(seed)
    errors = np.zeros((DRAWS, len(asked)))
    half = (phases["total_energy_j_hi"] / phases["total_energy_j"] - 1).to_numpy(dtype=np.float64)
    known = {(pair.model_id, pair.hardware): pair for pair in fit.pairs}
    pooled: list[int] = []
    for hardware, rows in asked.groupby("hardware").indices.items():
        pair = known.get((str(asked["model_id"].iloc[0]), str(hardware)))
        if pair is None:
            pooled.extend(rows)
            continue
        shared, spread = _relative_errors(pair, asked.iloc[rows], half[rows])
        errors[:, rows] = rng.standard_normal((DRAWS, shared.shape[0])) @ shared
        errors[:, rows] += rng.standard_normal((DRAWS, len(rows))) * spread
    if pooled:
        # One draw for all of them: GPU types share what is not known of a model, too.
        shared, spread = _pooled_errors(fit, asked.iloc[pooled], half[pooled])
        errors[:, pooled] = rng.standard_normal((DRAWS, shared.shape[0])) @ shared
        errors[:, pooled] += rng.standard_normal((DRAWS, len(pooled))) * spread
    drawn = np.log(score) + errors
    wins = np.bincount(drawn.argmin(axis=1), minlength=len(score)) / DRAWS
    regret = np.exp(drawn[:, int(score.argmin())] - drawn.min(axis=1)) - 1
    return wins, float(np.quantile(regret, 0.95))


def _pooled_errors(
    fit: Fit, rows: pd.DataFrame, half: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split the errors of rows of a pooled law into a shared part (factors x rows) and one's own.

    A law that does not say what its rows share gets errors that are all their own, so that the
    chance of being best is rather too low.
    """
    from energylens.facts import facts_for
    from fitting.pooling import PooledLaw

    sigma = np.log1p(half) / _Z95
    law = next((law for law in fit.pooled if law.name == BATCH_LAW), None)
    if not isinstance(law, PooledLaw):
        return np.zeros((0, len(rows))), sigma
    shared, own = law.errors(rows, facts_for(rows).joined(fit.facts))
    stretch = sigma / np.sqrt((shared**2).sum(axis=1) + own**2)
    return (shared * stretch[:, None]).T, own * stretch


def _relative_errors(
    pair: PairFit, rows: pd.DataFrame, half: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split relative 95 % half widths into a shared part (factors x rows) and one's own."""
    from fitting.pairfit import gradient

    energies, gradients = gradient(pair, rows)
    energy = energies["prefill"] + energies["decode"]
    relative = (gradients["prefill"] + gradients["decode"]) / energy[:, None]
    values, vectors = np.linalg.eigh(pair.covariance)
    shared = np.sqrt(np.maximum(values, 0.0))[:, None] * (vectors.T @ relative.T)
    parameter_variance = (shared**2).sum(axis=0)
    sigma = half / _Z95
    # An interval that was widened outside the domain is widened in both of its parts.
    stretch = half / np.sqrt(pair.spread["total"] ** 2 + _Z95**2 * parameter_variance)
    shared = shared * stretch
    own = np.sqrt(np.maximum(sigma**2 - (shared**2).sum(axis=0), 0.0))
    return shared, own


def _unmet(
    request: Request, choices: list[Choice], provenance: str, notes: Sequence[str]
) -> Recommendation:
    """Name the limit that binds: the worst one of the candidate that comes nearest."""
    nearest = min(choices, key=lambda c: (max(c.over_limits.values()), c.energy_per_output_token_j))
    binding = max(nearest.over_limits, key=lambda name: nearest.over_limits[name])
    return Recommendation(
        request=request,
        met=False,
        best=None,
        runner_up=None,
        regret_bound=None,
        fastest=None,
        latency_penalty=None,
        binding_limit=binding,
        nearest_miss=nearest,
        candidates=tuple(sorted(choices, key=lambda c: max(c.over_limits.values()))),
        provenance=provenance,
        notes=tuple(notes),
    )


def _provenance(fit: Fit, request: Request, measurements: pd.DataFrame | None) -> str:
    pairs = [pair for pair in fit.pairs if pair.model_id == request.model_id]
    names = {str(name) for pair in pairs for name in pair.provenance}
    if not names:
        names = {str(name) for law in fit.pooled for name in law.provenance}
    if measurements is not None and "provenance" in measurements.columns:
        rows = measurements[measurements["model_id"].eq(request.model_id)]
        names |= set(rows["provenance"].dropna().astype(str))
    return ", ".join(sorted(names)) or "unknown"


def _pooled_note(model_id: str, hardware: pd.Series, laws: Sequence[str]) -> str:
    """Say for which GPU types a law of other models and GPU types stands in."""
    kinds = sorted({str(h) for h, law in zip(hardware, laws, strict=True) if law == BATCH_LAW})
    return (
        f"{model_id} has no law of its own on {', '.join(kinds)}: the pooled law answers, from "
        "datasheets and other rows; measure a few configurations before relying on it"
    )


def _notes(best: Choice, choices: Sequence[Choice], request: Request) -> list[str]:
    notes = []
    if best.extrapolated:
        notes.append(
            "extrapolated: this configuration lies outside what the law was fitted on; "
            "its interval is wider"
        )
    if best.precision in ("fp8", "int8", "int4", "nvfp4", "mxfp4"):
        notes.append(
            f"{best.precision} can change the model's answers: check its quality for your use, "
            "or choose with --precision"
        )
    unknown = sum(c.latency_source == "unknown" for c in choices)
    if unknown and request.limits.on_latency:
        notes.append(f"{unknown} candidates were left out: their latency is not known")
    if best.latency_source == "interpolated":
        error = best.latency_error or 0.0
        notes.append(
            f"latencies are interpolated from other workloads of this deployment "
            f"(90 % of held-out rows err less than {100 * error:.0f} %)"
        )
        for name, limit, value in (
            ("TTFT", request.limits.ttft_s, best.ttft_s),
            ("time per output token", request.limits.tpot_s, best.tpot_s),
        ):
            if limit is not None and value is not None and value * (1 + error) > limit:
                notes.append(f"{name} is within that error of its limit: measure before relying")
    return notes
