-- Which label of which metric has the most values: where the series come from.
SELECT metric, key AS label, count(DISTINCT value) AS label_values
FROM (
    SELECT metric, unnest(map_keys(labels)) AS key, unnest(map_values(labels)) AS value
    FROM series
)
GROUP BY metric, key
ORDER BY label_values DESC, metric, label
LIMIT 20;
