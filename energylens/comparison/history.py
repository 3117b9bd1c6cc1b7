"""What else is different between two runs: versions, settings, drift inside launches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from energylens.comparison.result import Night, Sentinel, VersionChange

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("engine", "engine_version", "driver_version", "meter", "host", "seed")
DEVICE = ("driver", "cuda_driver", "vbios", "power_limit_w", "persistence", "ecc", "mig")
SETTINGS: tuple[str, ...] = (
    "cpu",
    "platform",
    "threads",
    "attention",
    "experts",
    "dtype",
    "quantisation",
)
SETTINGS += ("ssm_reference_kernels", "float32_matmul_precision", "tf32")
SHOWN = 4


def night(name: str, frame: pd.DataFrame) -> Night:
    """Say how many rows a run has, and from when."""
    times = frame["measured_at"].dropna()
    first, last = ("", "") if times.empty else (f"{t:%Y-%m-%d %H:%M}" for t in _ends(times))
    valid = int(frame["valid"].fillna(True).astype(bool).sum())
    return Night(name, len(frame), valid, first, last)


def _ends(times: pd.Series) -> tuple[Any, Any]:
    return times.min(), times.max()


def sentinels(which: str, records: Mapping[str, Any]) -> list[Sentinel]:
    """Read the sentinels of the launches of one run.

    Parameters
    ----------
    which
        old or new.
    records
        Launch records by name; those without a sentinel are passed over.
    """
    found = []
    for launch, record in records.items():
        measured = _mapping(_mapping(record.get("measuring")).get("sentinel"))
        values = measured.get("values") or []
        if not values:
            continue
        spec = _mapping(record.get("spec"))
        found.append(
            Sentinel(
                night=which,
                launch=launch,
                model_id=str(spec.get("model_id") or "not stated"),
                hardware=str(_mapping(spec.get("deployment")).get("hardware") or "not stated"),
                values=len(values),
                change=_number(measured.get("change")),
                stderr=_number(measured.get("stderr")),
                significant=bool(measured.get("significant")),
            )
        )
    return found


def version_changes(
    frames: Sequence[pd.DataFrame],
    manifests: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
) -> list[VersionChange]:
    """List what differs: versions in the manifests, in the rows and in the launch records.

    A value that only one of the runs states is listed too; one that no run states is not.
    """
    nights = [
        _stated(frame, manifest, record)
        for frame, manifest, record in zip(frames, manifests, records, strict=True)
    ]
    changes = []
    for what in dict.fromkeys([*nights[0], *nights[1]]):
        old, new = (_joined(n.get(what, set())) for n in nights)
        if old != new:
            changes.append(VersionChange(what, old, new))
    return changes


def _stated(
    frame: pd.DataFrame, manifest: Mapping[str, Any], records: Mapping[str, Any]
) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name in COLUMNS:
        if values := {str(v) for v in frame[name].dropna().unique()}:
            found[name] = values
    if manifest.get("git_commit"):
        found["git_commit"] = {str(manifest["git_commit"])}
    pairs = [*_mapping(manifest.get("versions")).items()]
    for record in records.values():
        pairs += _of_environment(_mapping(_mapping(record).get("environment")))
    for name, value in pairs:
        if value is not None:
            found.setdefault(str(name), set()).add(str(value))
    return found


def _of_environment(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from _mapping(environment.get("versions")).items()
    for name in SETTINGS:
        yield name, environment.get(name)
    for device in environment.get("devices") or []:
        for name in DEVICE:
            yield name, _mapping(device).get(name)


def _joined(values: set[str]) -> str:
    listed = sorted(values)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more or "not stated"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
