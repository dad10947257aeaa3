// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the operator's whole job on a real control plane, with the manager binary as its own ServiceAccount,
// and stock kubelets.
package e2e

import (
	"context"
	"errors"
	"fmt"
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

	// policies is true if all policies that ship are installed, and not only CRD and RBAC.
	policies bool

	managerMu sync.Mutex
	manager   *operator.Manager
)

// policiesVariable names the environment variable that, set to "hardened", runs the tests under the policies of
// config/overlays/hardened. make e2e POLICIES=hardened sets it.
const policiesVariable = "NODEBOOTSTRAP_POLICIES"

// Tests that stop the manager or kube-controller-manager, count writes, or change state that all nodes share are not parallel,
// and run first.
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
	switch wanted := os.Getenv(policiesVariable); wanted {
	case "", "none":
	case "hardened":
		policies = true
	default:
		return nil, errors.Join(fmt.Errorf("%s is %q, and may be hardened or none", policiesVariable, wanted), teardown())
	}
	if err := errors.Join(installPolicies(ctx), startManager(ctx)); err != nil {
		return nil, errors.Join(err, teardown())
	}
	return teardown, nil
}

// installPolicies installs the policies if they are wanted. Their parameters allow no more than the tests need.
func installPolicies(ctx context.Context) error {
	if !policies {
		return nil
	}
	return operator.InstallPolicies(ctx, cluster.Cluster, map[string]string{
		"exemptGroups":          "", // the tests are members of system:masters
		"allowClusterWide":      "true",
		"allowedServers":        "127.0.0.1 api.example.com lb.rack-a.example.com [2001:db8:a::1] 2001:db8:a::1 lb.räck-b.example.com",
		"allowReissueOfMembers": "true",
		"shortestIPv4Prefix":    "8", // this machine may be in a large subnet
	})
}

// install reinstalls what a test has deleted.
func install(ctx context.Context) error {
	return errors.Join(operator.Install(ctx, cluster.Cluster), installPolicies(ctx))
}

// allowClusterWide is the only flag without its default: the endpoint comes from the NodeBootstraps.
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
