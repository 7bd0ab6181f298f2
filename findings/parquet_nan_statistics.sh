#!/usr/bin/env bash
# Readers of Parquet believe the minimum and the maximum of a column of floats, which leave NaN out.
#
# The Parquet format has writers leave NaN out of the statistics of row groups and pages, as pyarrow 26.0.1 does here. In SQL NaN is greater
# than any number, so a reader must not conclude from a maximum of 4 that no value is greater than 4. These do:
#
#   DuckDB 2.0.1                      WHERE isnan(value) finds 0 of 2 rows, WHERE value > 4 finds 0 of 2, max(value) is 4 instead of NaN
#   DataFusion 55.0.0                 WHERE value > 4 finds 0 of 2 rows, WHERE value = 'NaN' finds 0 of 2, max(value) is 4 instead of NaN
#   pyarrow 26.0.1 (dataset)          a filter of NOT (value <= 4) finds 0 of 2 rows
#
# The same statements over the same rows in a file without statistics of that column, or in memory, are right. So files for others have no
# statistics of floats: see src/storage/parquet/properties.rs.
#
# Installs the packages into a temporary folder and runs them on a file of six rows. Exits with 1 if what is seen differs from what is
# written here.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 datafusion==55.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import datafusion
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

nan = float("nan")
rows = pa.table({"k": pa.array(range(6)), "value": pa.array([1.0, nan, 2.0, nan, 3.0, 4.0])})
pq.write_table(rows, "with.parquet")
pq.write_table(rows, "without.parquet", write_statistics=["k"])

found = {}


def see(reader, question, answers):
    found[(reader, question)] = tuple("nan" if a != a else a for a in answers)


statistics = pq.ParquetFile("with.parquet").metadata.row_group(0).column(1).statistics
see("pyarrow writer", "minimum and maximum written", (statistics.min, statistics.max))
files = ("with.parquet", "without.parquet")
for question in ("count(*) FROM t WHERE isnan(value)", "count(*) FROM t WHERE value > 4", "max(value) FROM t"):
    answers = []
    for file in files:
        answers.append(duckdb.connect().execute("SELECT " + question.replace("FROM t", f"FROM '{file}'")).fetchone()[0])
    see("DuckDB", question, answers)
for question in (
    "count(*) FROM t WHERE value > 4",
    "count(*) FROM t WHERE value = 'NaN'::double",
    "max(value) FROM t",
):
    answers = []
    for file in files:
        context = datafusion.SessionContext()
        context.register_parquet("t", file)
        answers.append(context.sql(f"SELECT {question}").collect()[0].column(0)[0].as_py())
    see("DataFusion", question, answers)
not_small = ~(ds.field("value") <= 4)
see("pyarrow dataset", "rows where NOT (value <= 4)", [ds.dataset(f).count_rows(filter=not_small) for f in files])

# (with statistics, without): the second is right.
known = {
    ("pyarrow writer", "minimum and maximum written"): (1.0, 4.0),
    ("DuckDB", "count(*) FROM t WHERE isnan(value)"): (0, 2),
    ("DuckDB", "count(*) FROM t WHERE value > 4"): (0, 2),
    ("DuckDB", "max(value) FROM t"): (4.0, "nan"),
    ("DataFusion", "count(*) FROM t WHERE value > 4"): (0, 2),
    ("DataFusion", "count(*) FROM t WHERE value = 'NaN'::double"): (0, 2),
    ("DataFusion", "max(value) FROM t"): (4.0, "nan"),
    ("pyarrow dataset", "rows where NOT (value <= 4)"): (0, 2),
}
print(f"pyarrow {pa.__version__}, DuckDB {duckdb.__version__}, DataFusion {datafusion.__version__}")
for key, answers in found.items():
    mark = "" if known.get(key) == answers else f"   CHANGED, was {known.get(key)}"
    print(f"{key[0]:16} {key[1]:46} with statistics, without: {answers}{mark}")
sys.exit(0 if found == known else 1)
PYTHON
