"""Remembers what an estimator said, so that a plan made again costs next to nothing.

A run that is started again plans the same sweep again. What the estimator said the first time is
kept in one small Parquet file of the run folder, with a fingerprint of everything it depends on;
if anything of that changed, the file is ignored and written anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan.estimator import Estimator, Refusal, TaskEstimate
from harness.spec.deployment import Deployment
from harness.spec.reasons import SkipReason
from harness.spec.task import Task
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

Verdict = Refusal | TaskEstimate
_FINGERPRINT = b"energylens_estimates"
_COLUMNS = ("key", "prefill_s", "decode_s", "energy_j", "source", "reason", "detail")


class RememberingEstimator:
    """Answers from memory where it can, and from another estimator where it must.

    Parameters
    ----------
    inner
        Who is asked about what is not known yet.
    path
        File of the memory; read now if it is there and its fingerprint holds.
    """

    def __init__(self, inner: Estimator, path: Path) -> None:
        self._inner = inner
        self._path = path
        self._known: dict[str, Verdict] = _read(path)
        self._asked = 0

    def fits(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Refusal | None]:
        """Refusals of what does not fit, None for the rest."""
        verdicts = self._verdicts(model, hardware, deployment, workloads)
        return [None if isinstance(v, TaskEstimate) else v for v in verdicts]

    def estimate(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[TaskEstimate]:
        """Estimates of workloads that fit."""
        verdicts = self._verdicts(model, hardware, deployment, workloads)
        return [v for v in verdicts if isinstance(v, TaskEstimate)]

    def save(self, write: Callable[[Path, Callable[[Any], object]], None]) -> None:
        """Write the memory if anything was added.

        Parameters
        ----------
        write
            Atomic writer: takes the path and a function that writes to a binary stream.
        """
        if not self._asked:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [_row(key, verdict) for key, verdict in self._known.items()]
        table = pa.Table.from_pylist(rows)
        table = table.replace_schema_metadata({_FINGERPRINT: _fingerprint()})
        write(self._path, lambda stream: pq.write_table(table, stream, compression="zstd"))

    def _verdicts(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Verdict]:
        config = _digest(model.config_path)
        keys = [
            Task(model_id=model.model_id, workload=w, deployment=deployment).task_id + config
            for w in workloads
        ]
        new = [w for w, key in zip(workloads, keys, strict=True) if key not in self._known]
        if new:
            self._asked += len(new)
            refusals = self._inner.fits(model, hardware, deployment, new)
            fitting = [w for w, refusal in zip(new, refusals, strict=True) if refusal is None]
            estimates = iter(self._inner.estimate(model, hardware, deployment, fitting))
            missing = iter([refusal or next(estimates) for refusal in refusals])
            for key in keys:
                if key not in self._known:
                    self._known[key] = next(missing)
        return [self._known[key] for key in keys]


@lru_cache(maxsize=1024)
def _digest(config_path: Path) -> str:
    """Short hash of a model's config: the same name may get another content."""
    return "-" + hashlib.sha256(config_path.read_bytes()).hexdigest()[:8]


def _row(key: str, verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, TaskEstimate):
        values: tuple[Any, ...] = (
            verdict.prefill_s,
            verdict.decode_s,
            verdict.energy_j,
            verdict.source,
            None,
            None,
        )
    else:
        values = (None, None, None, None, str(verdict[0].value), verdict[1])
    return dict(zip(_COLUMNS, (key, *values), strict=True))


def _read(path: Path) -> dict[str, Verdict]:
    """Memory of an earlier plan; empty if there is none that can be trusted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException):
        return {}
    if (table.schema.metadata or {}).get(_FINGERPRINT) != _fingerprint():
        return {}
    known: dict[str, Verdict] = {}
    for row in table.to_pylist():
        known[row["key"]] = (
            TaskEstimate(row["prefill_s"], row["decode_s"], row["energy_j"], row["source"])
            if row["reason"] is None
            else (SkipReason(row["reason"]), row["detail"])
        )
    return known


@lru_cache(maxsize=1)
def _fingerprint() -> bytes:
    """Hash of all that an estimate depends on: our code and data, and the kernel tables."""
    from harness.engines.twin.tables import tables_version

    harness = Path(__file__).parent.parent
    digest = hashlib.sha256(tables_version().encode())
    for folder in ("catalog", "engines", "plan"):
        for path in sorted((harness / folder).rglob("*")):
            if path.suffix in (".py", ".json"):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest().encode()
