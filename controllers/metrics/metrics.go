// SPDX-License-Identifier: Apache-2.0

// Package metrics has the operator's metrics.
package metrics

import (
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
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
	toReady      prometheus.Histogram
	steps        *prometheus.HistogramVec
}

// The fields that can change in a published kubeconfig.
const (
	changedServer = "server"
	changedCA     = "ca"
)

// New registers all metrics of the operator. The gauges are computed from the cache at each scrape.
func New(registry prometheus.Registerer, cache client.Reader, c clock.PassiveClock) (*Metrics, error) {
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
		toReady: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodebootstrap_ready_duration_seconds",
			Help:    "Time from the moment a credential is available to the moment its node is Ready, in whole seconds.",
			Buckets: []float64{5, 15, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600},
		}),
		steps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "nodebootstrap_join_step_duration_seconds",
			Help:    "Time that each step of a join takes after the step before it, in whole seconds.",
			Buckets: []float64{1, 2, 5, 10, 30, 60, 300, 900, 3600, 24 * 3600},
		}, []string{"step"}),
	}
	for _, s := range steps.List(nil) {
		m.steps.WithLabelValues(s.Name)
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
	for _, c := range []prometheus.Collector{m.decisions, m.alarms, m.renewals, m.conflicts, m.outliving, m.changes, m.toCredential, m.toJoined, m.toReady, m.steps, build, &states{cache, c}} {
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
		seconds := max(0, now.Sub(new.AwaitingSince.Time).Seconds())
		m.toCredential.Observe(seconds)
		m.steps.WithLabelValues(steps.Published).Observe(seconds)
	}
	m.observeSteps(old.Join, new.Join)
	available := meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionCredentialsAvailable)
	if becameTrue(old, new, v1alpha1.ConditionJoined) && available != nil && available.Status == metav1.ConditionTrue {
		m.toJoined.Observe(max(0, now.Sub(available.LastTransitionTime.Time).Seconds()))
	}
}

// observeSteps measures the steps of a join that a status has and an older one does not, each from the step before it. What is not known
// is not measured.
func (m *Metrics) observeSteps(old, new *v1alpha1.JoinTimes) {
	for _, s := range steps.List(new) {
		before := steps.Time(new, s.After)
		if s.Time == nil || before == nil || steps.Time(old, s.Name) != nil {
			continue
		}
		m.steps.WithLabelValues(s.Name).Observe(max(0, s.Time.Sub(before.Time).Seconds()))
		if published := steps.Time(new, steps.Published); s.Name == steps.Ready && published != nil {
			m.toReady.Observe(max(0, s.Time.Sub(published.Time).Seconds()))
		}
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
