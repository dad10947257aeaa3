// SPDX-License-Identifier: Apache-2.0

// Package controllers sets up the operator: the cache, the metrics and the reconcilers.
//
// Its permissions are in the markers of rbac.go.
package controllers

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/bindings"
	"github.com/nodebootstrap/nodebootstrap/controllers/bypass"
	"github.com/nodebootstrap/nodebootstrap/controllers/metrics"
	"github.com/nodebootstrap/nodebootstrap/controllers/node"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/stray"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
)

// Options are the operator's flags.
type Options struct {
	// Namespace is the operator's, where kubeconfig Secrets are.
	Namespace string
	// ClusterServer and ClusterCAFile override discovery; empty for none.
	ClusterServer string
	ClusterCAFile string
	// AllowClusterWide lets NodeBootstraps with approval ClusterWide have credentials.
	AllowClusterWide bool
	// Clock is the clock for decisions.
	Clock clock.PassiveClock
	// Certificates are those that the API server presents; nil if they are unknown.
	Certificates *apiserver.Certificates
	// Registry is where the metrics are registered.
	Registry prometheus.Registerer
}

// Setup adds all reconcilers to a manager whose cache was created with CacheOptions.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if err := objects.AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if err := objects.StartTogether(ctx, mgr.GetCache()); err != nil {
		return err
	}
	m, err := metrics.New(o.Registry, mgr.GetClient(), o.Clock)
	if err != nil {
		return err
	}
	detector := bypass.NewDetector(mgr.GetClient(), o.Clock)
	name := &node.Reconciler{
		Client:    mgr.GetClient(),
		Uncached:  mgr.GetAPIReader(),
		Namespace: o.Namespace,
		Discovery: &node.Discovery{Reader: mgr.GetClient(), Namespace: o.Namespace, Server: o.ClusterServer, CAFile: o.ClusterCAFile, Certificates: o.Certificates},

		AllowClusterWide: o.AllowClusterWide,

		Detector: detector,
		Writes:   &writes.Limits{},
		Metrics:  m,
		Recorder: newRateLimitedRecorder(mgr.GetEventRecorder("nodebootstrap")),
		Clock:    o.Clock,
	}
	if err := name.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the node controller: %w", err)
	}
	b := &bindings.Reconciler{Client: mgr.GetClient(), Uncached: mgr.GetAPIReader(), AllowClusterWide: o.AllowClusterWide, Writes: name.Writes, Clock: o.Clock}
	if err := b.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the bindings controller: %w", err)
	}
	s := &stray.Reconciler{Client: mgr.GetClient(), Uncached: mgr.GetAPIReader()}
	if err := s.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of stray tokens: %w", err)
	}
	if err := detector.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the approvers controller: %w", err)
	}
	return nil
}

// The rate of Normal events, and their burst. Each event is a write, and the credential of a node causes three.
const (
	normalEventsPerSecond = 1
	normalEventsAtOnce    = 50
)

// rateLimitedRecorder drops Normal events above a rate. They help people who watch a few nodes join; conditions and
// status.certificates report the same, and stay. Warnings are always emitted.
type rateLimitedRecorder struct {
	events.EventRecorder
	normal flowcontrol.PassiveRateLimiter
}

func newRateLimitedRecorder(r events.EventRecorder) *rateLimitedRecorder {
	return &rateLimitedRecorder{r, flowcontrol.NewTokenBucketPassiveRateLimiter(normalEventsPerSecond, normalEventsAtOnce)}
}

// Eventf implements events.EventRecorder.
func (r *rateLimitedRecorder) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	if eventType != corev1.EventTypeNormal || r.normal.TryAccept() {
		r.EventRecorder.Eventf(regarding, related, eventType, reason, action, note, args...)
	}
}
