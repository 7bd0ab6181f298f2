#!/usr/bin/env bash
# Finding: DataFusion refuses a SELECT whose columns have one name, and casts do not count.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     SELECT v, v; SELECT max(v), max(v)::int; SELECT v::text … ORDER BY v
# Expected:  rows, as from PostgreSQL, DuckDB and SQLite
# Observed:  "Projections require unique expression names", also where the second column is the one that ORDER BY adds
# In Quiver: src/query/sql/names.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 pyarrow==26.0.1 duckdb==2.0.1
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import datafusion, duckdb, pyarrow as pa

print("datafusion", importlib.metadata.version("datafusion"))
context = datafusion.SessionContext()
context.register_record_batches("t", [[pa.record_batch([pa.array([1.0, 2.0])], names=["v"])]])
duck = duckdb.connect()
duck.execute("CREATE TABLE t AS SELECT unnest([1.0, 2.0])::DOUBLE AS v")
for statement in ["SELECT v, v FROM t", "SELECT max(v), max(v)::int FROM t", "SELECT v::text FROM t ORDER BY v"]:
    print(statement, "DuckDB:", duck.execute(statement).fetchall())
    try:
        rows = context.sql(statement).to_pylist()
    except Exception as e:
        assert "unique expression names" in str(e), e
        print("  DataFusion: Projections require unique expression names")
    else:
        raise SystemExit(f"answered now: {rows}")
print("as described")
PY
