#!/usr/bin/env bash
# Finding: two scalar subqueries over one table function are taken for one, whatever the arguments of the function.
#
# Software:  datafusion 55.0.0 from PyPI
# Input:     SELECT (SELECT max(value) FROM generate_series(1, 3)) + (SELECT max(value) FROM generate_series(1, 5))
# Expected:  8: the maximum is 3 in the first subquery and 5 in the second, as PostgreSQL answers
# Observed:  6: both subqueries have the value of the first. With different aliases for the two tables the answer is 8.
# In Quiver: src/query/sql/calls.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check datafusion==55.0.0 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import datafusion

print("datafusion", importlib.metadata.version("datafusion"))
context = datafusion.SessionContext()


def answer(first, second):
    one = f"(SELECT max(value) FROM generate_series(1, 3) {first})"
    two = f"(SELECT max(value) FROM generate_series(1, 5) {second})"
    return context.sql(f"SELECT {one} + {two} AS n").to_pylist()[0]["n"]


found = {"no alias": answer("", ""), "two aliases": answer("a", "b")}
print(found)
raise SystemExit(0 if found == {"no alias": 6, "two aliases": 8} else 1)
PY
