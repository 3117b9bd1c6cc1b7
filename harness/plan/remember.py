"""Remembers what an estimator said, so that a plan made again costs next to nothing.

A run that is started again plans the same sweep again. What the estimator said the first time is
kept in one small Parquet file of the run folder, with a fingerprint of everything it depends on;
if anything of that changed, the file is ignored and written anew. In memory it stays in columns,
one piece a deployment, and only the deployment asked about last is unpacked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plan.estimator import Estimator, Refusal, TaskEstimate
from harness.spec.deployment import Deployment
from harness.spec.reasons import SkipReason
from harness.spec.task import launch_id_of
from harness.spec.workload import Workload

if TYPE_CHECKING:
    from harness.catalog.hardware import Hardware
    from harness.catalog.models import ModelFacts

Verdict = Refusal | TaskEstimate
_FINGERPRINT = b"energylens_estimates"


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
        self._pieces: dict[str, list[Any]] = _read(path)
        self._group = ""
        self._stored: dict[str, Verdict] = {}
        self._answers: dict[Workload, Verdict] = {}
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

        pieces = []
        for group, parts in self._pieces.items():
            for part in parts:
                names = pa.DictionaryArray.from_arrays(
                    pa.repeat(pa.scalar(0, pa.int32()), part.num_rows), [group]
                )
                pieces.append(part.append_column("group", names))
        table = pa.concat_tables(pieces).replace_schema_metadata({_FINGERPRINT: _fingerprint()})
        write(self._path, lambda stream: pq.write_table(table, stream, compression="zstd"))
        self._asked = 0

    def _verdicts(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Verdict]:
        group = launch_id_of(model.model_id, deployment) + _digest(model.config_path)
        if group != self._group:
            parts = self._pieces.get(group, ())
            self._group, self._stored, self._answers = group, _unpacked(parts), {}
        answers = self._answers
        unheard = {w: w.model_dump_json() for w in workloads if w not in answers}
        answers.update((w, self._stored[k]) for w, k in unheard.items() if k in self._stored)
        new = {w: key for w, key in unheard.items() if w not in answers}
        if new:
            self._asked += len(new)
            found = self._ask(model, hardware, deployment, list(new))
            answers.update(zip(new, found, strict=True))
            self._pieces.setdefault(group, []).append(_packed(new.values(), found))
        return [answers[w] for w in workloads]

    def _ask(
        self,
        model: ModelFacts,
        hardware: Hardware,
        deployment: Deployment,
        workloads: Sequence[Workload],
    ) -> list[Verdict]:
        refusals = self._inner.fits(model, hardware, deployment, workloads)
        fitting = [w for w, refusal in zip(workloads, refusals, strict=True) if refusal is None]
        estimates = iter(self._inner.estimate(model, hardware, deployment, fitting))
        return [refusal or next(estimates) for refusal in refusals]


@lru_cache(maxsize=1024)
def _digest(config_path: Path) -> str:
    """Short hash of a model's config: the same name may get another content."""
    return "-" + hashlib.sha256(config_path.read_bytes()).hexdigest()[:8]


def _packed(keys: Iterable[str], verdicts: Sequence[Verdict]) -> Any:
    """Verdicts of one deployment as a table; the words of all rows are written once."""
    import pyarrow as pa

    estimates = [v if isinstance(v, TaskEstimate) else None for v in verdicts]
    refusals = [None if isinstance(v, TaskEstimate) else v for v in verdicts]
    words = {
        "workload": list(keys),
        "source": [e.source if e else None for e in estimates],
        "reason": [str(r[0].value) if r else None for r in refusals],
        "detail": [r[1] if r else None for r in refusals],
    }
    numbers = {
        name: pa.array([getattr(e, name) if e else None for e in estimates], pa.float64())
        for name in ("prefill_s", "decode_s", "energy_j")
    }
    return pa.table(
        {n: pa.array(v, pa.string()).dictionary_encode() for n, v in words.items()} | numbers
    )


def _unpacked(pieces: Iterable[Any]) -> dict[str, Verdict]:
    """Verdicts of one deployment by workload."""
    stored: dict[str, Verdict] = {}
    for piece in pieces:
        columns: Mapping[str, list[Any]] = piece.to_pydict()
        for key, prefill_s, decode_s, energy_j, source, reason, detail in zip(
            *(columns[name] for name in _COLUMNS), strict=True
        ):
            stored[key] = (
                TaskEstimate(prefill_s, decode_s, energy_j, source)
                if reason is None
                else (SkipReason(reason), detail)
            )
    return stored


_COLUMNS = ("workload", "prefill_s", "decode_s", "energy_j", "source", "reason", "detail")
_WORDS = ("group", "workload", "source", "reason", "detail")


def _read(path: Path) -> dict[str, list[Any]]:
    """Memory of an earlier plan by deployment; empty if there is none that can be trusted."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path, read_dictionary=list(_WORDS)).read()
    except (OSError, pa.ArrowException):
        return {}
    if (table.schema.metadata or {}).get(_FINGERPRINT) != _fingerprint() or not table.num_rows:
        return {}
    table = table.unify_dictionaries().combine_chunks()
    column = table.column("group").chunk(0)
    runs = pc.run_end_encode(column.indices)
    names = column.dictionary.to_pylist()
    rows = table.drop_columns(["group"])
    pieces: dict[str, list[Any]] = {}
    start = 0
    for number, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        pieces.setdefault(names[number], []).append(rows.slice(start, end - start))
        start = end
    return pieces


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
