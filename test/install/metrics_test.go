// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/test/env"
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
	// The API server's authorizer may see the binding a moment later, and a refusal is cached for half a minute.
	env.Eventually(t, "the metrics", func() error {
		status, body, err := scrape(t, "https", reader)
		if err == nil && (status != http.StatusOK || !strings.Contains(body, "nodebootstrap_build_info")) {
			err = fmt.Errorf("%d: %.200s", status, body)
		}
		return err
	})
}
