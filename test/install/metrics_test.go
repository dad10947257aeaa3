// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/monitoring"
)

// scrape gets the metrics with a token, or without one.
func scrape(t *testing.T, scheme, token string) (int, string, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it is self-signed
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+metricsAddress+"/metrics", http.NoBody)
	env.Must(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if answer.StatusCode == http.StatusBadRequest {
		err = nil // the connection is reset after the answer to plain HTTP
	}
	return answer.StatusCode, string(body), err
}

// tokenOf creates a ServiceAccount and returns a token of it.
func tokenOf(t *testing.T, name string) string {
	t.Helper()
	cluster.Create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name}})
	cfg, err := cluster.ServiceAccountConfig(t.Context(), metav1.NamespaceDefault, name)
	env.Must(t, err)
	return cfg.BearerToken
}

// allowedReader creates a ServiceAccount that can read the metrics, and returns a token of it.
func allowedReader(t *testing.T, name string) string {
	t.Helper()
	token := tokenOf(t, name)
	cluster.Create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceDefault, Name: name}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "nodebootstrap-metrics-reader"},
	})
	return token
}

// Only users whom the API server authenticates and authorizes can read the metrics.
func TestMetricsNeedAnAllowedReader(t *testing.T) {
	stranger, reader := tokenOf(t, "stranger"), allowedReader(t, "reader")
	for name, c := range map[string]struct {
		scheme, token string
		want          int
	}{
		"plain HTTP":  {"http", reader, http.StatusBadRequest},
		"no token":    {"https", "", http.StatusUnauthorized},
		"not a token": {"https", "abc", http.StatusInternalServerError}, // controller-runtime's answer
		"stranger":    {"https", stranger, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			env.Eventually(t, "the answer", func() error { // the manager listens a moment after it is ready
				status, body, err := scrape(t, c.scheme, c.token)
				if err == nil && (status != c.want || strings.Contains(body, "nodebootstrap_")) {
					t.Fatalf("got %d, want %d: %.200s", status, c.want, body)
				}
				return err
			})
		})
	}
	if body := readMetrics(t, reader); !strings.Contains(body, "nodebootstrap_build_info") {
		t.Errorf("the metrics are %.200s", body)
	}
}

// readMetrics gets the metrics with a token that allows it. The API server's authorizer may see the binding a moment later, and a
// refusal is cached for half a minute.
func readMetrics(t *testing.T, token string) (body string) {
	t.Helper()
	env.Eventually(t, "the metrics", func() error {
		status, got, err := scrape(t, "https", token)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d: %.200s", status, got)
		}
		body = got
		return err
	})
	return body
}

// addedByPrometheus are labels that Prometheus adds to the metrics of a target.
var addedByPrometheus = []string{"job", "pod", "namespace", "instance"}

// The manager exposes the metrics, labels, and values of labels that the alerts and the dashboard use.
func TestQueriesAskForWhatIsThere(t *testing.T) {
	token := allowedReader(t, "grafana")
	cluster.WaitCertificate(t, askFor(t, "counted", v1alpha1.ApprovalNode)) // a decision, and a token that expires
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
	body := readMetrics(t, token)
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
