// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/test/docs"
)

// promtool confirms that each alert fires for its cause and for nothing else.
func TestAlerts(t *testing.T) {
	rules, err := ReadRules()
	if err != nil {
		t.Fatal(err)
	}
	content, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join("testdata", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"rules.yaml": content, "alerts.yaml": tests} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := promtool(t.Context(), "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(dir, "rules.yaml")); err != nil {
		t.Error(err)
	}
	if _, err := promtool(t.Context(), "test", "rules", filepath.Join(dir, "alerts.yaml")); err != nil {
		t.Error(err)
	}
}

// Each alert is tested both ways, and links to an existing section of the documentation.
func TestAlertsAreTestedAndExplained(t *testing.T) {
	rules, err := ReadRules()
	if err != nil {
		t.Fatal(err)
	}
	var tests struct {
		Tests []struct {
			Cases []struct {
				Alert    string           `json:"alertname"`
				Expected []map[string]any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	content, err := os.ReadFile(filepath.Join("testdata", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &tests); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, c := range test.Cases {
			fires[c.Alert] = fires[c.Alert] || len(c.Expected) > 0
			quiet[c.Alert] = quiet[c.Alert] || len(c.Expected) == 0
		}
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if !fires[r.Alert] || !quiet[r.Alert] {
				t.Errorf("%s is tested to fire: %v, to be quiet: %v", r.Alert, fires[r.Alert], quiet[r.Alert])
			}
			if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s lacks severity, summary or description", r.Alert)
			}
			link, ok := strings.CutPrefix(r.Annotations["runbook_url"], "https://github.com/nodebootstrap/nodebootstrap/blob/main/")
			if name, anchor, found := strings.Cut(link, "#"); !ok || !found || !hasHeading(t, name, anchor) {
				t.Errorf("%s links to %q, which does not exist", r.Alert, r.Annotations["runbook_url"])
			}
		}
	}
}

func hasHeading(t *testing.T, document, anchor string) bool {
	t.Helper()
	content, err := read(document)
	if err != nil {
		t.Error(err)
	}
	return docs.HasHeading(string(content), anchor)
}

// The dashboard's queries are PromQL. test/install tests with a manager that their metrics exist.
func TestDashboardIsPromQL(t *testing.T) {
	queries, err := ReadDashboard()
	if err != nil {
		t.Fatal(err)
	}
	expressions := make([]string, len(queries))
	for i, q := range queries {
		expressions[i] = q.Expr
	}
	selectors, err := Selectors(t.Context(), expressions)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range queries {
		if len(selectors[i]) == 0 {
			t.Errorf("%s: %q uses no metric", q.Panel, q.Expr)
		}
	}
}
