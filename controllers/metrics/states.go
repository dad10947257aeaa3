// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// states are gauges over all NodeBootstraps.
type states struct {
	cache client.Reader
	clock clock.PassiveClock
}

var (
	stateDesc = prometheus.NewDesc("nodebootstrap_nodebootstraps",
		"NodeBootstraps by the reason of their condition Ready, and by its status.", []string{"ready", "state"}, nil)
	foreignDesc = prometheus.NewDesc("nodebootstrap_foreign_tokens",
		"Bootstrap tokens in the operator's groups that no NodeBootstrap owns and that do not have the operator's label.", nil, nil)
	waitingDesc = prometheus.NewDesc("nodebootstrap_join_step_waiting_since_timestamp_seconds",
		"Since when the node that has waited longest for a step of its join waits, in seconds since 1970. Absent if no node waits for it.", []string{"step"}, nil)
	expiryDesc = prometheus.NewDesc("nodebootstrap_soonest_token_expiry_timestamp_seconds",
		"When the first token of an awaited node expires, in seconds since 1970. Absent if there is no such token.", nil, nil)
)

// counted are the gauges that count NodeBootstraps by a condition.
var counted = []struct {
	desc   *prometheus.Desc
	counts func([]metav1.Condition) bool
}{
	{prometheus.NewDesc("nodebootstrap_alarms",
		"NodeBootstraps whose token was misused: those with the condition TokenMisused.", nil, nil), isTrue(v1alpha1.ConditionTokenMisused)},
	{prometheus.NewDesc("nodebootstrap_key_conflicts",
		"NodeBootstraps for which several keys were sent with one token: those with the condition KeyConflict.", nil, nil), isTrue(v1alpha1.ConditionKeyConflict)},
	{prometheus.NewDesc("nodebootstrap_certificates_not_revoked",
		"NodeBootstraps with a valid certificate that should not exist: those with the condition CertificateNotRevoked.", nil, nil), isTrue(v1alpha1.ConditionCertificateNotRevoked)},
	{prometheus.NewDesc("nodebootstrap_client_certificates_expiring",
		"NodeBootstraps whose node does not run and has a client certificate that expires within 30 days, or has expired: those with the condition "+
			"ClientCertificateExpiring.", nil, nil), isTrue(v1alpha1.ConditionClientCertificateExpiring)},
	{prometheus.NewDesc("nodebootstrap_approvals_not_enforced",
		"NodeBootstraps for which something else approves CertificateSigningRequests too: those with the condition ApprovalEnforced False, except for those "+
			"with approval ClusterWide.", nil, nil), isBypassed},
}

func isTrue(condition string) func([]metav1.Condition) bool {
	return func(all []metav1.Condition) bool { return meta.IsStatusConditionTrue(all, condition) }
}

func isBypassed(all []metav1.Condition) bool {
	c := meta.FindStatusCondition(all, v1alpha1.ConditionApprovalEnforced)
	return c != nil && c.Reason == v1alpha1.ReasonApprovedByOthers
}

// Describe implements prometheus.Collector.
func (*states) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, foreignDesc, waitingDesc, expiryDesc} {
		out <- d
	}
	for _, c := range counted {
		out <- c.desc
	}
}

// scrapeLimit is how long a scrape waits until the cache has synced.
const scrapeLimit = 5 * time.Second

// Collect implements prometheus.Collector.
func (s *states) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	var list v1alpha1.NodeBootstrapList
	if err := s.cache.List(ctx, &list); err != nil {
		out <- prometheus.NewInvalidMetric(stateDesc, fmt.Errorf("listing NodeBootstraps: %w", err))
		return
	}
	if foreign, err := s.foreignTokens(ctx); err != nil {
		out <- prometheus.NewInvalidMetric(foreignDesc, err)
	} else {
		out <- gauge(foreignDesc, float64(foreign))
	}
	collectStates(out, list.Items)
	collectTimes(out, list.Items, s.clock.Now())
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

// collectStates counts NodeBootstraps by their conditions.
func collectStates(out chan<- prometheus.Metric, all []v1alpha1.NodeBootstrap) {
	type state struct{ ready, reason string }
	byState, byCondition := map[state]int{}, make([]int, len(counted))
	for i := range all {
		conditions := all[i].Status.Conditions
		at := state{string(metav1.ConditionUnknown), "New"}
		if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready != nil {
			at = state{string(ready.Status), ready.Reason}
		}
		byState[at]++
		for j, c := range counted {
			if c.counts(conditions) {
				byCondition[j]++
			}
		}
	}
	for at, n := range byState {
		out <- gauge(stateDesc, float64(n), at.ready, at.reason)
	}
	for i, c := range counted {
		out <- gauge(c.desc, float64(byCondition[i]))
	}
}

// collectTimes finds the first token to expire, and the longest wait for each step of a join.
func collectTimes(out chan<- prometheus.Metric, all []v1alpha1.NodeBootstrap, now time.Time) {
	var soonest time.Time
	waiting := map[string]time.Time{}
	for i := range all {
		if t := all[i].Status.Token; t != nil && (soonest.IsZero() || t.ExpirationTime.Time.Before(soonest)) {
			soonest = t.ExpirationTime.Time
		}
		for _, w := range steps.Waits(&all[i], now) {
			if since, ok := waiting[w.Step]; !ok || w.Since.Before(since) {
				waiting[w.Step] = w.Since
			}
		}
	}
	for step, since := range waiting {
		out <- gauge(waitingDesc, float64(since.Unix()), step)
	}
	if !soonest.IsZero() {
		out <- gauge(expiryDesc, float64(soonest.Unix()))
	}
}

// foreignTokens counts the tokens in the operator's groups that someone else created.
func (s *states) foreignTokens(ctx context.Context) (int, error) {
	var list corev1.SecretList
	if err := s.cache.List(ctx, &list, client.InNamespace(token.Namespace)); err != nil {
		return 0, fmt.Errorf("listing token Secrets: %w", err)
	}
	n := 0
	for i := range list.Items {
		if token.Stray(&list.Items[i]) && !owned.Labelled(&list.Items[i]) {
			n++
		}
	}
	return n, nil
}
