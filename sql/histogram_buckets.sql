-- Native histograms bucket by bucket.
SELECT ts, histogram['count'] AS observations, histogram['sum'] AS total, bucket['lower'] AS lower, bucket['upper'] AS upper,
       bucket['count'] AS in_bucket
FROM (SELECT ts, histogram, unnest(histogram['buckets']) AS bucket FROM metrics.latency WHERE histogram IS NOT NULL)
ORDER BY ts, lower;
