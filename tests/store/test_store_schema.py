"""The table's columns, conversion of frames, and the documented list."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store import COLUMNS, IDENTITY_DEFAULTS, StoreError, arrow_schema, conform
from harness.store.convert import to_table
from harness.store.schema import BY_NAME, markdown_table

DESIGN = set(
    re.findall(
        r"\w+",
        """
schema_version task_id attempt sweep provenance source engine engine_version measured_at
model_id family modality params_total params_active hardware num_gpus num_nodes tensor_parallel
pipeline_parallel expert_parallel data_parallel precision power_limit_w batch input_tokens
output_tokens visual_tokens images frames request_rate_per_s prefill_energy_j decode_energy_j
total_energy_j prefill_energy_j_ci95_j decode_energy_j_ci95_j total_energy_j_ci95_j idle_power_w
energy_per_output_token_j prefill_latency_s decode_latency_s total_latency_s ttft_s itl_s meter
window_s samples repeats counter_vs_integral throttled valid reasons""",
    )
)


def test_every_column_of_the_design_is_there_once():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert set(names) >= DESIGN
    assert set(IDENTITY_DEFAULTS) <= set(names)
    assert {c.name for c in COLUMNS if c.required} == {
        "model_id",
        "family",
        "hardware",
        "batch",
        "output_tokens",
        "total_energy_j",
    }


def test_types_of_the_parquet_columns():
    schema = arrow_schema()
    assert schema.field("reasons").type == pa.list_(pa.string())
    assert schema.field("measured_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("valid").type == pa.bool_()
    assert "hardware" in schema.names
    assert "hardware" not in arrow_schema(partition=False).names


def test_documentation_lists_the_columns(repository: Path):
    text = (repository / "docs" / "data.md").read_text()
    assert markdown_table() in text, "run: python -m harness.store.schema, paste into docs/data.md"


def test_conform_adds_casts_orders_and_keeps_extras():
    frame = pd.DataFrame(
        {
            "note": ["x", None],
            "batch": [4.0, np.nan],
            "total_energy_ci95_j": [1, 2],
            "reasons": [["throttled"], None],
            "measured_at": [datetime(2026, 11, 20, tzinfo=UTC), None],
            "throttled": [True, None],
        }
    )
    out = conform(frame)
    assert list(out.columns) == [*(c.name for c in COLUMNS), "note"]
    assert out["batch"].tolist()[0] == 4
    assert out["batch"].isna().tolist() == [False, True]
    assert out["total_energy_j_ci95_j"].tolist() == [1.0, 2.0]
    assert out["reasons"].tolist() == [["throttled"], None]
    assert out["measured_at"][0] == pd.Timestamp("2026-11-20", tz="UTC")
    assert out["model_id"].isna().all()
    pd.testing.assert_frame_equal(conform(out), out)


def test_naive_times_count_as_utc():
    out = conform(pd.DataFrame({"measured_at": [pd.Timestamp("2026-11-20 08:00:00.000000123")]}))
    assert out["measured_at"][0] == pd.Timestamp("2026-11-20 08:00", tz="UTC")


@pytest.mark.parametrize(
    ("column", "value"),
    [("batch", 1.5), ("batch", "many"), ("total_energy_j", "3 J"), ("reasons", "throttled")],
)
def test_conform_names_the_column_that_does_not_fit(column, value):
    with pytest.raises(StoreError, match=column):
        conform(pd.DataFrame({column: [value]}))


VALUES = {
    "str": st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8),
    "int": st.integers(0, 2**53),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "time": st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    "list": st.lists(st.sampled_from(["throttled", "drift", "x"]), max_size=3),
}


@given(st.data())
def test_rows_survive_the_way_to_arrow_and_back(data):
    names = data.draw(st.lists(st.sampled_from(sorted(BY_NAME)), min_size=1, unique=True))
    row = {name: VALUES[BY_NAME[name].type] | st.none() for name in names}
    rows = data.draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=4))
    table = to_table(rows)
    assert table.schema.equals(arrow_schema())
    assert table.select(names).to_pylist() == [{n: r[n] for n in names} for r in rows]
    again = to_table(conform(rows))
    assert again.equals(table)


def test_importing_the_store_loads_nothing_heavy():
    code = (
        "import sys, harness.store, harness.store.identity, harness.store.schema as s; s.COLUMNS;"
        "heavy = {'pandas', 'pyarrow', 'duckdb', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
