// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// A step is measured by the manager that stores its time. Whichever manager stores the next status, after a restart or as the new
// leader, does not measure it again; and if a manager ends in between, the step is lost.
func TestEachStepIsMeasuredOnce(t *testing.T) {
	begin := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	at := func(s int) *metav1.Time { return new(metav1.NewTime(begin.Add(time.Duration(s) * time.Second))) }
	join := func(edit func(*v1alpha1.JoinTimes)) *v1alpha1.NodeBootstrapStatus {
		t := &v1alpha1.JoinTimes{PublishedTime: at(0), RequestedTime: at(100), ApprovedTime: at(101), IssuedTime: at(103), RegisteredTime: at(107)}
		edit(t)
		return &v1alpha1.NodeBootstrapStatus{Join: t}
	}
	awaited := &v1alpha1.NodeBootstrapStatus{}
	joined := join(func(*v1alpha1.JoinTimes) {})
	ready := join(func(t *v1alpha1.JoinTimes) { t.ReadyTime = at(115) })
	serving := join(func(t *v1alpha1.JoinTimes) { t.ReadyTime, t.ServingTime = at(115), at(123) })
	onlyApproved := join(func(t *v1alpha1.JoinTimes) { t.RequestedTime, t.IssuedTime, t.ReadyTime = nil, nil, at(115) })
	skewed := join(func(t *v1alpha1.JoinTimes) { t.PublishedTime = at(200) }) // published again after the CSR was sent
	first := map[string]float64{steps.Requested: 100, steps.Approved: 1, steps.Issued: 2, steps.Registered: 4}

	type change struct{ old, new *v1alpha1.NodeBootstrapStatus }
	for name, tt := range map[string]struct {
		managers [][]change // the changes that each one stores
		want     map[string]float64
	}{
		"one manager":                       {[][]change{{{awaited, joined}, {joined, ready}, {ready, serving}}}, with(first, steps.Ready, 8, steps.Serving, 16, "all", 115)},
		"one after another":                 {[][]change{{{awaited, joined}, {joined, joined}}, {{joined, ready}}, {{ready, ready}, {ready, serving}}}, with(first, steps.Ready, 8, steps.Serving, 16, "all", 115)},
		"everything at once":                {[][]change{{{awaited, serving}}}, with(first, steps.Ready, 8, steps.Serving, 16, "all", 115)},
		"one ends after it has stored":      {[][]change{{}, {{joined, ready}}}, map[string]float64{steps.Ready: 8, "all": 115}},
		"what is not known is not measured": {[][]change{{{awaited, onlyApproved}}}, map[string]float64{steps.Ready: 8, "all": 115}},
		"never less than nothing":           {[][]change{{{awaited, skewed}}}, with(first, steps.Requested, 0)},
		"a new wait":                        {[][]change{{{serving, awaited}}}, map[string]float64{}},
	} {
		t.Run(name, func(t *testing.T) {
			count, sum := map[string]uint64{}, map[string]float64{}
			for _, stored := range tt.managers {
				registry := prometheus.NewRegistry()
				m, err := New(registry, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range stored {
					m.Observe(c.old, c.new, begin)
				}
				addHistograms(t, m, count, sum)
			}
			for step, n := range count {
				if n != 1 {
					t.Errorf("%s is measured %d times", step, n)
				}
			}
			if !maps.Equal(sum, tt.want) {
				t.Errorf("measured %v, want %v", sum, tt.want)
			}
		})
	}
}

// with is a copy of a map with further entries.
func with(m map[string]float64, more ...any) map[string]float64 {
	out := maps.Clone(m)
	for i := 0; i < len(more); i += 2 {
		out[more[i].(string)] = float64(more[i+1].(int))
	}
	return out
}

// addHistograms adds the observations of the steps, and of whole joins.
func addHistograms(t *testing.T, m *Metrics, count map[string]uint64, sum map[string]float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.steps, m.toReady)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, one := range family.GetMetric() {
			step := "all"
			if labels := one.GetLabel(); len(labels) > 0 {
				step = labels[0].GetValue()
			}
			if n := one.GetHistogram().GetSampleCount(); n > 0 {
				count[step] += n
				sum[step] += one.GetHistogram().GetSampleSum()
			}
		}
	}
}
