"""The measurement table: its columns, their units and meaning, and the trace columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Version of the table and of the run folder. It grows when a column changes its meaning."""

FAMILIES = ("dense", "moe", "ssm")
MODALITIES = ("text", "image", "video")
PRECISIONS = ("bf16", "fp16", "fp32", "fp8", "int8", "int4", "nvfp4", "mxfp4")

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "prefill_energy_ci95_j": "prefill_energy_j_ci95_j",
        "decode_energy_ci95_j": "decode_energy_j_ci95_j",
        "total_energy_ci95_j": "total_energy_j_ci95_j",
    }
)
"""Other spellings of a column that `conform` and the importers accept."""

ENERGY_CHOICE = ("total_energy_j", "energy_per_output_token_j")
"""An imported row needs one of these; the other is derived."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the measurement table.

    Attributes
    ----------
    name
        Column name; a unit is part of it.
    type
        `str`, `int`, `float`, `bool`, `time` (UTC, microseconds) or `list` (of strings).
    unit
        SI unit, or an empty string for a count, a label or a ratio.
    group
        identity, model, deployment, workload, energy, time or trust.
    description
        What it means, in one line.
    required
        Whether an imported row must have it.
    default
        What an imported row gets where it has no value; None means null.
    derived
        In words, what an imported row gets if that is no constant.
    """

    name: str
    type: str
    unit: str
    group: str
    description: str
    required: bool = False
    default: str | int | float | bool | None = None
    derived: str = ""

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column in Parquet."""
        import pyarrow as pa

        types: dict[str, pa.DataType] = {
            "str": pa.string(),
            "int": pa.int64(),
            "float": pa.float64(),
            "bool": pa.bool_(),
            "time": pa.timestamp("us", tz="UTC"),
            "list": pa.list_(pa.string()),
        }
        return types[self.type]


def _ci(phase: str) -> Column:
    return Column(
        f"{phase}_energy_j_ci95_j",
        "float",
        "J",
        "energy",
        f"half width of the 95 % confidence interval of {phase}_energy_j",
    )


_I, _M, _D, _W, _E, _T, _V = (
    "identity",
    "model",
    "deployment",
    "workload",
    "energy",
    "time",
    "trust",
)

COLUMNS: tuple[Column, ...] = (
    Column("schema_version", "int", "", _I, "version of this table"),
    Column("task_id", "str", "", _I, "hash of the configuration and nothing else"),
    Column(
        "attempt",
        "int",
        "",
        _I,
        "1 for the first try; the highest is the one that counts",
        default=1,
    ),
    Column("sweep", "str", "", _I, "name of the sweep that declared the task"),
    Column("provenance", "str", "", _I, "measured, projected or imported"),
    Column("source", "str", "", _I, "where imported data comes from", derived="the file name"),
    Column("engine", "str", "", _I, "serving engine: twin, transformers, vllm, xdit, ..."),
    Column("engine_version", "str", "", _I, "version of the engine"),
    Column("measured_at", "time", "UTC", _I, "when the measurement began"),
    Column("task", "str", "", _I, "benchmark task of an imported row: gpqa, text-to-image, ..."),
    Column("seed", "int", "", _I, "seed of prompts and of the order of trials"),
    Column("launch_id", "str", "", _I, "launch that measured it; launches/LAUNCH_ID-ATTEMPT.json"),
    Column("host", "str", "", _I, "name of the machine that measured it"),
    Column("gpu_uuids", "list", "", _I, "devices whose energy was counted"),
    Column("driver_version", "str", "", _I, "version of the GPU driver"),
    Column("model_id", "str", "", _M, "Hugging Face name, ORG/NAME", required=True),
    Column("family", "str", "", _M, "dense, moe or ssm", required=True),
    Column("modality", "str", "", _M, "input: text, image or video", default="text"),
    Column("params_total", "int", "", _M, "parameters of the model"),
    Column("params_active", "int", "", _M, "parameters that one token passes through"),
    Column("hidden_size", "int", "", _M, "width of the residual stream"),
    Column("num_experts", "int", "", _M, "experts of an MoE layer"),
    Column("experts_per_token", "int", "", _M, "experts that one token is sent to"),
    Column(
        "kv_bytes_per_token", "float", "B", _M, "KV cache that one token adds, all layers, 16 bit"
    ),
    Column("state_bytes_per_sequence", "float", "B", _M, "recurrent state of one sequence (ssm)"),
    Column(
        "hardware", "str", "", _D, "canonical name of the GPU type (in the path)", required=True
    ),
    Column(
        "num_gpus",
        "int",
        "",
        _D,
        "GPUs of the deployment",
        derived="product of the parallel degrees",
    ),
    Column("num_nodes", "int", "", _D, "nodes that hold them"),
    Column("tensor_parallel", "int", "", _D, "tensor parallel degree", default=1),
    Column("pipeline_parallel", "int", "", _D, "pipeline parallel degree", default=1),
    Column("expert_parallel", "int", "", _D, "expert parallel degree; adds no GPUs", default=1),
    Column("data_parallel", "int", "", _D, "data parallel degree", default=1),
    Column("ulysses_degree", "int", "", _D, "Ulysses sequence parallel degree (diffusion)"),
    Column("ring_degree", "int", "", _D, "ring sequence parallel degree (diffusion)"),
    Column(
        "precision",
        "str",
        "",
        _D,
        "bf16, fp16, fp32, fp8, int8, int4, nvfp4 or mxfp4",
        default="bf16",
    ),
    Column(
        "power_limit_w", "float", "W", _D, "power limit set on each GPU; null: the factory limit"
    ),
    Column(
        "batch", "int", "", _W, "concurrent requests, over all data parallel ranks", required=True
    ),
    Column("input_tokens", "int", "", _W, "input tokens a request, visual ones included"),
    Column(
        "output_tokens", "int", "", _W, "output tokens a request; null for diffusion", required=True
    ),
    Column("visual_tokens", "int", "", _W, "those of the input tokens that are visual", default=0),
    Column("images", "int", "", _W, "input images a request", default=0),
    Column("frames", "int", "", _W, "input video frames a request", default=0),
    Column("image_height", "int", "", _W, "height of an input image or frame, pixels"),
    Column("image_width", "int", "", _W, "width of an input image or frame, pixels"),
    Column(
        "request_rate_per_s", "float", "1/s", _W, "arrival rate of a serving run; null: one batch"
    ),
    Column("diffusion_steps", "int", "", _W, "denoising steps (diffusion)"),
    Column("output_images", "int", "", _W, "images made a request (diffusion)"),
    Column("output_frames", "int", "", _W, "video frames made a request (diffusion)"),
    Column("output_height", "int", "", _W, "height of the image or video made, pixels (diffusion)"),
    Column("output_width", "int", "", _W, "width of the image or video made, pixels (diffusion)"),
    Column(
        "prefill_energy_j", "float", "J", _E, "whole batch, all GPUs, gross, until the first token"
    ),
    _ci("prefill"),
    Column(
        "decode_energy_j", "float", "J", _E, "whole batch, all GPUs, gross, after the first token"
    ),
    _ci("decode"),
    Column("total_energy_j", "float", "J", _E, "whole batch, all GPUs, gross", required=True),
    _ci("total"),
    Column("idle_power_w", "float", "W", _E, "all GPUs of the deployment, weights loaded, waiting"),
    Column(
        "energy_per_output_token_j",
        "float",
        "J",
        _E,
        "total_energy_j / (batch x output_tokens); may stand in for total_energy_j on import",
    ),
    Column(
        "energy_per_total_token_j",
        "float",
        "J",
        _E,
        "total_energy_j / (batch x (input_tokens + output_tokens)); not the one per output token",
    ),
    Column(
        "prefill_net_energy_j",
        "float",
        "J",
        _E,
        "prefill_energy_j less idle_power_w for its time",
    ),
    Column(
        "decode_net_energy_j", "float", "J", _E, "decode_energy_j less idle_power_w for its time"
    ),
    Column("total_net_energy_j", "float", "J", _E, "total_energy_j less idle_power_w for its time"),
    Column(
        "host_energy_j",
        "float",
        "J",
        _E,
        "CPUs and memory of the host for the same run (RAPL); not in total_energy_j",
    ),
    Column("prefill_latency_s", "float", "s", _T, "prefill of the whole batch"),
    Column("decode_latency_s", "float", "s", _T, "decode of the whole batch"),
    Column("total_latency_s", "float", "s", _T, "first request in to last token out"),
    Column("ttft_s", "float", "s", _T, "time to first token, median of the requests"),
    Column("itl_s", "float", "s", _T, "time between output tokens of a request, median"),
    Column("meter", "str", "", _V, "power sensor: nvml, zeus-nvml, twin, ..."),
    Column("window_s", "float", "s", _V, "length of the shortest window that energy was read over"),
    Column("samples", "int", "", _V, "power samples in the windows"),
    Column("repeats", "int", "", _V, "repeats that the row is the mean of"),
    Column("counter_vs_integral", "float", "", _V, "energy counter / integral of power - 1"),
    Column(
        "additivity", "float", "", _V, "(prefill + decode) / whole - 1, from windows of their own"
    ),
    Column("temperature_c", "float", "degC", _V, "highest temperature in the windows, mean"),
    Column("throttled", "bool", "", _V, "clocks were held down while measuring"),
    Column(
        "valid",
        "bool",
        "",
        _V,
        "fit for use; false rows are kept and left out of fits",
        default=True,
    ),
    Column("reasons", "list", "", _V, "codes why a row is not valid, or to be read with care"),
)
"""Every column of the measurement table, in order."""

BY_NAME: Mapping[str, Column] = MappingProxyType({column.name: column for column in COLUMNS})

VISUAL: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"visual_tokens": ("image", "video"), "images": ("image",), "frames": ("video",)}
)
"""Columns that are 0 by default, except in rows of these modalities: there they are unknown."""

PARTITION = "hardware"
"""The column that is in the path of a file, not in the file."""

TRACE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("key", "string"),
    ("t_ns", "int64"),
    ("gpu_uuid", "string"),
    ("power_w", "double"),
    ("energy_mj", "int64"),
    ("temperature_c", "double"),
    ("sm_clock_mhz", "double"),
    ("mem_clock_mhz", "double"),
    ("throttle_mask", "int64"),
    ("phase", "string"),
)
"""Columns of a trace file and their Arrow types; `key` repeats the name of the file."""


def arrow_schema(*, partition: bool = True) -> pa.Schema:
    """Return the Arrow schema of the table; without `hardware` where it is in the path.

    Parameters
    ----------
    partition
        Keep the partition column `hardware`.
    """
    import pyarrow as pa

    return pa.schema([(c.name, c.arrow) for c in COLUMNS if partition or c.name != PARTITION])


def trace_schema() -> pa.Schema:
    """Return the Arrow schema of a trace file."""
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in TRACE_COLUMNS])


def conform(frame: pd.DataFrame | Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Give a frame the columns, types and order of the measurement table.

    Columns that are missing are added as null, known ones are cast, unknown ones are kept
    after them. An integer column that holds a null comes back as float64 with NaN, as pandas
    has it; `reasons` holds lists.

    Parameters
    ----------
    frame
        A frame or mappings of column name to value, one a row.

    Raises
    ------
    StoreError
        If a value does not fit its column.
    """
    from harness.store.convert import to_frame, to_table

    return to_frame(to_table(frame))


def markdown_table() -> str:
    """Return the columns as a Markdown table, the one that docs/data.md shows."""
    types = {"str": "text", "time": "timestamp", "list": "list of text", "bool": "true/false"}
    lines = ["| column | group | type | unit | on import | meaning |", "|---|---|---|---|---|---|"]
    for column in COLUMNS:
        if column.name in ENERGY_CHOICE:
            rule = "one of the two required"
        elif column.required:
            rule = "required"
        elif column.name in {"schema_version", "task_id", "provenance"}:
            rule = "set by the importer"
        elif column.derived:
            rule = f"default: {column.derived}"
        elif column.default is not None:
            rule = f"default: {str(column.default).lower()}"
            if column.name in VISUAL:
                rule += f" (not for {' and '.join(VISUAL[column.name])})"
        else:
            rule = "optional"
        kind = types.get(column.type, column.type)
        lines.append(
            f"| `{column.name}` | {column.group} | {kind} | {column.unit} | {rule} "
            f"| {column.description} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown_table(), end="")
