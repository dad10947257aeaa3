// SPDX-License-Identifier: Apache-2.0

// Package e2e has the manager binary, as its own ServiceAccount, and stock kubelets do the operator's whole job on a real
// control plane.
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

	// policies says that all policies that ship are installed, and not only CRD and RBAC.
	policies bool

	managerMu sync.Mutex
	manager   *operator.Manager
)

// policiesVariable names the environment variable that has the tests run under the policies of config/overlays/hardened when it is
// "hardened". It is set by make e2e POLICIES=hardened.
const policiesVariable = "NODEBOOTSTRAP_POLICIES"

// What stops the manager or kube-controller-manager, counts writes, or changes what all nodes share is not parallel, and runs first.
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

// installPolicies installs the policies if they are wanted, with no more allowed by their parameters than the tests ask for.
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

// install installs again what a test has deleted.
func install(ctx context.Context) error {
	return errors.Join(operator.Install(ctx, cluster.Cluster), installPolicies(ctx))
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
