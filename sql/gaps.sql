-- Where a series was silent for more than a minute.
SELECT job, code, before AS silent_from, ts AS silent_to
FROM (
    SELECT job, code, ts, lag(ts) OVER (PARTITION BY series_id ORDER BY ts) AS before
    FROM metrics."http_requests_total"
)
WHERE ts - before > INTERVAL '1 minute'
ORDER BY job, code, ts;
