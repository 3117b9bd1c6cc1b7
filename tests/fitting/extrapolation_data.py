"""Tables and facts for the extrapolation tests: several models and GPU types, one known law."""

from __future__ import annotations

import pandas as pd
from fitting_data import synthetic

from fitting.facts import Facts, HardwareFacts, ModelFacts

SCALES = {"new-GPU": 0.8, "old-GPU": 1.0, "far-GPU": 1.5}
MODELS = {"a/Model-8B": "one", "a/Model-8B-Instruct": "one", "b/Other-8B": "two"}


def hardware(name: str, speed: float = 1.0, power: float = 1.0) -> HardwareFacts:
    return HardwareFacts(
        hardware=name,
        architecture="Synthetic",
        memory_bytes=80e9,
        memory_bandwidth_bytes_per_s=3e12 * speed,
        peak_flops={"bf16": 1e15 * speed, "fp8": 2e15 * speed},
        power_limit_w=700.0 * power,
        idle_power_w=None,
        loaded_idle_power_w=None,
        interconnect_bytes_per_s=450e9,
    )


def model(name: str, backbone: str, family: str = "dense", **known: float) -> ModelFacts:
    values = {
        "layers": 32,
        "attention_layers": 32,
        "state_layers": 0,
        "hidden_size": 4096,
        "heads": 32,
        "kv_heads": 8,
        "head_dim": 128,
        "vocab_size": 128000,
        "experts": 0,
        "experts_per_token": 0,
        "params_total": 8.03e9,
        "params_active": 8.03e9,
        "params_experts": 0.0,
        "params_lookup": 0.0,
        "params_vision": 0.0,
        "kv_bytes_per_token": 131072.0,
        "kv_window_tokens": 0.0,
        "kv_window_share": 0.0,
        "state_bytes_per_sequence": 0.0,
        "state_flops_per_token": 0.0,
        **known,
    }
    return ModelFacts(model_id=name, family=family, backbone=backbone, **values)  # type: ignore[arg-type]


FACTS = Facts(
    {
        "new-GPU": hardware("new-GPU", speed=1.1),
        "old-GPU": hardware("old-GPU"),
        "far-GPU": hardware("far-GPU", speed=0.3),
    },
    {name: model(name, backbone) for name, backbone in MODELS.items()},
)


def table(*, noise: float = 0.0, models: tuple[str, ...] = tuple(MODELS)) -> pd.DataFrame:
    """Rows of every pair, all by the same law but for a scale a GPU type."""
    parts = [
        synthetic(
            noise=noise, seed=i, visual=False, scale=scale, model_id=name, hardware=kind
        ).sample(110, random_state=i)
        for i, (name, (kind, scale)) in enumerate(
            (name, item) for name in models for item in SCALES.items()
        )
    ]
    return pd.concat(parts, ignore_index=True)


def serving_table() -> pd.DataFrame:
    """Rows with an energy per output token and no lengths, by a simple law."""
    rows = []
    for name, size in (("a/Model-8B", 8.0), ("b/Other-70B", 70.0), ("c/Third-30B", 30.0)):
        for kind, scale in (("new-GPU", 0.8), ("old-GPU", 1.0)):
            for task in ("chat", "code"):
                for gpus in (1, 2, 4):
                    for batch in (8, 16, 32, 64, 128):
                        energy = scale * (0.05 * size * (1.0 + 20.0 / batch) + 4.0 * gpus / batch)
                        rows.append((name, size * 1e9, kind, task, gpus, batch, energy))
    columns = [
        "model_id",
        "params_active",
        "hardware",
        "task",
        "num_gpus",
        "batch",
        "energy_per_output_token_j",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        params_total=frame["params_active"],
        tensor_parallel=frame["num_gpus"],
        expert_parallel=1,
        data_parallel=1,
        family="dense",
        modality="text",
        precision="bf16",
        provenance="imported",
        valid=True,
        output_tokens=200.0,
        input_tokens=float("nan"),
        total_energy_j=200.0 * frame["energy_per_output_token_j"],
    )
