"""A fingerprint of measurements: tells whether a saved result still fits the data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# What fits and evaluations read; a change in any of it makes their results stale.
_COLUMNS = (
    "attempt",
    "batch",
    "data_parallel",
    "decode_energy_j",
    "decode_energy_j_ci95_j",
    "energy_per_output_token_j",
    "expert_parallel",
    "frames",
    "hardware",
    "images",
    "input_tokens",
    "itl_s",
    "model_id",
    "num_gpus",
    "output_tokens",
    "pipeline_parallel",
    "precision",
    "prefill_energy_j",
    "prefill_energy_j_ci95_j",
    "provenance",
    "request_rate_per_s",
    "task_id",
    "tensor_parallel",
    "total_energy_j",
    "total_energy_j_ci95_j",
    "total_latency_s",
    "ttft_s",
    "valid",
    "visual_tokens",
)


def fingerprint(frame: pd.DataFrame) -> str:
    """Return 16 hex digits that change when the measurements do, whatever the row order."""
    import numpy as np
    import pandas as pd

    digest = hashlib.sha256(str(len(frame)).encode())
    total = np.zeros(len(frame), dtype=np.uint64)
    for name in _COLUMNS:
        if name not in frame.columns:
            continue
        digest.update(name.encode())
        column = frame[name]
        values = (
            pd.to_numeric(column).astype("float64")
            if pd.api.types.is_numeric_dtype(column)
            else column.astype("string").fillna("")
        )
        hashed = pd.util.hash_array(
            values.to_numpy(dtype=values.dtype if values.dtype == "float64" else object)
        )
        total = total * np.uint64(1_000_003) + hashed
    digest.update(np.sort(total).tobytes())
    return digest.hexdigest()[:16]
