// SPDX-License-Identifier: Apache-2.0

// Package metrics has the operator's metrics.
package metrics

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/internal/version"
)

// Metrics count changes in the status of NodeBootstraps. None has a label per object. docs/metrics.md lists them all.
type Metrics struct {
	decisions    *prometheus.CounterVec
	alarms       *prometheus.CounterVec
	renewals     prometheus.Counter
	conflicts    prometheus.Counter
	outliving    prometheus.Counter
	changes      *prometheus.CounterVec
	toCredential prometheus.Histogram
	toJoined     prometheus.Histogram
}

// The fields that can change in a published kubeconfig.
const (
	changedServer = "server"
	changedCA     = "ca"
)

// New registers all metrics of the operator. The gauges are computed from the cache at each scrape.
func New(registry prometheus.Registerer, cache client.Reader) (*Metrics, error) {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodebootstrap_certificate_decisions_total",
			Help: "Decisions on CertificateSigningRequests recorded in the status of NodeBootstraps, by signer, verdict and reason.",
		}, []string{"signer", "verdict", "reason"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodebootstrap_alarms_total",
			Help: "Decisions that are evidence that a bootstrap token is in wrong hands, by reason.",
		}, []string{"reason"}),
		renewals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodebootstrap_token_renewals_total",
			Help: "Tokens that replaced one that was about to expire.",
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodebootstrap_key_conflicts_total",
			Help: "NodeBootstraps for which several keys were sent with one token: how often the condition KeyConflict became True.",
		}),
		outliving: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodebootstrap_certificates_not_revoked_total",
			Help: "Client certificates that were issued although their CertificateSigningRequest or token was revoked, or whose key was replaced by another one. They are valid until they expire.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodebootstrap_kubeconfig_changes_total",
			Help: "Published kubeconfigs with a live token that got another server or CA, by what changed.",
		}, []string{"what"}),
		toCredential: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodebootstrap_credential_duration_seconds",
			Help:    "Time from the moment a node is awaited to the moment its credential is available. The start is known to the second.",
			Buckets: []float64{1, 2, 5, 10, 30, 60, 300, 1800},
		}),
		toJoined: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodebootstrap_join_duration_seconds",
			Help:    "Time from the moment a credential is available to the moment its node has joined.",
			Buckets: []float64{5, 15, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600},
		}),
	}
	for _, reason := range decisions.MisuseReasons { // an alert on an increase needs a counter that starts at zero
		m.alarms.WithLabelValues(reason)
	}
	for _, what := range []string{changedServer, changedCA} {
		m.changes.WithLabelValues(what)
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "nodebootstrap_build_info",
		Help:        "Always 1; the labels have the version of the operator and of Go.",
		ConstLabels: prometheus.Labels{"version": version.Name(), "goversion": runtime.Version()},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{m.decisions, m.alarms, m.renewals, m.conflicts, m.outliving, m.changes, m.toCredential, m.toJoined, build, &states{cache}} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// Observe counts the changes from an old status to a new one. It does nothing if m is nil.
func (m *Metrics) Observe(old, new *v1alpha1.NodeBootstrapStatus, now time.Time) {
	if m == nil {
		return
	}
	evidence := false
	for _, d := range decisions.New(old, new) {
		m.decisions.WithLabelValues(knownSigner(d.SignerName), string(d.Verdict), d.Reason).Inc()
		if decisions.Evidence(d) {
			m.alarms.WithLabelValues(d.Reason).Inc()
			evidence = true
		}
	}
	if alarm := meta.FindStatusCondition(new.Conditions, v1alpha1.ConditionTokenMisused); !evidence && becameTrue(old, new, v1alpha1.ConditionTokenMisused) {
		m.alarms.WithLabelValues(alarm.Reason).Inc() // an earlier decision became evidence of misuse
	}
	if status.Renewed(old, new) {
		m.renewals.Inc()
	}
	if becameTrue(old, new, v1alpha1.ConditionKeyConflict) {
		m.conflicts.Inc()
	}
	m.outliving.Add(float64(status.NewlyUnrevoked(old, new)))
	change := status.KubeconfigChanged(old, new)
	if change.Server {
		m.changes.WithLabelValues(changedServer).Inc()
	}
	if change.CA {
		m.changes.WithLabelValues(changedCA).Inc()
	}
	if becameTrue(old, new, v1alpha1.ConditionCredentialsAvailable) && new.AwaitingSince != nil {
		m.toCredential.Observe(max(0, now.Sub(new.AwaitingSince.Time).Seconds()))
	}
	available := meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionCredentialsAvailable)
	if becameTrue(old, new, v1alpha1.ConditionJoined) && available != nil && available.Status == metav1.ConditionTrue {
		m.toJoined.Observe(max(0, now.Sub(available.LastTransitionTime.Time).Seconds()))
	}
}

// Outlives counts a certificate that outlives its deleted NodeBootstrap. It does nothing if m is nil.
func (m *Metrics) Outlives() {
	if m != nil {
		m.outliving.Inc()
	}
}

func becameTrue(old, new *v1alpha1.NodeBootstrapStatus, condition string) bool {
	return meta.IsStatusConditionTrue(new.Conditions, condition) && !meta.IsStatusConditionTrue(old.Conditions, condition)
}

// knownSigner keeps signer names that a requester can choose freely out of the labels.
func knownSigner(name string) string {
	switch name {
	case certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
		return name
	default:
		return "other"
	}
}

// states are gauges over all NodeBootstraps.
type states struct{ cache client.Reader }

var (
	stateDesc = prometheus.NewDesc("nodebootstrap_nodebootstraps",
		"NodeBootstraps by the reason of their condition Ready, and by its status.", []string{"ready", "state"}, nil)
	misusedDesc = prometheus.NewDesc("nodebootstrap_alarms",
		"NodeBootstraps whose token was misused: those with the condition TokenMisused.", nil, nil)
	conflictDesc = prometheus.NewDesc("nodebootstrap_key_conflicts",
		"NodeBootstraps for which several keys were sent with one token: those with the condition KeyConflict.", nil, nil)
	outlivingDesc = prometheus.NewDesc("nodebootstrap_certificates_not_revoked",
		"NodeBootstraps with a valid certificate that should not exist: those with the condition CertificateNotRevoked.", nil, nil)
	bypassedDesc = prometheus.NewDesc("nodebootstrap_approvals_not_enforced",
		"NodeBootstraps for which something else approves CertificateSigningRequests too: those with the condition ApprovalEnforced False, except for those with approval ClusterWide.", nil, nil)
	foreignDesc = prometheus.NewDesc("nodebootstrap_foreign_tokens",
		"Bootstrap tokens in the operator's groups that no NodeBootstrap owns and that do not have the operator's label.", nil, nil)
	expiryDesc = prometheus.NewDesc("nodebootstrap_soonest_token_expiry_timestamp_seconds",
		"When the first token of an awaited node expires, in seconds since 1970. Absent if there is no such token.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*states) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, misusedDesc, conflictDesc, outlivingDesc, bypassedDesc, foreignDesc, expiryDesc} {
		out <- d
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
		out <- prometheus.MustNewConstMetric(foreignDesc, prometheus.GaugeValue, float64(foreign))
	}
	type state struct{ ready, reason string }
	count := map[state]int{}
	misused, conflicts, outliving, bypassed := 0, 0, 0, 0
	var soonest time.Time
	for i := range list.Items {
		status := &list.Items[i].Status
		at := state{string(metav1.ConditionUnknown), "New"}
		if ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady); ready != nil {
			at = state{string(ready.Status), ready.Reason}
		}
		count[at]++
		if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionTokenMisused) {
			misused++
		}
		if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionKeyConflict) {
			conflicts++
		}
		if meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionCertificateNotRevoked) {
			outliving++
		}
		if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionApprovalEnforced); c != nil && c.Reason == v1alpha1.ReasonApprovedByOthers {
			bypassed++
		}
		if t := status.Token; t != nil && (soonest.IsZero() || t.ExpirationTime.Time.Before(soonest)) {
			soonest = t.ExpirationTime.Time
		}
	}
	for at, n := range count {
		out <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(n), at.ready, at.reason)
	}
	out <- prometheus.MustNewConstMetric(misusedDesc, prometheus.GaugeValue, float64(misused))
	out <- prometheus.MustNewConstMetric(conflictDesc, prometheus.GaugeValue, float64(conflicts))
	out <- prometheus.MustNewConstMetric(outlivingDesc, prometheus.GaugeValue, float64(outliving))
	out <- prometheus.MustNewConstMetric(bypassedDesc, prometheus.GaugeValue, float64(bypassed))
	if !soonest.IsZero() {
		out <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(soonest.Unix()))
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
