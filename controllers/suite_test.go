// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The suite runs only etcd and kube-apiserver, without a signer and garbage collection, and with a fake clock.
var (
	cluster *env.Env
	now     *clocktesting.FakePassiveClock
	// metrics is the registry of the suite's manager.
	metrics = prometheus.NewRegistry()
)

func TestMain(m *testing.M) {
	env.Main(m, func(ctx context.Context) (func() error, error) {
		now = clocktesting.NewFakePassiveClock(time.Now())
		e, stop, err := startOperator(ctx, localcluster.Config{NoControllerManager: true}, now, metrics)
		cluster = e
		return stop, err
	})
}

// startOperator starts a cluster and, in this process, the operator as its own ServiceAccount.
func startOperator(ctx context.Context, cfg localcluster.Config, k clock.PassiveClock, registry *prometheus.Registry) (*env.Env, func() error, error) {
	e, err := env.Start(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	stop := func() error {
		cancel()
		return errors.Join(<-ended, e.Stop())
	}
	mgr, err := newManager(ctx, e, k, registry)
	if err != nil {
		ended <- nil
		return nil, nil, errors.Join(err, stop())
	}
	go func() { ended <- mgr.Start(ctx) }()
	// kube-controller-manager would publish this.
	err = e.Client.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "kube-root-ca.crt"},
		Data:       map[string]string{"ca.crt": string(e.ServerCA())},
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return e, stop, nil
}

func newManager(ctx context.Context, e *env.Env, k clock.PassiveClock, registry *prometheus.Registry) (ctrl.Manager, error) {
	cfg, err := operator.Config(ctx, e.Cluster)
	if err != nil {
		return nil, err
	}
	return newManagerWith(ctx, cfg, controllers.Options{Clock: k, Registry: registry, AllowClusterWide: true})
}

// newManagerWith returns a manager with its own rest.Config, and with options that flags would set.
func newManagerWith(ctx context.Context, cfg *rest.Config, o controllers.Options) (ctrl.Manager, error) {
	o.Namespace = operator.Namespace
	if server, ok := o.Clock.(*apiserver.Clock); ok {
		cfg.Wrap(server.Wrap)
	}
	o.Certificates = apiserver.NewCertificates(o.Clock)
	cfg.Wrap(o.Certificates.Wrap)
	scheme, err := objects.NewScheme()
	if err != nil {
		return nil, err
	}
	skip := true // several managers in one process
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Logger:     logged.logger(),
		Scheme:     scheme,
		Cache:      objects.CacheOptions(operator.Namespace),
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		return nil, fmt.Errorf("creating the manager: %w", err)
	}
	return mgr, controllers.Setup(ctx, mgr, o)
}
