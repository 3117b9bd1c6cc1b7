"""Power samples of one window in the columns of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.engines import Phase, RunStamps
from harness.meters.base import Samples

if TYPE_CHECKING:
    import pandas as pd


def trace_frame(samples: Samples, stamps: RunStamps, phase: Phase) -> pd.DataFrame:
    """Return the samples of one window, device after device; what was not read is null.

    Parameters
    ----------
    samples
        Polls from before the window to after it.
    stamps
        When the runs of the window happened; samples outside of them are `idle`.
    phase
        Phase of the window; a whole window is told apart into prefill and decode.
    """
    import pandas as pd

    devices, n = samples.power_w.shape
    t = samples.t_ns
    run = np.clip(np.searchsorted(stamps.starts_ns, t, side="right") - 1, 0, None)
    name = np.where(t < stamps.first_tokens_ns[run], "prefill", "decode")
    outside = (t < stamps.start_ns) | (t > stamps.end_ns) | (t > stamps.ends_ns[run])
    name = np.where(outside, "idle", name if phase == "full" else np.where(outside, "", phase))
    known = {
        "temperature_c": samples.temperature_c,
        "sm_clock_mhz": samples.sm_clock_mhz,
        "mem_clock_mhz": samples.mem_clock_mhz,
    }
    counter = pd.array(np.round(samples.energy_mj.ravel()), dtype="Float64")
    return pd.DataFrame(
        {
            "t_ns": np.tile(t, devices),
            "gpu_uuid": np.repeat(np.array(samples.gpu_uuids), n),
            "power_w": samples.power_w.ravel(),
            "energy_mj": counter.astype("Int64"),
            **{key: None if v is None else v.ravel() for key, v in known.items()},
            "throttle_mask": samples.throttle_mask.ravel(),
            "phase": np.tile(name, devices),
        }
    )
