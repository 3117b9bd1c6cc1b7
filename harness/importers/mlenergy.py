"""Import of the ML.ENERGY Benchmark v3: the JSON files that its leaderboard publishes.

One file holds one model on one benchmark task, `configurations[]` one measured serving
configuration each. Energy is that of all GPUs (NVML through Zeus, steady state), per output
token and request for language models, per image or video for diffusion models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import ImportDataError
from harness.importers.base import Imported, canonical_hardware, unknown_hardware_note
from harness.store.identity import IDENTITY_DEFAULTS, task_id_of
from harness.store.schema import SCHEMA_VERSION, VISUAL

SOURCE = "ML.ENERGY v3"
METER = "zeus-nvml"
HARDWARE = {"H100": "H100-SXM5-80GB", "B200": "B200-SXM6-180GB"}
FAMILY = {"Dense Transformer": "dense", "MoE": "moe", "Mamba-Transformer Hybrid": "ssm"}
PRECISION = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "fp8": "fp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "int4": "int4",
}
MODALITY = {
    "gpqa": "text",
    "lm-arena-chat": "text",
    "sourcegraph-fim": "text",
    "image-chat": "image",
    "video-chat": "video",
}
DIFFUSION = {"text-to-image": "image", "text-to-video": "video"}
_NAME = "the published ML.ENERGY v3 format"


def read_mlenergy(path: Path) -> Imported:
    """Read one published JSON file, or all of a folder.

    Parameters
    ----------
    path
        A file, or a folder that holds files named *.json at any depth.

    Returns
    -------
    Imported
        One row a configuration. One that was measured several times becomes one row: the
        means, `repeats`, and the 95 % interval of the total by Student's t.

    Raises
    ------
    ImportDataError
        If there is no file, or one is torn or of another format: names file and key.
    """
    files = sorted(p for p in path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ImportDataError(
            "The folder holds no JSON files.",
            where=str(path),
            fix="give the folder public/data/models of the ML.ENERGY leaderboard",
        )
    rows: list[dict[str, object]] = []
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    for file in files:
        record = _Record(file, "", _load(file))
        task = record.text("task")
        if task in DIFFUSION:
            rows.extend(_diffusion_rows(record, task))
        elif task in MODALITY:
            rows.extend(_token_rows(record, task))
        else:
            known = ", ".join([*MODALITY, *DIFFUSION])
            skipped.append((file.name, f"task {task!r} is not one of {known}"))
    if not rows:
        raise ImportDataError(
            "None of the files holds a benchmark task that can be imported.",
            where=f"{path}: {skipped[0][0]}, {skipped[0][1]}",
            fix="give a file of the ML.ENERGY leaderboard (public/data/models/*.json)",
        )
    rows = _united(rows, notes)
    media = sum("output_tokens" not in row for row in rows)
    if media:
        notes.append(f"{media} rows are of diffusion models: they have no output tokens")
    _name_hardware(rows, notes)
    for row in rows:
        row["task_id"] = task_id_of(row)
    return Imported(frame=pd.DataFrame.from_records(rows), skipped=skipped, notes=notes)


@dataclass(frozen=True, slots=True)
class _Record:
    """A JSON object of a file, whose keys are read with checks."""

    file: Path
    at: str
    values: Mapping[str, object]

    def bad(self, key: str, what: str) -> ImportDataError:
        """Build the error about one key."""
        return ImportDataError(
            what,
            where=f"{self.file}, key {self.at}{key}",
            fix=f"give a file in {_NAME}, unchanged",
        )

    def get(self, key: str) -> object:
        """Return a value that must be there."""
        if key not in self.values:
            raise self.bad(key, f"The key {key!r} is missing: this is not {_NAME}.")
        return self.values[key]

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise self.bad(key, f"{key} must be a text; found {value!r:.60}.")
        return value

    def choice(self, key: str, choices: Mapping[str, str]) -> str:
        """Return what one of the known words stands for."""
        value = self.text(key)
        if value not in choices:
            raise self.bad(key, f"Unknown {key} {value!r}; known are {', '.join(choices)}.")
        return choices[value]

    def number(self, key: str) -> float:
        """Return a number above 0."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.bad(key, f"{key} must be a number; found {value!r:.60}.")
        if not math.isfinite(value) or value <= 0:
            raise self.bad(key, f"{key} must be a number above 0; found {value!r}.")
        return float(value)

    def count(self, key: str) -> int:
        """Return a whole number, 1 or more."""
        value = self.number(key)
        if not value.is_integer():
            raise self.bad(key, f"{key} must be a whole number; found {value!r}.")
        return int(value)

    def inner(self, key: str) -> _Record:
        """Return an object inside this one."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.bad(key, f"{key} must be an object; found {type(value).__name__}.")
        return _Record(self.file, f"{self.at}{key}.", value)

    def configurations(self) -> Iterator[_Record]:
        """Yield the measured configurations."""
        values = self.get("configurations")
        if not isinstance(values, list) or not values:
            raise self.bad("configurations", "configurations must be a list that is not empty.")
        for index, value in enumerate(values):
            at = f"configurations[{index}]"
            if not isinstance(value, dict):
                raise self.bad(at, f"{at} must be an object.")
            yield _Record(self.file, f"{at}.", value)


def _load(file: Path) -> dict[str, object]:
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise ImportDataError(
            f"The file is truncated or is not JSON: {error}",
            where=str(file),
            fix="fetch it again from its source, and compare the sizes",
        ) from error
    if not isinstance(value, dict):
        raise ImportDataError(
            f"The file holds a JSON {type(value).__name__}, not an object: this is not {_NAME}.",
            where=f"{file}, top level",
            fix="give a file of the ML.ENERGY leaderboard (public/data/models/*.json)",
        )
    return value


def _common(record: _Record, task: str) -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "attempt": 1,
        "provenance": "imported",
        "source": SOURCE,
        "task": task,
        "model_id": record.text("model_id"),
        "params_total": round(record.number("total_params_billions") * 1e9),
        "params_active": round(record.number("activated_params_billions") * 1e9),
        "precision": record.choice("weight_precision", PRECISION),
        "pipeline_parallel": 1,
        "meter": METER,
        "repeats": 1,
        "valid": True,
        "reasons": [],
    }


def _token_rows(record: _Record, task: str) -> Iterator[dict[str, object]]:
    """Map a language model's configurations."""
    modality = MODALITY[task]
    common = _common(record, task) | {
        "engine": "vllm",
        "engine_version": "0.11.1",
        "family": record.choice("architecture", FAMILY),
        "modality": modality,
    }
    common |= {name: 0 for name, kinds in VISUAL.items() if modality not in kinds}
    for one in record.configurations():
        batch = one.count("max_num_seqs")
        per_token = one.number("energy_per_token_joules")
        per_request = one.number("energy_per_request_joules")
        length = one.number("avg_output_len")
        if abs(per_token * length / per_request - 1) > 0.01:
            raise one.bad(
                "energy_per_request_joules",
                "energy_per_request_joules is not energy_per_token_joules x avg_output_len.",
            )
        yield common | {
            "hardware": one.text("gpu_model"),
            **_ranks(one),
            "batch": batch,
            "output_tokens": length,
            "energy_per_output_token_j": per_token,
            "total_energy_j": per_request * batch,
            "itl_s": one.number("median_itl_ms") / 1e3,
        }


def _ranks(one: _Record) -> dict[str, object]:
    """Read the parallel degrees of a vLLM configuration.

    "TP=1, EP=n" with one data parallel rank is vLLM's --tensor-parallel-size n with expert
    parallelism: attention is sharded n ways.
    """
    gpus = one.count("num_gpus")
    parallel = one.inner("parallelization")
    tensor, expert, data = (
        parallel.count(key) for key in ("tensor_parallel", "expert_parallel", "data_parallel")
    )
    if tensor == 1 and data == 1 and expert > 1:
        tensor = expert
    if tensor * data != gpus:
        raise one.bad(
            "parallelization",
            f"The parallel degrees make {tensor * data} GPUs, num_gpus says {gpus}.",
        )
    return {
        "num_gpus": gpus,
        "tensor_parallel": tensor,
        "expert_parallel": expert,
        "data_parallel": data,
    }


def _diffusion_rows(record: _Record, task: str) -> Iterator[dict[str, object]]:
    """Map a diffusion model's configurations: no tokens, but images or video frames."""
    kind = DIFFUSION[task]
    common = _common(record, task) | {
        "engine": "xdit",
        "engine_version": "0.4.5",
        "family": "dense",
        "modality": "text",
        "visual_tokens": 0,
        "images": 0,
        "frames": 0,
        "tensor_parallel": 1,
        "expert_parallel": 1,
        "data_parallel": 1,
    }
    for one in record.configurations():
        gpus = one.count("num_gpus")
        parallel = one.inner("parallelization")
        ulysses, ring = parallel.count("ulysses_degree"), parallel.count("ring_degree")
        if ulysses * ring != gpus:
            raise one.bad(
                "parallelization",
                f"The parallel degrees make {ulysses * ring} GPUs, num_gpus says {gpus}.",
            )
        batch = one.count("batch_size")
        made = (
            {"output_images": 1} if kind == "image" else {"output_frames": one.count("num_frames")}
        )
        yield (
            common
            | made
            | {
                "hardware": one.text("gpu_model"),
                "num_gpus": gpus,
                "ulysses_degree": ulysses,
                "ring_degree": ring,
                "batch": batch,
                "diffusion_steps": one.count("inference_steps"),
                "output_height": one.count(f"{kind}_height"),
                "output_width": one.count(f"{kind}_width"),
                "total_energy_j": one.number(f"energy_per_{kind}_joules") * batch,
                "total_latency_s": one.number("batch_latency_s"),
            }
        )


_MEANS = (
    "output_tokens",
    "energy_per_output_token_j",
    "total_energy_j",
    "itl_s",
    "total_latency_s",
)


def _united(rows: list[dict[str, object]], notes: list[str]) -> list[dict[str, object]]:
    """Make one row of each configuration; output length is an outcome, so it does not count."""
    groups: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        setting = {k: row.get(k) for k in IDENTITY_DEFAULTS if k != "output_tokens"}
        groups.setdefault(task_id_of(setting), []).append(row)
    out = [_mean(group) for group in groups.values()]
    repeated = [group for group in groups.values() if len(group) > 1]
    if repeated:
        names = sorted({f"{g[0]['model_id']} ({g[0]['task']})" for g in repeated})
        notes.append(
            f"{len(repeated)} configurations were measured more than once; their rows are means "
            f"(repeats, total_energy_j_ci95_j): {', '.join(names)}"
        )
    return out


def _mean(group: list[dict[str, object]]) -> dict[str, object]:
    """Average repeats; a single measurement stays as published."""
    row = dict(group[0])
    if len(group) > 1:
        from scipy.stats import t as student

        for name in _MEANS:
            if name in row:
                row[name] = math.fsum(float(str(r[name])) for r in group) / len(group)
        totals = [float(str(r["total_energy_j"])) for r in group]
        quantile = float(student.ppf(0.975, len(group) - 1))
        error = float(np.std(totals, ddof=1)) / math.sqrt(len(totals))
        row["total_energy_j_ci95_j"] = quantile * error
        row["repeats"] = len(group)
    if "output_tokens" in row:
        row["output_tokens"] = max(1, round(float(str(row["output_tokens"]))))
    return row


def _name_hardware(rows: list[dict[str, object]], notes: list[str]) -> None:
    """Give GPU types their canonical names."""
    names: dict[str, str] = {}
    for name in sorted({str(row["hardware"]) for row in rows}):
        known = name in HARDWARE
        names[name], known = (HARDWARE[name], True) if known else canonical_hardware(name)
        if not known:
            notes.append(unknown_hardware_note(name))
    for row in rows:
        row["hardware"] = names[str(row["hardware"])]
