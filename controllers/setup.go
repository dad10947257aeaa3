// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// crdKind is read as metadata alone, so that its types need not be known.
var crdKind = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// NewScheme knows all types that the operator reads and writes.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering types: %w", err)
		}
	}
	return scheme, nil
}

// Options are the operator's flags.
type Options struct {
	// Namespace is the operator's, where kubeconfig Secrets are.
	Namespace string
	// ClusterServer and ClusterCAFile override discovery; empty for none.
	ClusterServer string
	ClusterCAFile string
	// AllowClusterWide lets NodeBootstraps with approval ClusterWide have credentials.
	AllowClusterWide bool
	// Clock is the time that decisions are made by.
	Clock clock.PassiveClock
	// Certificates are those that the API server presents; nil when that is not known.
	Certificates *ServerCertificates
	// Registry takes the metrics.
	Registry prometheus.Registerer
}

// startTogether has everything that is watched be listed side by side at the start. Otherwise controllers ask for one after the
// other, and controller-runtime looks every 0.1 s whether one is there.
func startTogether(ctx context.Context, c cache.Cache) error {
	for _, o := range []client.Object{
		&v1alpha1.NodeBootstrap{}, &corev1.Secret{}, &corev1.ConfigMap{}, &certificatesv1.CertificateSigningRequest{}, nodeMetadata(),
		&rbacv1.ClusterRoleBinding{}, &corev1.Service{}, &discoveryv1.EndpointSlice{},
	} {
		if _, err := c.GetInformer(ctx, o, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("setting up the cache for %T: %w", o, err)
		}
	}
	return nil
}

// Setup adds all reconcilers to a manager whose cache was made with CacheOptions.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if err := AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if err := startTogether(ctx, mgr.GetCache()); err != nil {
		return err
	}
	metrics, err := NewMetrics(o.Registry, mgr.GetClient())
	if err != nil {
		return err
	}
	approvers := NewApprovers(mgr.GetClient(), o.Clock)
	node := &NodeReconciler{
		Client:    mgr.GetClient(),
		Live:      mgr.GetAPIReader(),
		Namespace: o.Namespace,
		Discovery: &Discovery{Reader: mgr.GetClient(), Namespace: o.Namespace, Server: o.ClusterServer, CAFile: o.ClusterCAFile, Certificates: o.Certificates},

		AllowClusterWide: o.AllowClusterWide,

		Approvers: approvers,
		Writes:    &WriteLimits{},
		Metrics:   metrics,
		Recorder:  newRateLimitedRecorder(mgr.GetEventRecorder("nodebootstrap")),
		Clock:     o.Clock,
	}
	if err := node.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the node controller: %w", err)
	}
	bindings := &BindingsReconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), AllowClusterWide: o.AllowClusterWide, Writes: node.Writes, Clock: o.Clock}
	if err := bindings.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the bindings controller: %w", err)
	}
	stray := &StrayTokensReconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader()}
	if err := stray.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the controller of stray tokens: %w", err)
	}
	if err := approvers.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("setting up the approvers controller: %w", err)
	}
	return nil
}
