"""Fill in what a question leaves open, from the run; every assumption is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energylens.recommendation.candidates import check_model
from energylens.recommendation.request import check_modality
from energylens.recommendation.unseen import check_laws
from harness.errors import EnergyLensError

if TYPE_CHECKING:
    import pandas as pd

    from fitting import Fit


def fill_request(
    fit: Fit,
    measurements: pd.DataFrame | None,
    *,
    model_id: str | None,
    batch: tuple[int, ...],
    input_tokens: int | None,
    output_tokens: int | None,
    modality: str = "text",
) -> tuple[dict[str, Any], list[str]]:
    """Complete a workload from the run: the one measured most often for this model.

    Returns
    -------
    tuple
        model_id, batch, input_tokens and output_tokens; and what was assumed, in words.

    Raises
    ------
    EnergyLensError
        When the fit does not know the model, or something is left open and there is no run
        to take it from.
    """
    assumed = []
    check_laws(fit)
    if model_id is None:
        model_id = (fit.pairs or fit.pooled_pairs)[0].model_id
        assumed.append(f"--model {model_id}")
    check_model(fit, model_id)
    check_modality(modality)
    given: dict[str, Any] = {
        "batch": batch[0] if len(batch) == 1 else None,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }
    open_names = [name for name, value in given.items() if value is None]
    if len(batch) > 1:
        open_names.remove("batch")
    if open_names:
        typical = _typical(measurements, model_id, modality, given)
        if typical is None:
            raise EnergyLensError(
                f"the workload is not fully given, and there is no {modality} workload of "
                f"{model_id} in a run to take it from",
                where=", ".join(_option(name) for name in open_names),
                fix="give --batch, --input-tokens and --output-tokens",
            )
        for name in open_names:
            given[name] = typical[name]
            assumed.append(f"{_option(name)} {typical[name]}")
    return {
        "model_id": model_id,
        "batch": batch if len(batch) > 1 else (int(given["batch"]),),
        "input_tokens": int(given["input_tokens"]),
        "output_tokens": int(given["output_tokens"]),
    }, assumed


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _typical(
    measurements: pd.DataFrame | None, model_id: str, modality: str, given: dict[str, Any]
) -> dict[str, int] | None:
    """Return the workload run on most deployments, the largest batch among equals."""
    if measurements is None:
        return None
    mine = measurements[
        measurements["model_id"].eq(model_id) & measurements["modality"].fillna("text").eq(modality)
    ].dropna(subset=list(given))
    for name, value in given.items():
        if value is not None and mine[name].eq(value).any():
            mine = mine[mine[name].eq(value)]
    if mine.empty:
        return None
    counts = mine.groupby(list(given)).size().reset_index(name="rows")
    top = counts.sort_values(["rows", "batch", "input_tokens"], ascending=False).iloc[0]
    return {name: int(top[name]) for name in given}


def visual_part(
    model_id: str, given: int | None, images: int, frames: int, height: int, width: int
) -> int:
    """Return visual tokens of one request: as given, else from the model's vision tower."""
    if given is not None:
        return given
    if not images and not frames:
        return 0
    from harness.catalog import load_model, resolve_sibling

    if not height or not width:
        raise EnergyLensError(
            "images or frames were given without their size",
            where="--images, --frames",
            fix="give --image-height and --image-width, or --visual-tokens",
        )
    facts = load_model(resolve_sibling(model_id) or model_id)
    if images:
        return images * facts.visual_tokens(height, width)
    return facts.video_tokens(frames, height, width)
