#!/usr/bin/env bash
# Finding: with Parquet statistics on a column that has NaN, readers answer as if there were none.
#
# Software:  pyarrow 26.0.1, duckdb 2.0.1, datafusion 55.0.0 from PyPI
# Input:     a file of the doubles 1, 2, NaN, written with and without statistics
# Expected:  isnan(v) holds for one row, v > 2 for one (both engines order NaN above all numbers), with either file
# Observed:  Statistics leave NaN out, as the Parquet format says, so the maximum of the file is 2; DuckDB and DataFusion
#            skip the rows for v > 2, DuckDB also for isnan(v). Without statistics all answers are as expected.
# In Quiver: src/gateway/http/sql.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 pyarrow==26.0.1 duckdb==2.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata, math
import datafusion, duckdb, pyarrow as pa, pyarrow.parquet as pq

for name in ["pyarrow", "duckdb", "datafusion"]:
    print(name, importlib.metadata.version(name))
table = pa.table({"v": [1.0, 2.0, math.nan]})
found = {}
for statistics in [True, False]:
    file = f"{statistics}.parquet"
    pq.write_table(table, file, write_statistics=statistics)
    context = datafusion.SessionContext()
    context.register_parquet("t", file)
    duck = lambda p: duckdb.execute(f"SELECT count(*) FROM '{file}' WHERE {p}").fetchall()[0][0]
    fusion = lambda p: context.sql(f"SELECT count(*) AS n FROM t WHERE {p}").to_pylist()[0]["n"]
    found[statistics] = {"DuckDB isnan(v)": duck("isnan(v)"), "DuckDB v > 2": duck("v > 2"),
                         "DataFusion isnan(v)": fusion("isnan(v)"), "DataFusion v > 2": fusion("v > 2")}
    print("with statistics" if statistics else "without", found[statistics])
assert set(found[False].values()) == {1}, "the results without statistics have changed"
wrong = {k for k, v in found[True].items() if v == 0}
assert wrong == {"DuckDB isnan(v)", "DuckDB v > 2", "DataFusion v > 2"}, f"wrong are now {wrong}"
print("as described")
PY
