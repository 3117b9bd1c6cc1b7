"""Finds the model and hardware facts that a sweep names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CatalogError, SweepError

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts
    from harness.spec.sweep import Sweep

    HardwareByName = Mapping[str, tuple[Hardware, ...]]
    """Hardware types by the name that the sweep uses: `local` may stand for several."""


def load_models(sweep: Sweep) -> dict[str, ModelFacts]:
    """Load the facts of every model of a sweep.

    A name that is a path from the folder of the sweep file is read from there; the folder
    ``models`` beside the sweep file is searched before the catalog. A model named by its
    path keeps that name as its id, so that ids do not depend on where the sweep lies.

    Returns
    -------
    dict
        Facts by the name that the sweep uses.

    Raises
    ------
    SweepError
        A model is unknown, or its config cannot be read.
    """
    from harness.catalog.models import load_model

    folder = sweep.path.parent if sweep.path else Path()
    search = (folder / "models", folder)
    models: dict[str, ModelFacts] = {}
    for name in sweep.model_names:
        local = folder / name
        looks_like_path = name.endswith(".json") or name.startswith((".", "/"))
        if looks_like_path and not local.exists():
            raise SweepError(
                f"The model file {name!r} does not exist.",
                where=_where_named(sweep, "models", "model", name),
                fix=f"put the model's config.json at {local}, or name a model of the catalog.",
            )
        try:
            if local.is_file() or (local / "config.json").is_file():
                models[name] = dataclasses.replace(load_model(str(local)), model_id=name)
            else:
                models[name] = load_model(name, search)
        except CatalogError as error:
            raise _at(error, _where_named(sweep, "models", "model", name)) from None
    return models


def load_hardware_facts(sweep: Sweep) -> HardwareByName:
    """Load the facts of every hardware type of a sweep, by the name that the sweep uses.

    `local` is every accelerator type of this machine, or its CPU; any other name is one type.

    Raises
    ------
    SweepError
        A hardware type is unknown, or this machine has one that the catalog does not know.
    """
    found: dict[str, tuple[Hardware, ...]] = {}
    for name in sweep.hardware_names:
        try:
            found[name] = hardware_named(name)
        except CatalogError as error:
            raise _at(error, _where_named(sweep, "hardware", "hardware", name)) from None
    return found


def hardware_named(name: str) -> tuple[Hardware, ...]:
    """Hardware types that a name of a sweep stands for, at least one.

    Raises
    ------
    CatalogError
        The name is unknown, or it is `local` and this machine has a GPU of an unknown type.
    """
    from harness.catalog.hardware import load_hardware
    from harness.catalog.local import is_local, local_hardware

    return local_hardware() if is_local(name) else (load_hardware(name),)


def load_prices(sweep: Sweep) -> dict[str, float]:
    """Prices of a GPU-hour by canonical hardware id.

    Raises
    ------
    SweepError
        A price is given for an unknown hardware type.
    """
    prices: dict[str, float] = {}
    for name, price in sweep.price_per_gpu_hour.items():
        try:
            prices |= {each.hardware: price for each in hardware_named(name)}
        except CatalogError as error:
            raise _at(error, sweep.where("price_per_gpu_hour", name)) from None
    return prices


def _at(error: CatalogError, where: str) -> SweepError:
    """Move an error of the catalog to the place in the sweep that caused it."""
    what = error.what.rstrip(".")
    hint = f" ({error.where})" if error.where else ""
    return SweepError(f"{what[0].upper()}{what[1:]}{hint}.", where=where, fix=error.fix)


def _where_named(sweep: Sweep, plural: str, singular: str, name: str) -> str:
    names: tuple[str, ...] = getattr(sweep, plural)
    if name in names:
        index = names.index(name)
        return f"{sweep.where(plural, index)}, value {name!r}"
    for index, extra in enumerate(sweep.include):
        if getattr(extra, singular) == name:
            return f"{sweep.where('include', index, singular)}, value {name!r}"
    return sweep.where(plural)


def canonical_names(facts: Mapping[str, ModelFacts]) -> dict[str, str]:
    """Map every name of a model, as written or canonical, to its canonical id."""
    names = {model.model_id: model.model_id for model in facts.values()}
    return names | {name: model.model_id for name, model in facts.items()}
