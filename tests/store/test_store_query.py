"""SQL over a run folder: views, errors on one screen, and no way to write."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.store import RunFolder, StoreError, query


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", {})
    folder.write_result("a", "H100", [{"task_id": "a", "total_energy_j": 5.0, "reasons": ["x"]}])
    folder.write_result("b", "H100", [{"task_id": "a", "attempt": 2, "total_energy_j": 6.0}])
    folder.write_result("c", "B200", [{"task_id": "c", "total_energy_j": 7.0, "mine": 1}])
    folder.write_trace("a-2", [{"t_ns": i, "power_w": 100.0 * i} for i in range(3)])
    folder.append_event("launched", node="n1", gpus=4)
    return folder


def test_views_hold_the_run(folder: RunFolder):
    rows = query(folder.path, "select task_id, hardware, total_energy_j from measurements")
    assert sorted(rows.itertuples(index=False, name=None)) == [
        ("a", "H100", 6.0),
        ("c", "B200", 7.0),
    ]
    joined = query(
        folder.path,
        "select max(t.power_w) as peak from traces t join measurements m "
        "on t.key = m.task_id || '-' || m.attempt",
    )
    assert joined["peak"].tolist() == [200.0]
    events = query(
        folder.path, "select kind, fields->>'node' as node from events where time > '2020-01-01'"
    )
    assert events.values.tolist() == [["launched", "n1"]]
    assert query(folder, "select mine from measurements where mine > 0")["mine"].tolist() == [1.0]


def test_views_exist_in_an_empty_run(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", {})
    for view in ("measurements", "traces", "events"):
        assert query(folder, f"select count(*) as n from {view}")["n"].tolist() == [0]
    assert len(query(folder, "select hardware, reasons from measurements")) == 0


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("selec 1", "syntax error"),
        ("select nope from measurements", "nope"),
        ("select * from nowhere", "nowhere"),
        (" ", "no SQL"),
    ],
)
def test_bad_sql_says_why(folder: RunFolder, sql, text):
    with pytest.raises(StoreError, match=text) as error:
        query(folder, sql)
    assert len(str(error.value).splitlines()) < 50


def test_a_long_statement_fails_on_one_screen(folder: RunFolder):
    sql = "select\n" + ",\n".join(f"column_{i}" for i in range(500)) + "\nfrom measurements"
    with pytest.raises(StoreError) as error:
        query(folder, sql)
    assert len(str(error.value).splitlines()) < 50


def test_sql_cannot_touch_files(folder: RunFolder, tmp_path: Path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = sorted(p for p in tmp_path.rglob("*"))
    for sql in (
        f"copy measurements to '{tmp_path}/out.csv'",
        f"export database '{tmp_path}/dump'",
        f"attach '{tmp_path}/new.db'",
        f"select * from '{secret}'",
        f"select * from read_csv('{secret}')",
        f"copy measurements to '{folder.path}/measurements/x.parquet'",
        "set enable_external_access = true",
        "install httpfs",
    ):
        with pytest.raises(StoreError):
            query(folder, sql)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_python_variables_are_no_tables(folder: RunFolder):
    frame_of_somebody = pd.DataFrame({"a": [1]})
    assert len(frame_of_somebody)
    with pytest.raises(StoreError, match="frame_of_somebody"):
        query(folder, "select * from frame_of_somebody")


def test_a_torn_trace_is_named(folder: RunFolder):
    torn = folder.path / "traces" / "a-3.parquet"
    torn.write_bytes(b"PAR1 half")
    assert len(query(folder, "select * from measurements")) == 2
    with pytest.raises(StoreError, match=r"a-3\.parquet"):
        query(folder, "select sum(power_w) from traces")
