"""Error of the twin, end to end, against measurements that others published.

    python benchmarks/twin_end_to_end.py [DATA_FOLDER]

Argonne (LLM-Inference-Bench, SC-W 2024): power and latency of Llama-2-7B and Llama-3-8B on one
GPU, and latency under tensor and pipeline parallelism on A100. ML.ENERGY v3 (2025): joules per
output token of serving runs on H100 and B200; prompt lengths are not published, so one is
assumed and varied. Nothing here was used to calibrate the twin.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from harness.catalog import load_hardware, load_model, resolve_sibling
from harness.engines.twin.project import Projection, project
from harness.errors import EnergyLensError
from harness.importers import import_data
from harness.spec import Deployment, Workload
from harness.store import read_measurements

KIN = {
    # The tables know the 80 GB type only: same chip, 2.0 instead of 1.6 TB/s of memory bandwidth.
    "A100-40GB": "A100-SXM4-80GB",
    "H100-80GB": "H100-SXM5-80GB",
}
ARGONNE_MODELS = {
    "meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-hf",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
}
PROMPT_TOKENS = (0, 256, 1024)
"""Assumed prompt lengths of the ML.ENERGY tasks; 0 leaves the prefill out."""


def projected(
    model_id: str, hardware: str, workload: Workload, **deployment: object
) -> Projection | None:
    """One projection, or None where the twin has no tables for it."""
    answer = project(
        load_model(model_id),
        load_hardware(hardware),
        Deployment.model_validate({"hardware": hardware, **deployment}),
        [workload],
    )[0]
    return answer if isinstance(answer, Projection) else None


def summary(frame: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Median ratio and median absolute error of each column, by group."""
    out = frame.groupby(by)[columns].agg(["median", lambda x: (x - 1).abs().median()])
    out.columns = [f"{c} {'ratio' if k == 'median' else 'error'}" for c, k in out.columns]
    out.insert(0, "rows", frame.groupby(by).size())
    return out


def argonne_power(folder: Path) -> pd.DataFrame:
    """Ratios projected over measured: latency, power, energy."""
    rows = []
    for r in pd.read_csv(folder / "power.csv").itertuples():
        if r.hardware not in KIN or r.model_id not in ARGONNE_MODELS:
            continue
        work = Workload(batch=r.batch, input_tokens=r.input_tokens, output_tokens=r.output_tokens)
        p = projected(ARGONNE_MODELS[r.model_id], KIN[r.hardware], work)
        if p is None:
            continue
        seconds, joules = p.prefill_s + p.decode_s, p.prefill_j + p.decode_j
        rows.append(
            {
                "hardware": r.hardware,
                "engine": r.engine,
                "batch": r.batch,
                "latency": seconds / r.latency_s,
                "power": joules / seconds / r.avg_power_w,
                "energy": joules / r.total_energy_j,
            }
        )
    return pd.DataFrame(rows)


def argonne_parallel(folder: Path) -> pd.DataFrame:
    """Ratios of latency under tensor and pipeline parallelism."""
    rows = []
    frame = pd.read_csv(folder / "tp_pp_latency.csv")
    frame = frame[(frame["expert_parallel"] <= 1) & frame["hardware"].isin(KIN)]
    known: dict[str, str | None] = {}
    for r in frame.itertuples():
        if r.model_id not in known:
            known[r.model_id] = catalogued(r.model_id)
        model_id = known[r.model_id]
        if model_id is None:
            continue
        work = Workload(batch=r.batch, input_tokens=r.input_tokens, output_tokens=r.output_tokens)
        p = projected(
            model_id,
            KIN[r.hardware],
            work,
            tensor_parallel=r.tensor_parallel,
            pipeline_parallel=r.pipeline_parallel,
        )
        if p is not None:
            rows.append(
                {
                    "tp": r.tensor_parallel,
                    "pp": r.pipeline_parallel,
                    "batch": r.batch,
                    "latency": (p.prefill_s + p.decode_s) / r.latency_s,
                }
            )
    return pd.DataFrame(rows)


def catalogued(model_id: str) -> str | None:
    """Name under which the catalog knows a model, a sibling counting too."""
    for name in (model_id, resolve_sibling(model_id), ARGONNE_MODELS.get(model_id)):
        try:
            if name is not None:
                return load_model(name).model_id
        except EnergyLensError:
            continue
    return None


def mlenergy(folder: Path) -> pd.DataFrame:
    """Ratios of joules per output token, for each assumed prompt length."""
    with tempfile.TemporaryDirectory() as out:
        import_data("mlenergy", folder / "models", Path(out) / "run")
        frame = read_measurements(Path(out) / "run")
    frame = frame[frame["energy_per_output_token_j"].notna() & (frame["modality"] == "text")]
    rows = []
    for r in frame.itertuples():
        model_id = catalogued(r.model_id)
        if model_id is None or r.batch > 1024:
            continue
        row = {"family": r.family, "hardware": r.hardware, "gpus": r.num_gpus, "batch": r.batch}
        for prompt in PROMPT_TOKENS:
            work = Workload(
                batch=r.batch,
                input_tokens=max(prompt, 1),
                output_tokens=max(int(r.output_tokens), 2),
            )
            p = projected(
                model_id,
                r.hardware,
                work,
                tensor_parallel=int(r.tensor_parallel),
                expert_parallel=int(r.expert_parallel),
                data_parallel=int(r.data_parallel),
                precision=r.precision,
            )
            if p is None:
                break
            joules = p.decode_j + (p.prefill_j if prompt else 0.0)
            row[f"n={prompt}"] = (
                joules / (work.batch * work.output_tokens) / r.energy_per_output_token_j
            )
        else:
            rows.append({**row, "measured": r.energy_per_output_token_j})
    return pd.DataFrame(rows)


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data
    pd.set_option(
        "display.width",
        200,
        "display.precision",
        2,
        "display.max_rows",
        100,
        "display.max_columns",
        20,
    )
    power = argonne_power(folder / "argonne")
    print("Argonne, one GPU, 1,024 in, 1,024 out; ratio is projected over measured")
    print(summary(power, ["hardware", "engine"], ["latency", "power", "energy"]))
    fitting = power[(power["hardware"] == "H100-80GB") & (power["engine"] == "vLLM")]
    print("\nH100, vLLM, by batch")
    print(summary(fitting, ["batch"], ["latency", "power", "energy"]))
    print("\nArgonne, A100-40GB with the tables of the 80 GB type, latency by TP and PP")
    print(summary(argonne_parallel(folder / "argonne"), ["tp", "pp"], ["latency"]))
    tokens = mlenergy(folder / "mlenergy_v3")
    names = [f"n={p}" for p in PROMPT_TOKENS]
    print("\nML.ENERGY v3, text, joules per output token, by assumed prompt length n")
    print(summary(tokens, ["hardware", "family"], names))
    print(summary(tokens, ["gpus"], names))
    for name in names:
        rank = np.corrcoef((tokens[name] * tokens["measured"]).rank(), tokens["measured"].rank())[
            0, 1
        ]
        print(
            f"all {len(tokens)} rows, {name}: median ratio {tokens[name].median():.2f}, "
            f"median error {(tokens[name] - 1).abs().median():.0%}, rank correlation {rank:.2f}"
        )


if __name__ == "__main__":
    main()
