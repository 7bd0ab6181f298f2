-- The latest sample of each series of a metric.
SELECT job, code, value, ts
FROM (
    SELECT *, row_number() OVER (PARTITION BY series_id ORDER BY ts DESC) AS age
    FROM metrics."http_requests_total"
)
WHERE age = 1
ORDER BY job, code;
