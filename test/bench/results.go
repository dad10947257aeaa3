// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// results are the figures, with the value of each round.
type results struct {
	keys   []string
	values map[string][]float64
}

// add records a figure's value of one round.
func (r *results) add(key string, value float64) {
	if r.values == nil {
		r.values = map[string][]float64{}
	}
	if r.values[key] == nil {
		r.keys = append(r.keys, key)
	}
	r.values[key] = append(r.values[key], value)
	fmt.Printf("  %s: %s\n", key, figure(value))
}

func (r *results) median(key string) float64 { return median(r.values[key]) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// aims are the targets of the figures. docs/performance.md lists those that miss theirs, with the cause.
var aims = map[string]struct {
	atLeast bool
	value   float64
}{
	"mint_ratio":        {true, 0.85},
	"mint_scale":        {false, 1.1},
	"approve_ratio":     {true, 0.6},
	"serving_ratio":     {true, 0.8},
	"latency_p50_ratio": {false, 1.5},
	"latency_p99_ratio": {false, 3},
	"rss_mib_5000":      {false, 80},
	"rss_mib_15000":     {false, 150},
	"restart_s":         {false, 3},
	"restart_writes":    {false, 0},
	"idle_cpu":          {false, 0.5},
	"idle_writes":       {false, 0},
	"hostile_rss_ratio": {false, 1.5},
}

// aimOf is the aim of a figure, and whether it is missed; empty if it has none.
func aimOf(key string, value float64) string {
	aim, ok := aims[key]
	if !ok {
		return ""
	}
	text, met := "≤ ", value <= aim.value
	if aim.atLeast {
		text, met = "≥ ", value >= aim.value
	}
	text += figure(aim.value)
	if !met {
		text += " missed"
	}
	return text
}

// print shows a table for people.
func (r *results) print(w io.Writer) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "figure\tmedian\tleast\tmost\trounds\taim\t")
	for _, key := range r.keys {
		v, m := r.values[key], r.median(key)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t\n", key, figure(m), figure(slices.Min(v)), figure(slices.Max(v)), len(v), aimOf(key, m))
	}
	_ = t.Flush() // to the terminal
}

// figure has three significant digits.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.01:
		return fmt.Sprintf("%.4f", v)
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// store writes medians for programs, with all rounds next to them.
func (r *results) store(path string) error {
	out := map[string]any{"rounds": r.values}
	for _, key := range r.keys {
		out[key] = r.median(key)
	}
	content, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o600)
}
