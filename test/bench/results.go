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

// results are the figures, with what each round said.
type results struct {
	keys   []string
	values map[string][]float64
}

// add notes what a round says of a figure.
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

// print shows a table for people.
func (r *results) print(w io.Writer) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "figure\tmedian\tleast\tmost\trounds\t")
	for _, key := range r.keys {
		v := r.values[key]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t\n", key, figure(r.median(key)), figure(slices.Min(v)), figure(slices.Max(v)), len(v))
	}
	_ = t.Flush() // to the terminal
}

// figure has three digits that count.
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

// store writes medians for programs, and all rounds beside them.
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
