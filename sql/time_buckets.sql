-- Average, lowest and highest value per five minutes.
SELECT date_bin(INTERVAL '5 minutes', ts) AS five_minutes, room, avg(value) AS mean, min(value) AS low, max(value) AS high
FROM metrics.temperature
GROUP BY 1, 2
ORDER BY 1, 2;
