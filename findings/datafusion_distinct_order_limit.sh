#!/usr/bin/env bash
# Finding: SELECT DISTINCT … ORDER BY … LIMIT n over a union of sorted parts leaves rows out in DataFusion.
#
# Software:  datafusion 55.0.0 from PyPI, which is the DataFusion crate 55.2.0
# Input:     two partitions of 100 numbers each, of 0 to 59; the distinct ones of two sorted halves, the first ten
# Expected:  ten rows, the first ten of the same statement without LIMIT
# Observed:  one of the ten is left out; with other data there are fewer than ten. The sort with its limit is put below the
#            aggregation that removes duplicates over all partitions, so ten rows of each partition are kept, some of which
#            are the same. With one partition, or with datafusion.optimizer.prefer_existing_sort = true, the ten are right.
# In Quiver: src/query/sql/rules.rs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datafusion==55.0.0 pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata, random
import datafusion, pyarrow as pa

print("datafusion", importlib.metadata.version("datafusion"))

def rows(**settings):
    config = datafusion.SessionConfig().with_target_partitions(2)
    for name, value in settings.items():
        config = config.set("datafusion.optimizer." + name, value)
    context = datafusion.SessionContext(config)
    rng = random.Random(1)
    batch = lambda: pa.record_batch([pa.array([rng.randrange(60) for _ in range(50)]), pa.array([rng.randrange(20) for _ in range(50)])], names=["x", "v"])
    context.register_record_batches("t", [[batch(), batch()], [batch(), batch()]])
    statement = ("SELECT DISTINCT x FROM ((SELECT x FROM t WHERE v < 12 ORDER BY x LIMIT 40) UNION ALL "
                 "(SELECT x FROM t WHERE v > 8 ORDER BY x LIMIT 40)) u ORDER BY x")
    ask = lambda sql: [r["x"] for r in context.sql(sql).to_pylist()]
    return ask(statement), ask(statement + " LIMIT 10")

full, limited = rows()
print("without LIMIT:", full)
print("LIMIT 10:     ", limited)
assert len(full) >= 10 and limited != full[:10], "this has changed"
full, limited = rows(prefer_existing_sort="true")
assert limited == full[:10], "prefer_existing_sort does not help any more"
print("as described")
PY
