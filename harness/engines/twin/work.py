"""What one operator call has to do: FLOPs, bytes and the shape facts that its power depends on.

The same formulas serve two callers. `work_of_table` takes the columns of a measured operator
table (one row a kernel); `work_of_operator` takes an operator object of `aiconfigurator_core`
at a phase, batch and length, writes its shape into the same column names and calls the same
formulas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engines.twin.work_formulas import active_experts, causal_pairs, evaluate, skew
from harness.engines.twin.work_operator import operator_spec, work_of_operator
from harness.engines.twin.work_types import (
    KINDS,
    NUMBER_FORMATS,
    NumberFormat,
    OperatorWork,
    number_format,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "KINDS",
    "NUMBER_FORMATS",
    "TABLE_SHAPE_COLUMNS",
    "NumberFormat",
    "OperatorWork",
    "active_experts",
    "causal_pairs",
    "operator_spec",
    "work_of_operator",
    "work_of_table",
]

TABLE_SHAPE_COLUMNS: tuple[str, ...] = (
    *("m", "n", "k", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"),
    *("window_size", "tp_size", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts"),
    *("moe_tp_size", "moe_ep_size", "seq_len", "d_model", "d_state", "d_conv", "nheads"),
    *("n_groups", "chunk_size", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"),
)


def work_of_table(frame: pd.DataFrame, kind: str) -> OperatorWork:
    """Work of every row of a measured operator table.

    Parameters
    ----------
    frame
        Rows of one operator kind, with the column names of the published operator tables
        (m, n, k, batch_size, isl, ..., dtype, kv_cache_dtype, gemm_type, distribution,
        kernel_source); n rows.
    kind
        One of `KINDS`.

    Returns
    -------
    OperatorWork
        Fields are arrays of shape (n,); `kind` stays a string.
    """
    import pandas as pd

    size = len(frame)

    def text(column: str, default: str) -> list[str]:
        if column not in frame:
            return [default] * size
        return [default if pd.isna(value) else str(value) for value in frame[column]]

    columns: dict[str, Any] = {
        name: frame[name].astype("float64").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in TABLE_SHAPE_COLUMNS
        if name in frame
    }
    names = text("gemm_type" if kind.endswith("_module") else "dtype", "bfloat16")
    if kind in ("generation_attention", "mla_generation"):
        names = ["bfloat16"] * size
    formats = [number_format(name, kind) for name in names]
    caches = [number_format(name, kind) for name in text("kv_cache_dtype", "bfloat16")]
    variants = text("kernel_source", "")
    columns["weight_bytes"] = np.array([f.weight_bytes for f in formats])
    columns["activation_bytes"] = np.array([f.activation_bytes for f in formats])
    columns["kv_bytes"] = np.array([f.weight_bytes for f in caches])
    columns["variant"] = np.array(variants)
    columns["gated"] = np.array([0.0 if name.endswith("nongated") else 1.0 for name in variants])
    work = evaluate(
        kind,
        columns,
        precision=np.array([f.precision for f in formats]),
        number_format=np.array(names),
        skew=np.array([skew(name) for name in text("distribution", "balanced")]),
    )
    fields = (name for name in OperatorWork.__slots__ if name != "kind")
    return replace(work, **{f: np.broadcast_to(getattr(work, f), (size,)) for f in fields})
