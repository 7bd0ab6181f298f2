#!/usr/bin/env bash
# Finding: INTERSECT ALL and EXCEPT ALL are semi and anti joins in DataFusion: they do not count equal rows.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     1, 1, 2 and 1
# Expected:  INTERSECT ALL gives 1, EXCEPT ALL gives 1, 2: SQL takes a row as often as both sides have it, or as often as the left
#            side has it more (SQL:2016, 7.17; PostgreSQL and DuckDB do so)
# Observed:  INTERSECT ALL gives 1, 1, EXCEPT ALL gives 2
# In Quiver: src/query/sql/multiset.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 duckdb==1.5.5
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import datafusion, duckdb

print("datafusion", importlib.metadata.version("datafusion"), "duckdb", duckdb.__version__)
context = datafusion.SessionContext()
for word, wrong, right in [("INTERSECT", [1, 1], [1]), ("EXCEPT", [2], [1, 2])]:
    sql = f"SELECT x FROM (VALUES (1), (1), (2)) a(x) {word} ALL SELECT x FROM (VALUES (1)) b(x)"
    rows = sorted(next(iter(r.values())) for r in context.sql(sql).to_pylist())
    others = sorted(r[0] for r in duckdb.sql(sql).fetchall())
    print(f"{word} ALL: datafusion {rows}, duckdb {others}")
    assert others == right, "DuckDB's result has changed"
    assert rows == wrong, "DataFusion's result has changed"
print("as described")
PY
