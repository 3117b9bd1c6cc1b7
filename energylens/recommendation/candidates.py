"""Which configurations may be chosen: what the law was fitted on and what fits in memory."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from energylens.recommendation.latency import DEPLOYMENT
from energylens.recommendation.request import Request
from energylens.recommendation.unseen import (
    BATCH_LAW,
    check_laws,
    in_catalog,
    shares_batches,
    unseen_deployments,
)
from harness.errors import CatalogError, FitError

if TYPE_CHECKING:
    import pandas as pd

    from fitting import Fit
    from fitting.domain import Domain

# Share of the GPU memory that serving engines give to weights and cache (vLLM's default).
MEMORY_SHARE = 0.9
_MODEL_FACTS = (
    "family",
    "params_total",
    "params_active",
    "num_experts",
    "experts_per_token",
    "kv_bytes_per_token",
    "state_bytes_per_sequence",
)
_DEGREES = ("tensor_parallel", "pipeline_parallel", "expert_parallel", "data_parallel")


def candidate_frame(
    fit: Fit, request: Request, measurements: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[str]]:
    """List the candidates of a request as rows that the law can be asked about.

    Parameters
    ----------
    fit
        Its pairs say which hardware is known for the model.
    request
        What is asked.
    measurements
        The run behind the fit: deployments that were run are the candidates. None: the
        deployments inside the domain of the fit.

    Returns
    -------
    tuple
        Frame with model, deployment and workload columns, one row a candidate; and notes on
        what was left out.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    left_out = 0
    for hardware, domain in _targets(fit, request).items():
        mine = _rows_of(measurements, request.model_id, hardware, request.modality)
        facts = _model_facts(mine, measurements, request.model_id)
        if domain is None:
            deployments = unseen_deployments(fit, request, hardware)
        else:
            deployments = _deployments(mine) or _from_domain(domain, hardware)
        for deployment, batch in product(deployments, request.batch):
            if request.precision and deployment["precision"] not in request.precision:
                continue
            if not _fits(request, deployment, batch, mine):
                left_out += 1
                continue
            rows.append({**facts, **_workload(request, batch), **deployment})
    notes = [f"{left_out} deployments were left out: they do not fit in memory"] if left_out else []
    if not rows:
        raise FitError(
            "no configuration is left to choose from"
            + (": none fits in memory" if left_out else ""),
            where=f"--model {request.model_id}"
            + (f" --precision {','.join(request.precision)}" if request.precision else ""),
            fix="use a smaller batch or fewer tokens"
            if left_out
            else "drop a filter, such as --precision",
        )
    return pd.DataFrame(rows), notes


def check_model(fit: Fit, model_id: str) -> None:
    """Refuse a model that no law of the fit is for.

    Raises
    ------
    FitError
        With the known models.
    """
    check_laws(fit)
    models = sorted({*(pair.model_id for pair in fit.pairs), *_pooled_hardware(fit)})
    if model_id in models or (shares_batches(fit) and _catalog(model_id) is not None):
        return
    raise FitError(
        f"the fit holds no law for model {model_id!r}"
        + (", and the catalog does not know it" if shares_batches(fit) else ""),
        where="--model",
        fix=f"one of {', '.join(models)}",
    )


def _targets(fit: Fit, request: Request) -> dict[str, Domain | None]:
    """Return the GPU types that may be chosen, each with the domain of its rows if it has any.

    A pooled law answers for GPU types of the catalog too, if they are asked for by name; for a
    model that was never measured also for those that the fit knows.
    """
    check_model(fit, request.model_id)
    known: dict[str, Domain | None] = {}
    known.update(_pooled_hardware(fit).get(request.model_id, {}))
    known.update({p.hardware: p.domain for p in fit.pairs if p.model_id == request.model_id})
    if not known:
        known = dict.fromkeys(sorted({hardware for _, hardware in fit.known}))
    if not request.hardware:
        return dict(sorted(known.items()))
    wanted = sorted({_canonical(name) for name in request.hardware})
    found = {name: known.get(name) for name in wanted}
    unknown = [
        name
        for name in wanted
        if name not in known and not (shares_batches(fit) and in_catalog(name))
    ]
    if unknown:
        raise FitError(
            f"the fit holds no law for {request.model_id} on {', '.join(unknown)}",
            where="--hardware",
            fix=f"one or more of {', '.join(sorted(known))}",
        )
    return found


def _pooled_hardware(fit: Fit) -> dict[str, dict[str, Domain]]:
    """Return model -> GPU type -> domain, of pairs that only the law of batches is for."""
    found: dict[str, dict[str, Domain]] = {}
    for pair in fit.pooled_pairs:
        if pair.law == BATCH_LAW:
            found.setdefault(pair.model_id, {})[pair.hardware] = pair.domain
    return found


def _canonical(name: str) -> str:
    """Return the canonical id of a GPU type; imported data may have names of its own."""
    from harness.catalog import load_hardware

    try:
        return load_hardware(name).hardware
    except CatalogError:
        return name


def _rows_of(
    measurements: pd.DataFrame | None, model_id: str, hardware: str, modality: str
) -> pd.DataFrame | None:
    if measurements is None:
        return None
    mine = measurements[
        measurements["model_id"].eq(model_id) & measurements["hardware"].eq(hardware)
    ]
    same = mine[mine["modality"].fillna("text").eq(modality)]
    return same if len(same) else mine


def _deployments(mine: pd.DataFrame | None) -> list[dict[str, Any]]:
    """List the distinct deployments that were run, defaults filled in."""
    if mine is None or mine.empty:
        return []
    columns = [name for name in (*DEPLOYMENT, "num_gpus") if name in mine.columns]
    found = mine[columns].drop_duplicates().to_dict("records")
    return sorted(
        (_complete(row) for row in found),
        key=lambda row: (row["num_gpus"], row["tensor_parallel"], row["precision"]),
    )


def _complete(row: dict[Any, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {"hardware": row["hardware"]}
    for name in _DEGREES:
        value = row.get(name)
        whole[name] = 1 if value is None or value != value else int(value)
    precision = row.get("precision")
    whole["precision"] = "bf16" if precision is None or precision != precision else str(precision)
    gpus = row.get("num_gpus")
    if gpus is None or gpus != gpus:
        gpus = whole["tensor_parallel"] * whole["pipeline_parallel"] * whole["data_parallel"]
    whole["num_gpus"] = int(gpus)
    return whole


def _from_domain(domain: Domain, hardware: str) -> list[dict[str, Any]]:
    """List deployments inside a fit's domain: powers of two, every precision that was seen."""
    tensor = _powers(*domain.ranges.get("tensor_parallel", (1.0, 1.0)))
    pipeline = _powers(*domain.ranges.get("pipeline_parallel", (1.0, 1.0)))
    return [
        {
            "hardware": hardware,
            "tensor_parallel": t,
            "pipeline_parallel": p,
            "expert_parallel": 1,
            "data_parallel": 1,
            "precision": precision,
            "num_gpus": t * p,
        }
        for t in tensor
        for p in pipeline
        for precision in domain.labels.get("precision", ["bf16"])
    ]


def _powers(low: float, high: float) -> list[int]:
    return [2**i for i in range(11) if low <= 2**i <= high] or [int(low)]


def _workload(request: Request, batch: int) -> dict[str, Any]:
    return {
        "model_id": request.model_id,
        "modality": request.modality,
        "batch": batch,
        "input_tokens": request.input_tokens,
        "output_tokens": request.output_tokens,
        "visual_tokens": request.visual_tokens,
        "images": request.images,
        "frames": request.frames,
    }


def _model_facts(
    mine: pd.DataFrame | None, measurements: pd.DataFrame | None, model_id: str
) -> dict[str, Any]:
    """Take the architecture columns from a measured row, else from the catalog."""
    for frame in (mine, measurements):
        if frame is None:
            continue
        rows = frame[frame["model_id"].eq(model_id)]
        if len(rows):
            first = rows.iloc[0]
            return {name: first[name] for name in _MODEL_FACTS if name in rows.columns}
    facts = _catalog(model_id)
    if facts is None:
        return {}
    return {
        "family": facts.family,
        "params_total": facts.params_total,
        "params_active": facts.params_active,
        "num_experts": facts.experts or None,
        "experts_per_token": facts.experts_per_token or None,
        "kv_bytes_per_token": facts.kv_bytes_per_token(),
        "state_bytes_per_sequence": facts.state_bytes_per_sequence,
    }


def _catalog(model_id: str) -> Any:
    from harness.catalog import load_model, resolve_sibling

    try:
        return load_model(resolve_sibling(model_id) or model_id)
    except CatalogError:
        return None


def _fits(
    request: Request, deployment: dict[str, Any], batch: int, mine: pd.DataFrame | None
) -> bool:
    """Tell whether weights and cache fit; a larger workload that was run is proof enough."""
    if mine is not None and _was_run(request, deployment, batch, mine):
        return True
    facts = _catalog(request.model_id)
    if facts is None:
        return True
    from harness.catalog import load_hardware

    try:
        memory_bytes = load_hardware(deployment["hardware"]).memory_bytes
    except CatalogError:
        return True
    shards = deployment["tensor_parallel"] * deployment["pipeline_parallel"]
    sequences = batch / deployment["data_parallel"]
    context = request.input_tokens + request.output_tokens
    need_bytes = facts.weight_bytes(deployment["precision"]) + sequences * (
        facts.kv_bytes_per_sequence(context) + facts.state_bytes_per_sequence
    )
    return bool(need_bytes <= MEMORY_SHARE * memory_bytes * shards)


def _was_run(request: Request, deployment: dict[str, Any], batch: int, mine: pd.DataFrame) -> bool:
    if mine.empty:
        return False
    same = mine["tensor_parallel"].eq(deployment["tensor_parallel"])
    for name, default in (("pipeline_parallel", 1), ("data_parallel", 1), ("precision", "bf16")):
        if name in mine.columns:
            same &= mine[name].fillna(default).eq(deployment[name])
    larger = (
        same
        & mine["batch"].ge(batch)
        & mine["input_tokens"].ge(request.input_tokens)
        & mine["output_tokens"].ge(request.output_tokens)
    )
    return bool(larger.any())
