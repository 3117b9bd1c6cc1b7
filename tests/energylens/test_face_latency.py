"""Latencies of candidates: exact where measured, else by laws that are known here."""

from __future__ import annotations

import face_data
import numpy as np
import pandas as pd
import pytest

from energylens.recommendation.latency import latency_table

MODEL = face_data.MODELS[0]


def asked(**workload: int) -> pd.DataFrame:
    layouts = face_data.configurations(MODEL, "H100-SXM5-80GB")
    first = layouts.drop_duplicates(["tensor_parallel", "pipeline_parallel"])
    return first.assign(**workload).reset_index(drop=True)


def test_a_workload_that_was_run_gives_its_own_latency(table: pd.DataFrame) -> None:
    rows = asked(batch=16, input_tokens=1024, output_tokens=256)
    found = latency_table(rows, table)
    truth = face_data.latencies(rows)
    assert found["latency_source"].eq("run").all()
    assert found["latency_error"].eq(0).all()
    np.testing.assert_allclose(found["ttft_s"], truth["ttft_s"])
    np.testing.assert_allclose(found["tpot_s"], truth["itl_s"])
    np.testing.assert_allclose(found["total_latency_s"], truth["total_latency_s"])


def test_another_workload_is_interpolated_on_the_law_behind_the_rows(table: pd.DataFrame) -> None:
    rows = asked(batch=10, input_tokens=700, output_tokens=99)
    found = latency_table(rows, table)
    truth = face_data.latencies(rows)
    assert found["latency_source"].eq("interpolated").all()
    np.testing.assert_allclose(found["ttft_s"], truth["ttft_s"], rtol=1e-6)
    np.testing.assert_allclose(found["tpot_s"], truth["itl_s"], rtol=1e-6)
    np.testing.assert_allclose(found["total_latency_s"], truth["total_latency_s"], rtol=1e-6)
    assert found["latency_error"].max() < 1e-6


def test_the_stated_error_covers_noisy_rows(table: pd.DataFrame) -> None:
    rng = np.random.default_rng(1)
    noisy = table.assign(
        ttft_s=table["ttft_s"] * np.exp(0.1 * rng.standard_normal(len(table))),
        itl_s=table["itl_s"] * np.exp(0.1 * rng.standard_normal(len(table))),
    )
    rows = asked(batch=10, input_tokens=700, output_tokens=99)
    found = latency_table(rows, noisy)
    truth = face_data.latencies(rows)
    error = np.abs(found["tpot_s"] / truth["itl_s"] - 1)
    assert (error <= found["latency_error"]).mean() >= 0.9
    assert found["latency_error"].between(0.05, 0.5).all()


def test_too_few_rows_or_none_leave_it_unknown(table: pd.DataFrame) -> None:
    rows = asked(batch=10, input_tokens=700, output_tokens=99)
    few = table[table["model_id"].eq(MODEL) & table["output_tokens"].eq(32)]
    few = few[few["input_tokens"].eq(256)]  # four rows a layout
    for frame in (None, few, table.drop(columns="ttft_s"), table[table["model_id"].eq("no")]):
        found = latency_table(rows, frame)
        assert found["latency_source"].eq("unknown").all()
        assert found[["ttft_s", "tpot_s", "total_latency_s"]].isna().all(axis=None)


def test_flagged_rows_are_not_believed(table: pd.DataFrame) -> None:
    spoiled = table.copy()
    rows = asked(batch=16, input_tokens=1024, output_tokens=256)
    same = spoiled["batch"].eq(16) & spoiled["input_tokens"].eq(1024)
    spoiled.loc[same, ["ttft_s", "itl_s"]] = 99.0
    spoiled.loc[same, "valid"] = False
    found = latency_table(rows, spoiled)
    assert found["latency_source"].eq("interpolated").all()
    np.testing.assert_allclose(found["ttft_s"], face_data.latencies(rows)["ttft_s"], rtol=1e-6)


def test_time_per_token_comes_from_the_decode_time_where_no_itl_is(table: pd.DataFrame) -> None:
    decode = table["itl_s"] * (table["output_tokens"] - 1)
    other = table.assign(decode_latency_s=decode, itl_s=np.nan)
    rows = asked(batch=16, input_tokens=1024, output_tokens=256)
    found = latency_table(rows, other)
    np.testing.assert_allclose(found["tpot_s"], face_data.latencies(rows)["itl_s"])


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s"])
def test_more_work_never_takes_less_time(table: pd.DataFrame, name: str) -> None:
    times = [
        latency_table(asked(batch=b, input_tokens=777, output_tokens=99), table)[name].to_numpy()
        for b in (8, 16, 32)
    ]
    assert (times[0] <= times[1]).all()
    assert (times[1] <= times[2]).all()
