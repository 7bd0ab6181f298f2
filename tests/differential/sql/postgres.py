"""Writes PostgreSQL's answers into tests/fixtures/sql/postgres.jsonl: for each statement there, names of columns and rows.

    python3 postgres.py 'host=/var/run/postgresql dbname=test' ../../fixtures/sql/postgres.jsonl [statement …]

Statements given as arguments are added. The table `t` is the one of tests/integration/sql_postgres.rs. Needs psycopg 3.
"""
import datetime
import json
import math
import sys

import psycopg

nan, inf = math.nan, math.inf
START = 1780372200
# q, seconds after START, value, job, zone
ROWS = [
    ("a", 0, 1.0, "api", "eu"), ("a", 1, nan, "api", "us"), ("a", 2, 9.0, "web", None), ("a", 3, nan, "web", "eu"),
    ("a", 4, 2.0, "api", "eu"), ("b", 0, inf, "api", "eu"), ("b", 1, inf, "api", "us"), ("c", 0, -inf, "web", "eu"),
    ("c", 1, -inf, "api", None), ("d", 0, nan, "api", "eu"), ("d", 1, nan, "db", "eu"), ("e", 0, 0.0, "db", "us"),
    ("e", 1, -0.0, "db", "us"), ("e", 2, None, "db", "us"), ("e", 3, 1.5, "api", "us"), ("f", 0, inf, "db", "eu"),
    ("f", 1, -inf, "db", "eu"), ("f", 2, nan, "db", None), ("g", 0, None, "x", "x"), ("g", 1, None, "x", "x"),
]


def cell(v):
    """A value as Quiver's JSON has it."""
    if isinstance(v, float):
        if v != v:
            return "NaN"
        return v if math.isfinite(v) else ("+Inf" if v > 0 else "-Inf")
    if v is None or isinstance(v, (bool, int, str)):
        return v
    if isinstance(v, datetime.datetime):
        return v.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(v, (list, tuple)):
        return [cell(x) for x in v]
    return float(v)


def main():
    connection = psycopg.connect(sys.argv[1], autocommit=True)
    connection.execute("SET timezone = 'UTC'")
    connection.execute('CREATE TEMP TABLE t (q text, ts timestamptz, value float8, job text COLLATE "C", zone text COLLATE "C")')
    with connection.cursor() as cursor:
        for q, at, value, job, zone in ROWS:
            cursor.execute("INSERT INTO t VALUES (%s, to_timestamp(%s), %s, %s, %s)", (q, START + at, value, job, zone))
    with open(sys.argv[2]) as file:
        statements = [json.loads(line)["sql"] for line in file]
    with open(sys.argv[2], "w") as file:
        for sql in statements + sys.argv[3:]:
            answer = connection.execute(sql)
            rows = [[cell(v) for v in row] for row in answer.fetchall()]
            file.write(json.dumps({"sql": sql, "names": [d.name for d in answer.description], "rows": rows}) + "\n")


main()
