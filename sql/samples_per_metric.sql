-- How much is stored of each metric, and since when.
SELECT metric, count(*) AS samples, min(ts) AS first, max(ts) AS last
FROM samples
GROUP BY metric
ORDER BY samples DESC, metric
LIMIT 20;
