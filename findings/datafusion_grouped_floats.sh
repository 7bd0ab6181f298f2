#!/usr/bin/env bash
# Finding: min and max of floats differ with and without GROUP BY in DataFusion.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     three groups of doubles: Inf, Inf / 1, 9, NaN, 5, 6 / -Inf, -Inf
# Expected:  min and max of each group as of the same rows alone: Inf, Inf / 1, NaN / -Inf, -Inf
# Observed:  the minimum of Inf alone is 1.7976931348623157e308, the maximum of -Inf alone -1.7976931348623157e308: a group
#            begins at the largest and the smallest finite number. Of 1, 9, NaN, 5, 6 all before the NaN is forgotten: 5 and 6.
#            Without GROUP BY the results are as expected.
# In Quiver: src/query/sql/min_max.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata, math
import datafusion, pyarrow as pa

print("datafusion", importlib.metadata.version("datafusion"))
inf, nan = math.inf, math.nan
groups = {"a": [inf, inf], "b": [1.0, 9.0, nan, 5.0, 6.0], "c": [-inf, -inf]}
context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
rows = [(g, v) for g, values in groups.items() for v in values]
context.register_record_batches("t", [[pa.record_batch([[g for g, _ in rows], pa.array([v for _, v in rows])], names=["g", "v"])]])

def ask(sql):
    return [tuple(r.values()) for r in context.sql(sql).to_pylist()]

grouped = ask("SELECT g, min(v), max(v) FROM t GROUP BY g ORDER BY g")
alone = [(g, *ask(f"SELECT min(v), max(v) FROM t WHERE g = '{g}'")[0]) for g in groups]
print("grouped", grouped)
print("alone  ", alone)
large = 1.7976931348623157e308
assert repr(grouped) == repr([("a", large, inf), ("b", 5.0, 6.0), ("c", -inf, -large)]), "the grouped results have changed"
assert repr(alone) == repr([("a", inf, inf), ("b", 1.0, nan), ("c", -inf, -inf)]), "the results without GROUP BY have changed"
print("as described")
PY
