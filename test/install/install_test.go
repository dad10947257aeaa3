// SPDX-License-Identifier: Apache-2.0

// Package install tests config/ and charts/ on a real control plane: the API server accepts their objects, these are enough
// for the operator, and forbidden writes are refused.
package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var (
	cluster *env.Env
	audit   *env.Audit
	// metricsAddress is where the manager serves its metrics.
	metricsAddress string
	manager        *operator.Manager
	// asOperator acts as the operator's ServiceAccount, and changes nothing: its writes are dry runs.
	asOperator client.Client
)

func TestMain(m *testing.M) { env.Main(m, setup) }

// setup installs config/overlays/kubeadm, all that ships, and runs bin/manager, because nothing here runs the Pods.
func setup(ctx context.Context) (func() error, error) {
	dir, err := os.MkdirTemp("", "nb-install-")
	if err != nil {
		return nil, err
	}
	if audit, err = env.NewAudit(dir); err != nil {
		return nil, err
	}
	if cluster, err = env.Start(ctx, localcluster.Config{APIServerArgs: audit.Args()}); err != nil {
		return nil, err
	}
	teardown := func() error { return errors.Join(cluster.Stop(), os.RemoveAll(dir)) }
	if err := install(ctx); err != nil {
		return nil, errors.Join(err, teardown())
	}
	return teardown, nil
}

func install(ctx context.Context) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	if _, err := operator.Kubectl(ctx, cluster.Cluster, "apply", "-k", filepath.Join(root, "config", "overlays", "kubeadm")); err != nil {
		return err
	}
	cfg, err := operator.Config(ctx, cluster.Cluster)
	if err != nil {
		return err
	}
	if asOperator, err = dryRun(cfg); err != nil {
		return err
	}
	if err := operator.WaitForPolicies(ctx, cluster.Cluster); err != nil {
		return err
	}
	port, err := localcluster.FreePort()
	if err != nil {
		return err
	}
	metricsAddress = fmt.Sprintf("127.0.0.1:%d", port)
	return startManager(ctx)
}

func startManager(ctx context.Context) error {
	m, err := operator.Start(ctx, cluster.Cluster, "--leader-elect", "--allow-cluster-wide-approval", "--metrics-bind-address", metricsAddress)
	manager = m
	return err
}

// withoutManager stops the manager until the test is over.
func withoutManager(t *testing.T) {
	t.Helper()
	env.Must(t, manager.Stop())
	t.Cleanup(func() {
		env.Check(t, startManager(context.Background()))
	})
}

// dryRun is a client whose writes are admitted or refused, and not stored.
func dryRun(cfg *rest.Config) (client.Client, error) {
	c, err := client.New(cfg, client.Options{Scheme: cluster.Client.Scheme()})
	if err != nil {
		return nil, err
	}
	return client.NewDryRunClient(c), nil
}

// refused checks that a policy refuses a dry run. Permissions that it also needs may have been granted just now.
func refused(t *testing.T, policy string, act func() error) {
	t.Helper()
	env.Eventually(t, "the refusal", func() error {
		if err := act(); !operator.Refuses(policy, err) {
			return fmt.Errorf("it is not refused by %s: %v", policy, err) //nolint:errorlint // nil is printed too
		}
		return nil
	})
}

// allowed checks that a dry run is not refused.
func allowed(t *testing.T, act func() error) {
	t.Helper()
	env.Eventually(t, "the admission", act)
}
