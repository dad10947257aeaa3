// SPDX-License-Identifier: Apache-2.0

// Package e2e has the manager binary, as its own ServiceAccount, and stock kubelets do the operator's whole job on a real
// control plane.
package e2e

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var (
	cluster *env.Env
	audit   *env.Audit

	managerMu sync.Mutex
	manager   *operator.Manager
)

func TestMain(m *testing.M) { env.Main(m, setup) }

func setup(ctx context.Context) (func() error, error) {
	dir, err := os.MkdirTemp("", "nb-e2e-")
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
	if err := startManager(ctx); err != nil {
		return nil, errors.Join(err, teardown())
	}
	return teardown, nil
}

// allowClusterWide is the only flag that is not at its default: the endpoint comes from the NodeBootstraps.
const allowClusterWide = "--allow-cluster-wide-approval"

// startManager starts bin/manager.
func startManager(ctx context.Context) error {
	managerMu.Lock()
	defer managerMu.Unlock()
	m, err := operator.Start(ctx, cluster.Cluster, allowClusterWide)
	manager = m
	return err
}

// killManager ends the manager as a power cut would.
func killManager() error {
	managerMu.Lock()
	defer managerMu.Unlock()
	return manager.Kill()
}

// crashManager kills the manager and starts another one.
func crashManager(ctx context.Context) error {
	return errors.Join(killManager(), startManager(ctx))
}
