-- The three busiest jobs at one moment.
SELECT job, value AS requests_per_second
FROM promql_instant('topk(3, sum by (job) (rate(http_requests_total[5m])))', 1700000000)
ORDER BY value DESC, job;
