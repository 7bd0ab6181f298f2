#!/usr/bin/env bash
# Finding: corr loses its digits with GROUP BY in DataFusion, and keeps them without.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     the pairs (1e8 + 1, 1), (1e8 + 2, 2), (1e8 + 3, 5): seconds since 1970 as one side are as large
# Expected:  0.9607689228305227 both ways, as PostgreSQL and DuckDB give it
# Observed:  without GROUP BY as expected; with GROUP BY, no value: a group keeps plain sums of squares, whose difference is nothing
# In Quiver: src/query/sql/min_max.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata, math
import datafusion

print("datafusion", importlib.metadata.version("datafusion"))
context = datafusion.SessionContext()
rows = "(VALUES ('x', 1e8 + 1, 1.0), ('x', 1e8 + 2, 2.0), ('x', 1e8 + 3, 5.0)) t(g, a, b)"
alone = context.sql(f"SELECT corr(a, b) AS c FROM {rows}").to_pylist()[0]["c"]
grouped = context.sql(f"SELECT g, corr(a, b) AS c FROM {rows} GROUP BY g").to_pylist()[0]["c"]
print("alone", alone, "grouped", grouped)
assert math.isclose(alone, 0.9607689228305227, rel_tol=1e-9), "the result without GROUP BY has changed"
assert grouped is None or not math.isclose(grouped, alone, rel_tol=1e-3), "the grouped result has changed"
print("as described")
PY
