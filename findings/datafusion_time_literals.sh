#!/usr/bin/env bash
# Finding: a time in milliseconds compared with a finer text loses the finer part in DataFusion.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     a column Timestamp(ms, UTC) with 03:50:00.000; WHERE ts < '… 03:50:00.0005Z', as text and as a time of nanoseconds
# Expected:  the row: 0 is less than 0.5 ms
# Observed:  no row. The text is cast to the column's type, and a time of nanoseconds is divided, which both cut it to
#            03:50:00.000.
# In Quiver: src/query/sql/meaning.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import datafusion, pyarrow as pa

print("datafusion", importlib.metadata.version("datafusion"))
context = datafusion.SessionContext()
ts = pa.array([1780372200000]).cast(pa.timestamp("ms", "UTC"))
context.register_record_batches("t", [[pa.record_batch([ts], names=["ts"])]])
for literal in ["'2026-06-02T03:50:00.0005Z'", "to_timestamp('2026-06-02T03:50:00.0005Z')"]:
    n = context.sql(f"SELECT count(*) AS n FROM t WHERE ts < {literal}").to_pylist()[0]["n"]
    print(f"ts < {literal}: {n} rows")
    assert n == 0, "this has changed"
print("as described")
PY
