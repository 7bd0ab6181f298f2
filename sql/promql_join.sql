-- PromQL as a table: error ratio per job beside the job's total, joined in SQL.
SELECT total.job, total.ts, total.value AS requests_per_second, coalesce(failed.value, 0) / total.value AS error_ratio
FROM promql('sum by (job) (rate(http_requests_total[5m]))', 1699999700, 1700000000, 60) AS total
LEFT JOIN promql('sum by (job) (rate(http_requests_total{code=~"5.."}[5m]))', 1699999700, 1700000000, 60) AS failed
    ON total.job = failed.job AND total.ts = failed.ts
ORDER BY total.job, total.ts;
