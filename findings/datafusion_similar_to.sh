#!/usr/bin/env bash
# Finding: SIMILAR TO is a search for a regular expression in DataFusion: % and _ mean themselves, and a part of the text is enough.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     'api' SIMILAR TO 'a%', 'p' and 'a.i'
# Expected:  true, false, false: % stands for any text, the whole text has to match, and a dot is a dot (SQL:2016, 8.6; PostgreSQL)
# Observed:  false, true, true
# In Quiver: src/query/sql/patterns.rs
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
context.register_record_batches("t", [[pa.record_batch([["api"]], names=["job"])]])
found = []
for pattern in ["a%", "p", "a.i"]:
    found.append(context.sql(f"SELECT job SIMILAR TO '{pattern}' AS f FROM t").to_pylist()[0]["f"])
    print(repr(pattern), found[-1])
assert found == [False, True, True], "the results have changed"
print("as described")
PY
