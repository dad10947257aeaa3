// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// metric returns the value of a metric with these labels, given as "name=value"; for a histogram, the number of observations.
func metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && hasLabels(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return 0
}

func hasLabels(m *dto.Metric, want []string) bool {
	for _, w := range want {
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName()+"="+l.GetValue() == w
		}
		if !found {
			return false
		}
	}
	return true
}

// alarms returns the counter of alarms for a reason.
func alarms(t *testing.T, reason string) float64 {
	t.Helper()
	return metric(t, "nodebootstrap_alarms_total", "reason="+reason)
}

func TestMetrics(t *testing.T) {
	const name = "measured"
	decisions := func() float64 {
		return metric(t, "nodebootstrap_certificate_decisions_total", "signer="+certificatesv1.KubeAPIServerClientKubeletSignerName, "verdict=Approved", "reason="+csr.ReasonKubeletClient)
	}
	credentials, renewals, decided := metric(t, "nodebootstrap_credential_duration_seconds"), metric(t, "nodebootstrap_token_renewals_total"), decisions()
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	if got := metric(t, "nodebootstrap_credential_duration_seconds") - credentials; got != 1 {
		t.Errorf("%v credentials are measured, want 1", got)
	}
	env.Eventually(t, "the gauges", func() error {
		switch soonest := metric(t, "nodebootstrap_soonest_token_expiry_timestamp_seconds"); {
		case metric(t, "nodebootstrap_nodebootstraps", "ready=True", "state="+v1alpha1.ReasonAwaitingNode) < 1:
			return errors.New("no NodeBootstrap awaits its node")
		case soonest <= 0 || soonest > float64(nb.Status.Token.ExpirationTime.Unix()):
			return fmt.Errorf("the soonest expiry is %v", soonest)
		}
		return nil
	})
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	if got := decisions() - decided; got != 1 {
		t.Errorf("%v approvals are counted, want 1", got)
	}
	at(t, 22*time.Hour)
	poke(t, name)
	env.Eventually(t, "the renewal", func() error {
		if got := metric(t, "nodebootstrap_token_renewals_total") - renewals; got < 1 {
			return fmt.Errorf("%v renewals are counted", got)
		}
		return nil
	})
}

// Each metric is in the table of the documentation, and the table has no others.
func TestMetricsAreDocumented(t *testing.T) {
	cluster.Create(t, cluster.NodeBootstrap("documented")) // gauges without a NodeBootstrap are absent
	_, kubeconfig := cluster.WaitAwaited(t, "documented")
	waitCondition(t, ask(t, kubeconfig, "documented", newKey(t)), certificatesv1.CertificateApproved) // it waits for its registration
	env.Eventually(t, "a wait for a step", func() error {
		if metric(t, "nodebootstrap_join_step_waiting_since_timestamp_seconds", "step="+steps.Registered) == 0 {
			return errors.New("no node waits")
		}
		return nil
	})
	doc, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, family := range families {
		known[family.GetName()] = true
		if !strings.Contains(string(doc), "| `"+family.GetName()+"`") {
			t.Errorf("docs/metrics.md does not have %s", family.GetName())
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.Contains(l.GetValue(), "documented") {
					t.Errorf("%s has a label by object: %s=%s", family.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	for line := range strings.Lines(string(doc)) {
		name, ok := strings.CutPrefix(line, "| `nodebootstrap_")
		if name, _, _ = strings.Cut(name, "`"); ok && !known["nodebootstrap_"+name] {
			t.Errorf("docs/metrics.md has nodebootstrap_%s, which does not exist", name)
		}
	}
}
