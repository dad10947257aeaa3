// SPDX-License-Identifier: Apache-2.0

// Command plot draws the graphs of a Grafana dashboard, an SVG, from scrapes: JSON objects with the time in milliseconds and
// the text of /metrics. Its queries are evaluated by Prometheus' own engine. Lines that are never above zero are left out.
// Usage: plot DASHBOARD <SCRAPES
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"
)

const (
	step          = time.Second
	width, height = 520, 250 // of a panel
	left, top     = 48, 34   // of a panel's graph, within it
	right, bottom = 12, 74   // the same; the legend is below
	perLegendLine = 2
)

var colors = []string{"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"}

type panel struct {
	Title   string
	Type    string
	Targets []struct{ Expr, LegendFormat string }
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "plot: %v\n", err)
		os.Exit(1)
	}
}

func run(file string) (err error) {
	var dashboard struct{ Panels []panel }
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, &dashboard)
	}
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "plot-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := tsdb.Open(dir, nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	start, end, err := load(db, os.Stdin)
	if err != nil {
		return err
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e7, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})

	var svg strings.Builder
	n := 0
	for _, p := range dashboard.Panels {
		if p.Type != "timeseries" {
			continue
		}
		names, lines := []string{}, promql.Matrix{}
		for _, t := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "10s", "$job", ".+").Replace(t.Expr)
			query, err := engine.NewRangeQuery(context.Background(), db, nil, expr, start, end, step)
			if err != nil {
				return fmt.Errorf("%s: %w", expr, err)
			}
			matrix, err := query.Exec(context.Background()).Matrix()
			if err != nil {
				return fmt.Errorf("%s: %w", expr, err)
			}
			for _, series := range matrix {
				if !slices.ContainsFunc(series.Floats, func(p promql.FPoint) bool { return p.F > 0 }) {
					continue
				}
				names, lines = append(names, legend(t.LegendFormat, series.Metric)), append(lines, series)
			}
		}
		draw(&svg, n, p.Title, names, lines, start, end)
		n++
	}
	fmt.Printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n"+
		`<rect width="100%%" height="100%%" fill="white"/>`+"\n%s</svg>\n", 2*width, (n+1)/2*height, svg.String())
	return nil
}

// load stores scrapes as Prometheus would, and tells when the first and the last were.
func load(db *tsdb.DB, in io.Reader) (start, end time.Time, err error) {
	app := db.Appender(context.Background())
	before := map[string]labels.Labels{} // the series of the last scrape
	for scrapes := json.NewDecoder(in); ; {
		var s struct {
			At   int64
			Text string
		}
		if err := scrapes.Decode(&s); errors.Is(err, io.EOF) {
			return start, end, app.Commit()
		} else if err != nil {
			return start, end, err
		}
		if end = time.UnixMilli(s.At); start.IsZero() {
			start = end
		}
		now := map[string]labels.Labels{}
		p := textparse.NewPromParser([]byte(s.Text), labels.NewSymbolTable(), false)
		for {
			entry, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return start, end, err
			}
			if entry != textparse.EntrySeries {
				continue
			}
			var l labels.Labels
			p.Labels(&l)
			_, _, sample := p.Series()
			target := labels.NewBuilder(l).Set("job", "nodebootstrap-metrics").Set("pod", "manager").Labels()
			if _, err := app.Append(0, target, s.At, sample); err != nil {
				return start, end, err
			}
			now[target.String()] = target
		}
		for key, target := range before { // one that is no more ends there
			if _, ok := now[key]; ok {
				continue
			}
			if _, err := app.Append(0, target, s.At, math.Float64frombits(value.StaleNaN)); err != nil {
				return start, end, err
			}
		}
		before = now
	}
}

var label = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

func legend(format string, l labels.Labels) string {
	return label.ReplaceAllStringFunc(format, func(s string) string { return l.Get(label.FindStringSubmatch(s)[1]) })
}

// draw draws the panel n with its lines from start to end.
func draw(out io.Writer, n int, title string, names []string, lines promql.Matrix, start, end time.Time) {
	most := 0.0
	for _, l := range lines {
		for _, p := range l.Floats {
			if !math.IsNaN(p.F) {
				most = max(most, p.F)
			}
		}
	}
	if most == 0 {
		most = 1
	}
	w, h := float64(width-left-right), float64(height-top-bottom)
	fmt.Fprintf(out, `<g transform="translate(%d %d)"><text x="%d" y="20" font-size="13" font-weight="bold">%s</text>`+"\n",
		n%2*width, n/2*height, left, html.EscapeString(title))
	for i := range 3 {
		y := float64(top) + h*float64(i)/2
		fmt.Fprintf(out, `<path d="M%d %.1fh%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, y, w, left-5, y+4, number(most*float64(2-i)/2))
	}
	fmt.Fprintf(out, `<text x="%d" y="%.1f">0 s</text><text x="%d" y="%.1f" text-anchor="end">%.0f s</text>`+"\n",
		left, top+h+14, width-right, top+h+14, end.Sub(start).Seconds())
	for i, l := range lines {
		color, path, pen := colors[i%len(colors)], "", "M"
		for _, p := range l.Floats {
			if math.IsNaN(p.F) {
				pen = "M"
				continue
			}
			path += fmt.Sprintf("%s%.1f %.1f", pen, left+w*float64(p.T-start.UnixMilli())/float64(end.Sub(start).Milliseconds()), top+h*(1-p.F/most))
			pen = "L"
		}
		x, y := float64(left)+float64(i%perLegendLine)*w/perLegendLine, top+h+30+float64(i/perLegendLine)*13
		fmt.Fprintf(out, `<path d="%s" fill="none" stroke="%s" stroke-width="1.5"/><text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n",
			path, color, x, y, color, html.EscapeString(names[i]))
	}
	fmt.Fprintln(out, "</g>")
}

// number is a figure at an axis.
func number(f float64) string {
	switch {
	case f >= 1e6:
		return strconv.FormatFloat(f/1e6, 'f', 0, 64) + "M"
	case f >= 10:
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', 2, 64)
}
