// The same samples of a native histogram, written in order and not, and what Prometheus answers then. Samples that share a
// chunk share a bucket layout: the union of theirs, with zeros. So what is 0 times infinity, and what counts as a change,
// depends on where chunks were cut, not on the samples alone.
package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/teststorage"
)

type sample struct {
	at int64
	h  *histogram.Histogram
}

// native has counts per bucket; 0: the bucket is not there.
func native(counts ...int64) *histogram.Histogram {
	h := &histogram.Histogram{ZeroThreshold: 1e-128}
	var last, gap int64
	for _, n := range counts {
		if n == 0 {
			gap++
			continue
		}
		if k := len(h.PositiveSpans); k > 0 && gap == 0 {
			h.PositiveSpans[k-1].Length++
		} else {
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: int32(gap), Length: 1})
		}
		gap = 0
		h.PositiveBuckets = append(h.PositiveBuckets, n-last)
		last = n
		h.Count += uint64(n)
	}
	h.Sum = float64(h.Count)
	return h
}

func answers(samples []sample, queries []string) (out []string) {
	db, err := teststorage.NewWithError(func(o *tsdb.Options) {
		o.OutOfOrderTimeWindow = math.MaxInt64 / 2
	})
	must(err)
	defer db.Close()
	name := labels.FromStrings(labels.MetricName, "h")
	for _, s := range samples {
		app := db.AppenderV2(context.Background())
		_, err := app.Append(0, name, 0, s.at, 0, s.h, nil, storage.AppendV2Options{})
		must(err)
		must(app.Commit())
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 20, Timeout: time.Minute, EnableAtModifier: true})
	for _, q := range queries {
		query, err := engine.NewInstantQuery(context.Background(), db, nil, q, time.UnixMilli(100_000))
		must(err)
		out = append(out, query.Exec(context.Background()).String())
		query.Close()
	}
	return out
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	a, b, c := sample{10_000, native(1, 0, 1)}, sample{20_000, native(1, 0, 1)}, sample{30_000, native(1, 1, 1)}
	queries := []string{"h @ 10 * -Inf", "changes(h[100s])"}
	inOrder, late := answers([]sample{a, b, c}, queries), answers([]sample{b, c, a}, queries)
	for i, q := range queries {
		fmt.Printf("%s\n  in order      %s\n  first is last %s\n", q, inOrder[i], late[i])
		if inOrder[i] == late[i] {
			panic("the answers do not differ")
		}
	}
}
