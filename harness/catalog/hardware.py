"""Datasheet facts of hardware, each number with its source, under one name for each type."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from harness.errors import CatalogError

DATA = Path(__file__).parent / "hardware.json"

_WIDER = {
    "nvfp4": "bf16",
    "mxfp4": "bf16",
    "int4": "bf16",
    "fp8": "bf16",
    "int8": "bf16",
    "bf16": "fp16",
    "fp16": "fp32",
    "fp32": "",
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """One GPU type.

    Attributes
    ----------
    hardware
        Canonical id, such as ``H100-SXM5-80GB``.
    vendor, architecture, memory_type
        Such as ``nvidia``, ``Hopper``, ``HBM3``.
    aliases
        Other names, matched without regard to case.
    memory_bytes
        Memory, nominal, in bytes.
    memory_bandwidth_bytes_per_s
        Peak memory bandwidth, in B/s.
    peak_flops
        Precision -> dense (not sparse) matrix FLOP/s (int8: operations/s). A precision that the
        hardware does not speed up is not there.
    power_limit_w
        Default power limit (TDP), in W.
    idle_power_w
        Bare idle, no CUDA or ROCm context, in W; None where no source was found.
    loaded_idle_power_w
        Idle with a context and weights in memory, in W; None where no source was found.
    interconnect_bytes_per_s
        GPU to GPU within a node, one direction, for each GPU, in B/s.
    gpus_per_node
        Usual number of GPUs in a node.
    twin_system, twin_version
        Names of its tables in the twin engine (aiconfigurator-core, vLLM), or None.
    sources
        Field -> where its number comes from; ``peak_flops.bf16`` for one precision.
    estimated
        Fields whose number follows a rule and was not measured or published.
    notes
        What to know before using it.
    """

    hardware: str
    vendor: str
    architecture: str
    aliases: tuple[str, ...]
    memory_type: str
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float] = field(hash=False)
    power_limit_w: float
    idle_power_w: float | None
    loaded_idle_power_w: float | None
    interconnect_bytes_per_s: float
    gpus_per_node: int
    twin_system: str | None
    twin_version: str | None
    sources: Mapping[str, str] = field(hash=False)
    estimated: tuple[str, ...] = ()
    notes: str = ""

    def flops_for(self, precision: str) -> float:
        """Return peak dense FLOP/s of the arithmetic that serves weights of `precision`.

        Where the hardware has no matrix units for a precision, weights are widened first and the
        arithmetic is wider: 4 and 8 bits go to bf16 (weight-only kernels), bf16 to fp16, else
        fp32. Int4 and mxfp4 weights are often widened even where matrix units exist.

        Raises
        ------
        CatalogError
            If the precision is unknown, or the data has no number for it or a wider one.
        """
        if precision not in _WIDER:
            raise CatalogError(
                f"unknown precision {precision!r}",
                where="precision",
                fix=f"use one of {', '.join(_WIDER)}",
            )
        step = precision
        while step:
            if step in self.peak_flops:
                return self.peak_flops[step]
            step = _WIDER[step]
        raise CatalogError(
            f"{self.hardware} has no peak FLOP/s for {precision} or wider",
            where=DATA.name,
            fix="add peak_flops.fp32 and its source",
        )


class _Entry(BaseModel):
    """One entry of hardware.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: str
    architecture: str
    aliases: list[str]
    memory_type: str
    memory_bytes: PositiveFloat
    memory_bandwidth_bytes_per_s: PositiveFloat
    peak_flops: dict[str, PositiveFloat] = Field(min_length=1)
    power_limit_w: PositiveFloat
    idle_power_w: PositiveFloat | None
    loaded_idle_power_w: PositiveFloat | None
    interconnect_bytes_per_s: PositiveFloat
    gpus_per_node: PositiveInt
    twin_system: str | None = None
    twin_version: str | None = None
    sources: dict[str, str]
    estimated: list[str] = []
    notes: str = ""


def load_hardware(name: str) -> Hardware:
    """Return the facts of a GPU type by its canonical id or an alias, whatever the case.

    Spaces, ``_`` and ``-`` count as the same. A name such as ``CPU-AMD-EPYC-9R14-2C`` is a CPU,
    whose facts are assumptions (`harness.catalog.cpu`).

    Raises
    ------
    CatalogError
        If no type has that name; its text names close matches.
    """
    from harness.catalog.cpu import cpu_hardware, is_cpu
    from harness.catalog.machine import this_machine

    if is_cpu(name):
        return cpu_hardware(name, this_machine())
    table = read_hardware(DATA)
    names = {name_key(alias): each for each in table.values() for alias in each.aliases}
    names |= {name_key(canonical): each for canonical, each in table.items()}
    found = names.get(name_key(name))
    if found is not None:
        return found
    matches = difflib.get_close_matches(name_key(name), names, n=5, cutoff=0.5)
    close = list(dict.fromkeys(names[match].hardware for match in matches))
    raise CatalogError(
        f"unknown hardware {name!r}",
        where=f"close matches: {', '.join(close)}" if close else "no close match",
        fix=f"use local for this machine, one of {', '.join(table)}, or add it to {DATA.name}",
    )


def name_key(name: str) -> str:
    """Return what two spellings of one name share: case, spaces, ``_`` and ``-`` do not matter."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


def known_hardware() -> list[str]:
    """Return the canonical ids, in the order of the data file."""
    return list(read_hardware(DATA))


@lru_cache(maxsize=8)
def read_hardware(path: Path) -> Mapping[str, Hardware]:
    """Read a hardware data file.

    Raises
    ------
    CatalogError
        If the file is not valid, a name is used twice, or a number has no source.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"the hardware data cannot be read: {error}", where=str(path)) from error
    if not isinstance(raw, dict):
        raise CatalogError("the hardware data is not a JSON object", where=str(path))
    table: dict[str, Hardware] = {}
    owner: dict[str, str] = {}
    for canonical, fields in raw.items():
        entry = _entry(canonical, fields, path)
        for name in (canonical, *entry.aliases):
            if owner.setdefault(name_key(name), canonical) != canonical:
                raise CatalogError(
                    f"the name {name!r} means both {owner[name_key(name)]} and {canonical}",
                    where=str(path),
                    fix="drop one of the two aliases",
                )
        table[canonical] = _hardware(canonical, entry)
    return table


def _entry(canonical: str, fields: Any, path: Path) -> _Entry:
    try:
        entry = _Entry.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CatalogError(
            f"hardware {canonical}: {key}: {first['msg']}", where=str(path), fix=f"correct {key}"
        ) from error
    bare = [name for name in numeric_fields(entry) if not entry.sources.get(name)]
    if bare:
        raise CatalogError(
            f"hardware {canonical}: no source for {', '.join(bare)}",
            where=str(path),
            fix="name the datasheet, paper or issue in sources",
        )
    return entry


def numeric_fields(entry: _Entry | Hardware) -> list[str]:
    """Return the names under which each number of an entry needs a source."""
    plain = [
        name
        for name in (
            "memory_bytes",
            "memory_bandwidth_bytes_per_s",
            "power_limit_w",
            "idle_power_w",
            "loaded_idle_power_w",
            "interconnect_bytes_per_s",
            "gpus_per_node",
        )
        if getattr(entry, name) is not None
    ]
    return plain + [f"peak_flops.{precision}" for precision in entry.peak_flops]


def _hardware(canonical: str, entry: _Entry) -> Hardware:
    return Hardware(
        hardware=canonical,
        vendor=entry.vendor,
        architecture=entry.architecture,
        aliases=tuple(entry.aliases),
        memory_type=entry.memory_type,
        memory_bytes=entry.memory_bytes,
        memory_bandwidth_bytes_per_s=entry.memory_bandwidth_bytes_per_s,
        peak_flops=dict(entry.peak_flops),
        power_limit_w=entry.power_limit_w,
        idle_power_w=entry.idle_power_w,
        loaded_idle_power_w=entry.loaded_idle_power_w,
        interconnect_bytes_per_s=entry.interconnect_bytes_per_s,
        gpus_per_node=entry.gpus_per_node,
        twin_system=entry.twin_system,
        twin_version=entry.twin_version,
        sources=dict(entry.sources),
        estimated=tuple(entry.estimated),
        notes=entry.notes,
    )
