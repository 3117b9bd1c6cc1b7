"""Candidates for models and GPU types without measurements, where a pooled law answers."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from energylens.recommendation.request import Request
from harness.errors import CatalogError, FitError

if TYPE_CHECKING:
    from fitting import Fit

BATCH_LAW = "energylens_pooled"
"""The pooled law of batches of requests with known lengths."""

MOST_GPUS = 8
"""GPUs of a node: layouts beyond need a network that no datasheet tells of."""


def shares_batches(fit: Fit) -> bool:
    """Tell whether the fit answers for batches of models that were not measured."""
    return any(law.name == BATCH_LAW for law in fit.pooled)


def check_laws(fit: Fit) -> None:
    """Refuse a fit that knows nothing of batches with input lengths.

    Raises
    ------
    FitError
        Naming what the fit is of, and what to use instead.
    """
    if fit.pairs or shares_batches(fit):
        return
    names = ", ".join(law.name for law in fit.pooled) or "no law"
    raise FitError(
        "this fit is of rows without input lengths, so no batch can be asked about",
        where=f"laws of the fit: {names}",
        fix="compare configurations with energylens.load_fit(FIT).predict(frame), or fit a run "
        "with input lengths",
    )


def in_catalog(hardware: str) -> bool:
    """Tell whether the catalog has a datasheet of a GPU type."""
    from harness.catalog import load_hardware

    try:
        load_hardware(hardware)
    except CatalogError:
        return False
    return True


def unseen_deployments(fit: Fit, request: Request, hardware: str) -> list[dict[str, Any]]:
    """List layouts of one node for a (model, hardware) without rows.

    Tensor and pipeline parallel degrees are powers of two that divide heads and layers;
    precisions are those asked for, else those of the fit's other rows that the GPU type has.
    """
    from harness.catalog import load_model, resolve_sibling

    heads = layers = 0
    try:
        facts = load_model(resolve_sibling(request.model_id) or request.model_id)
        heads, layers = facts.heads, facts.layers
    except CatalogError:
        pass
    most = min(request.limits.max_gpus or MOST_GPUS, MOST_GPUS)
    degrees = [2**i for i in range(4) if 2**i <= most]
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
        for t, p in product(degrees, degrees)
        if t * p <= most and heads % t == 0 and p <= max(layers, 1)
        for precision in request.precision or _precisions(fit, hardware)
    ]


def _precisions(fit: Fit, hardware: str) -> list[str]:
    """Return the precisions that rows of any model had on a GPU type, or bf16."""
    domains = [pair.domain for pair in fit.pairs if pair.hardware == hardware]
    domains += [pair.domain for pair in fit.pooled_pairs if pair.hardware == hardware]
    found = {name for domain in domains for name in domain.labels.get("precision", [])}
    # A format of one model's own weights (mxfp4) says nothing about another's.
    return sorted(found & {"bf16", "fp16", "fp8"}) or ["bf16"]
