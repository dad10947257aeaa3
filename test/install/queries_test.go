// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/monitoring"
)

// addedByPrometheus are labels that Prometheus adds to the metrics of a target.
var addedByPrometheus = []string{"job", "pod", "namespace", "instance"}

// The manager exposes the metrics, labels, and values of labels that the alerts and the dashboard use.
func TestQueriesAskForWhatIsThere(t *testing.T) {
	token := allowedReader(t, "grafana")
	issued(t, askFor(t, "counted", v1alpha1.ApprovalNode)) // a decision, and a token that expires
	cluster.Create(t, cluster.NodeBootstrap("awaited"))
	cluster.WaitAwaited(t, "awaited")

	queries, err := monitoring.ReadDashboard()
	env.Must(t, err)
	rules, err := monitoring.ReadRules()
	env.Must(t, err)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			queries = append(queries, monitoring.Query{Panel: r.Alert, Expr: r.Expr})
		}
	}
	expressions := make([]string, len(queries))
	for i, q := range queries {
		expressions[i] = q.Expr
	}
	selectors, err := monitoring.Selectors(t.Context(), expressions)
	env.Must(t, err)
	families := scraped(t, token)
	for i, q := range queries {
		for _, s := range selectors[i] {
			if err := answers(families, s); err != nil {
				t.Errorf("%s: %s: %v", q.Panel, q.Expr, err)
			}
		}
	}
}

func scraped(t *testing.T, token string) map[string]*dto.MetricFamily {
	t.Helper()
	var body string
	env.Eventually(t, "the metrics", func() error {
		status, got, err := scrape(t, "https", token)
		if err == nil && status != 200 {
			err = fmt.Errorf("%d: %.200s", status, got)
		}
		body = got
		return err
	})
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	env.Must(t, err)
	return families
}

// answers returns an error for a metric, label or value that a selector uses and the metrics lack.
func answers(families map[string]*dto.MetricFamily, s monitoring.Selector) error {
	family, labels := families[s.Metric], addedByPrometheus
	if histogram, ok := strings.CutSuffix(s.Metric, "_bucket"); ok && family == nil {
		family, labels = families[histogram], append([]string{"le"}, labels...)
	}
	if family == nil {
		return fmt.Errorf("there is no %s", s.Metric)
	}
	values := map[string][]string{}
	for _, m := range family.Metric {
		for _, l := range m.Label {
			values[l.GetName()] = append(values[l.GetName()], l.GetValue())
		}
	}
	for _, label := range s.GroupedBy {
		if values[label] == nil && !slices.Contains(labels, label) {
			return fmt.Errorf("%s has no label %s", s.Metric, label)
		}
	}
	for _, m := range s.Matchers {
		switch {
		case m.Label == "job":
			if m.Value != "nodebootstrap-metrics" && m.Value != ".+" { // the Service's name, or whatever the user selects
				return fmt.Errorf("there is no job %s", m.Value)
			}
		case values[m.Label] == nil:
			return fmt.Errorf("%s has no label %s", s.Metric, m.Label)
		case m.Label == "state": // not all of them exist at the same time
			for _, state := range strings.Split(m.Value, "|") {
				if err := isReason(state); err != nil {
					return err
				}
			}
		case m.Label == "ready":
			if m.Value != "True" && m.Value != "False" {
				return fmt.Errorf("ready is never %q", m.Value)
			}
		case !slices.Contains(values[m.Label], m.Value):
			return fmt.Errorf("%s of %s is never %q", m.Label, s.Metric, m.Value)
		}
	}
	return nil
}

// isReason reports whether a reason is one of the API's.
func isReason(reason string) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	source, err := os.ReadFile(filepath.Join(root, "api", "v1alpha1", "conditions.go"))
	if err == nil && !strings.Contains(string(source), fmt.Sprintf("= %q\n", reason)) {
		err = fmt.Errorf("there is no reason %s", reason)
	}
	return err
}
