// Random mutations of PromQL queries, with what Prometheus's parser says of each: lines for the test
// the_corpus_is_answered_as_prometheus_does (src/query/promql/tests.rs, where the fields are explained).
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	_ "unsafe" // for linkname

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

const selectorOnly = 8

// What the engine does after PreprocessExpr.
//
//go:linkname setOffsetForAtModifier github.com/prometheus/prometheus/promql.setOffsetForAtModifier
func setOffsetForAtModifier(evalTime int64, expr parser.Expr)

type line struct {
	Query     string `json:"q"`
	Features  int    `json:"f"`
	Error     string `json:"e,omitempty"`
	Printed   string `json:"s,omitempty"`
	Formatted string `json:"p,omitempty"`
	Tree      string `json:"t,omitempty"`
	NoPlan    string `json:"pe,omitempty"`
}

func main() {
	seed := flag.Int64("seed", 1, "random seed")
	count := flag.Int("n", 50000, "number of queries")
	corpus := flag.String("corpus", "../../src/query/promql/testdata/corpus.jsonl", "queries to start from")
	flag.Parse()
	base, valid, err := queries(*corpus)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m := mutator{rand.New(rand.NewSource(*seed)), base, valid}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for range *count {
		features := []int{0, 1, 3, 3, 7, 7, 7, 7, 7, selectorOnly}[m.Intn(10)]
		if err := enc.Encode(answer(m.query(), features)); err != nil {
			panic(err)
		}
	}
}

// queries of a file: all, and those that parse.
func queries(path string) (out, valid []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for _, l := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		var q line
		if err := json.Unmarshal(l, &q); err != nil {
			return nil, nil, err
		}
		if !seen[q.Query] && len(q.Query) < 400 {
			seen[q.Query] = true
			out = append(out, q.Query)
			if q.Error == "" && q.Features&selectorOnly == 0 {
				valid = append(valid, q.Query)
			}
		}
	}
	return out, valid, nil
}

// answer asks Prometheus.
func answer(query string, features int) line {
	out := line{Query: query, Features: features}
	p := parser.NewParser(parser.Options{
		EnableExperimentalFunctions: features&1 != 0,
		EnableBinopFillModifiers:    features&2 != 0,
		EnableUnquotedUTF8Names:     features&4 != 0,
	})
	if features&selectorOnly != 0 {
		ms, err := p.ParseMetricSelector(query)
		if err != nil {
			out.Error = err.Error()
			return out
		}
		for _, m := range ms {
			out.Printed += m.String() + ","
		}
		return out
	}
	expr, err := p.ParseExpr(query)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.Printed = expr.String()
	if pretty := parser.Prettify(expr); pretty != out.Printed {
		out.Formatted = pretty
	}
	var b strings.Builder
	tree(expr, &b)
	expr, err = promql.PreprocessExpr(expr, time.Unix(1000, 0), time.Unix(1360, 0), 15*time.Second)
	if err != nil {
		out.NoPlan = err.Error()
	} else {
		setOffsetForAtModifier(1_000_000, expr)
		b.WriteString(" => ")
		tree(expr, &b)
	}
	out.Tree = b.String()
	return out
}

func at(t *int64) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf(" @%d", *t)
}

func tree(e parser.Expr, b *strings.Builder) {
	pos := e.PositionRange()
	head := func(name string) { fmt.Fprintf(b, "(%s %d:%d", name, pos.Start, pos.End) }
	children := []parser.Expr{}
	switch n := e.(type) {
	case *parser.VectorSelector:
		head("VectorSelector")
		fmt.Fprintf(b, " %d%s)", n.Offset.Milliseconds(), at(n.Timestamp))
		return
	case *parser.MatrixSelector:
		head("MatrixSelector")
		fmt.Fprintf(b, " %d ", n.Range.Milliseconds())
		tree(n.VectorSelector, b)
		b.WriteString(")")
		return
	case *parser.AggregateExpr:
		head("AggregateExpr")
		children = append(children, n.Expr)
		if n.Param != nil {
			children = append(children, n.Param)
		}
	case *parser.BinaryExpr:
		head("BinaryExpr")
		if n.VectorMatching != nil {
			b.WriteString(" " + n.VectorMatching.Card.String())
		}
		children = append(children, n.LHS, n.RHS)
	case *parser.Call:
		head("Call")
		children = append(children, n.Args...)
	case *parser.SubqueryExpr:
		head("SubqueryExpr")
		fmt.Fprintf(b, " %d %d %d%s", n.Range.Milliseconds(), n.Step.Milliseconds(), n.Offset.Milliseconds(), at(n.Timestamp))
		children = append(children, n.Expr)
	case *parser.NumberLiteral:
		head("NumberLiteral")
		b.WriteString(" " + strconv.FormatFloat(n.Val, 'f', -1, 64))
	case *parser.ParenExpr:
		head("ParenExpr")
		children = append(children, n.Expr)
	case *parser.StringLiteral:
		head("StringLiteral")
	case *parser.UnaryExpr:
		head("UnaryExpr")
		children = append(children, n.Expr)
	case *parser.StepInvariantExpr:
		head("StepInvariantExpr")
		children = append(children, n.Expr)
	case *parser.DurationExpr:
		head("DurationExpr")
	}
	for _, c := range children {
		b.WriteString(" ")
		tree(c, b)
	}
	b.WriteString(")")
}

type mutator struct {
	*rand.Rand
	base, valid []string
}

var pieces = strings.Split(`( ) { } [ ] , = == != =~ !~ < > <= >= </ >/ + - * / % ^ atan2 and or unless bool on(a) ignoring(a) `+
	`group_left group_right(b) fill(0) fill_left(1) fill_right(-1) by(a) without() offset -5m @ start() end() 5m 1h30m 0 1 .5 1e3 `+
	`0x1F Inf NaN -1 step() range() min_of(1,2) max_of(1m,2m) anchored smoothed sum avg topk count_values quantile limitk `+
	`limit_ratio rate increase label_replace histogram_quantile info sort_by_label absent time() vector(1) scalar(x) "a" 'b' `+
	"`c` \"\\xff\" \"\\u00e9\" '\\n' \"\\\\.\" \"é\" foo {__name__=\"x\"} {\"x.y\"} {a=~\".*\"} {a!~\"b|c\"} {\"\\xff\"=\"x\"} {a=\"\\xff\"} "+
	`[5m] [5m:] [5m:1m] [step()*2] [-1m] # : ! . é 日本 \ ; & | ~ $ ? 1y 10d5 5mm __name__ le job x_total a:b a.b on ignoring by `+
	`1_000 0b1 08 1e 5m5s 1s1m {} {,} {a="b",} {a} () +1 --1 0.5e-3 0x 1w2d3h4m5s6ms INF nan BOOL SUM By oN`, " ")

// query mutates one of the queries: token for token of the same kind, so that most still parse, or anything anywhere.
func (m mutator) query() string {
	for {
		q := m.base[m.Intn(len(m.base))]
		if m.Intn(5) < 3 {
			q = m.valid[m.Intn(len(m.valid))]
			for range m.Intn(3) {
				q = m.exchange(q)
			}
			if m.Intn(3) == 0 {
				q = m.compose(q)
			}
		} else {
			for range 1 + m.Intn(2)*m.Intn(3) {
				q = m.mutate(q)
			}
		}
		if len(q) < 600 && utf8.ValidString(q) {
			return q
		}
	}
}

var token = regexp.MustCompile(`"[^"\\]*"|[a-zA-Z_][a-zA-Z0-9_:]*|[0-9][0-9a-z.]*|[-+*/%^=!<>~]+|\s+|.`)

var kinds = [][]string{
	{"+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">=", "</", ">/", "and", "or", "unless", "atan2", "== bool", "< bool"},
	{"=", "!=", "=~", "!~"},
	{"5m", "1h30m", "90s", "1y", "1d", "300", "0.5", "step()", "2*step()", "(1m+30s)", "max_of(1m,step())", "-1m", "1s1ms", "2w", "range()"},
	{"1", "0.5", "1e9", "0x1F", "Inf", "-NaN", "+1", "1_000", "-.5", "007", "1e-7", "123456789012345678", "2m"},
	{"sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "COUNT", "Sum"},
	{"topk", "bottomk", "quantile", "limitk", "limit_ratio"},
	{"rate", "increase", "delta", "irate", "sum_over_time", "last_over_time", "changes", "ts_of_max_over_time", "mad_over_time", "absent_over_time"},
	{"abs", "ceil", "sort", "timestamp", "absent", "histogram_count", "sgn", "round", "year", "info", "start_timestamp"},
	{"by", "without", "BY"}, {"on", "ignoring", "ON"}, {"group_left", "group_right", "group_left(x)", "group_right(a, b)"},
	{`"a"`, `"(.*)"`, `"é"`, `"\\d+"`, `"\xff"`, `"a\nb"`, `'x"y'`, "`\\`", `""`, `"0.5"`, `"\u00e9\t"`},
}

// exchange puts another token of the same kind into the place of one.
func (m mutator) exchange(q string) string {
	tokens := token.FindAllStringIndex(q, -1)
	for range 20 {
		t := tokens[m.Intn(len(tokens))]
		for _, kind := range kinds {
			if slices.Contains(kind, q[t[0]:t[1]]) || (q[t[0]] == '"' && kind[0] == `"a"`) {
				return q[:t[0]] + kind[m.Intn(len(kind))] + q[t[1]:]
			}
		}
		switch c := q[t[0]]; {
		case c >= '0' && c <= '9':
			kind := kinds[2+m.Intn(2)]
			return q[:t[0]] + kind[m.Intn(len(kind))] + q[t[1]:]
		case c == ' ':
			return q[:t[0]] + []string{"  ", "\n", "\t", " # x\n", ""}[m.Intn(5)] + q[t[1]:]
		}
	}
	return q
}

// compose puts queries together.
func (m mutator) compose(q string) string {
	some := func(k int) string { return kinds[k][m.Intn(len(kinds[k]))] }
	switch m.Intn(9) {
	case 0:
		return q + " " + some(0) + " " + m.valid[m.Intn(len(m.valid))]
	case 1:
		return q + " " + some(0) + " " + some(9) + "(a, b) " + m.valid[m.Intn(len(m.valid))]
	case 2:
		return q + " " + some(0) + " " + some(9) + " (a) " + some(10) + " (" + m.valid[m.Intn(len(m.valid))] + ")"
	case 3:
		return some(4) + " " + some(8) + " (job, le) (" + q + ")"
	case 4:
		return some(5) + "(" + some(3) + ", " + q + ") " + some(8) + `(a, "b.c")`
	case 5:
		return some(7) + "(" + q + ")"
	case 6:
		return some(6) + "((" + q + ")[" + some(2) + ":" + some(2) + "])"
	case 7:
		return some(6) + "(" + q + "[" + some(2) + "])"
	}
	return q + " " + []string{"offset " + some(2), "@ start()", "@ end()", "@ " + some(3), "anchored", "smoothed"}[m.Intn(6)]
}

// place is a random place between characters.
func (m mutator) place(q string) int {
	i := m.Intn(len(q) + 1)
	for i < len(q) && !utf8.RuneStart(q[i]) {
		i++
	}
	return i
}

func (m mutator) part(q string) (int, int) {
	a, b := m.place(q), m.place(q)
	if m.Intn(3) > 0 && len(q) > 0 {
		b = a + 1 + m.Intn(6)
		for b < len(q) && !utf8.RuneStart(q[b]) {
			b++
		}
	}
	return min(a, b, len(q)), min(max(a, b), len(q))
}

func (m mutator) mutate(q string) string {
	a, b := m.part(q)
	piece := pieces[m.Intn(len(pieces))]
	switch m.Intn(10) {
	case 0:
		return q[:a] + q[b:]
	case 1:
		return q[:b] + q[a:]
	case 2:
		return q[:a] + piece + q[a:]
	case 3:
		return q[:a] + " " + piece + " " + q[a:]
	case 4:
		return q[:a] + piece + q[b:]
	case 5: // a part of another query
		other := m.base[m.Intn(len(m.base))]
		c, d := m.part(other)
		return q[:a] + other[c:d] + q[b:]
	case 6: // two queries, joined
		return q + " " + piece + " " + m.base[m.Intn(len(m.base))]
	case 7: // a function around it
		return piece + "(" + q + ")"
	case 8: // one character
		r := []rune("abexn019 \t\n\"'`\\(){}[],.:=!<>~+-*/%^@#_$é\u00a0\u2028\u0000\U0001F600")
		return q[:a] + string(r[m.Intn(len(r))]) + q[a:]
	}
	i := strings.IndexAny(q[a:], " ,(){}[]")
	if i < 0 {
		return q + piece
	}
	return q[:a+i] + " " + piece + q[a+i:]
}
