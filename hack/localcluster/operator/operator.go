// SPDX-License-Identifier: Apache-2.0

// Package operator installs the operator into a local cluster and runs its manager there, as its own ServiceAccount, with
// the RBAC that ships.
package operator

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
)

const (
	// Namespace is where config/ puts the operator.
	Namespace = "nodebootstrap-system"
	// ServiceAccount is the one to which config/rbac binds the operator's permissions.
	ServiceAccount = "nodebootstrap-manager"

	readyLimit = time.Minute
)

// Install applies the namespace, the CRD and the RBAC of config/: all of the operator except its Deployment.
func Install(ctx context.Context, c *localcluster.Cluster) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return fmt.Errorf("installing the operator: %w", err)
	}
	for _, part := range []string{"namespace", "crd", "rbac"} {
		if out, err := Kubectl(ctx, c, "apply", "-k", filepath.Join(root, "config", part)); err != nil {
			return fmt.Errorf("installing config/%s: %w: %s", part, err, out)
		}
	}
	_, err = Kubectl(ctx, c, "wait", "--for=condition=Established", "crd/nodebootstraps.nodebootstrap.io", "--timeout=30s")
	return err
}

// Kubectl runs kubectl as the cluster's administrator and returns what it prints.
func Kubectl(ctx context.Context, c *localcluster.Cluster, args ...string) ([]byte, error) {
	kubectl, err := c.Binary("kubectl")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := c.WriteAdminKubeconfig()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("kubectl %v: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Manager is a running bin/manager.
type Manager struct{ *localcluster.Program }

// Config is the access of the manager's ServiceAccount.
func Config(ctx context.Context, c *localcluster.Cluster) (*rest.Config, error) {
	return c.ServiceAccountConfig(ctx, Namespace, ServiceAccount)
}

// buildsVariable names the environment variable with the builds of the manager, separated by colons, that Start runs in
// turn: with two of them, a test that restarts the manager covers an upgrade and then a downgrade. Default: bin/manager.
const buildsVariable = "NODEBOOTSTRAP_MANAGERS"

var started atomic.Int64

// nextBuild is the path of the manager to start next.
func nextBuild() (string, error) {
	if list := filepath.SplitList(os.Getenv(buildsVariable)); len(list) > 0 {
		return list[int(started.Add(1)-1)%len(list)], nil
	}
	root, err := localcluster.ProjectRoot()
	return filepath.Join(root, "bin", "manager"), err
}

// Start runs bin/manager, which must have been built, and returns when it serves /readyz. flags are added to those that name
// the cluster.
func Start(ctx context.Context, c *localcluster.Cluster, flags ...string) (*Manager, error) {
	build, err := nextBuild()
	if err != nil {
		return nil, fmt.Errorf("starting the manager: %w", err)
	}
	return StartBinary(ctx, c, build, flags...)
}

// StartBinary is Start for another build of the manager.
func StartBinary(ctx context.Context, c *localcluster.Cluster, binary string, flags ...string) (*Manager, error) {
	kubeconfig, err := c.ServiceAccountKubeconfig(ctx, Namespace, ServiceAccount)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir(), "manager.kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		return nil, fmt.Errorf("storing the manager's kubeconfig: %w", err)
	}
	health, err := localcluster.FreePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", health)
	program, err := c.StartProgram("manager", binary, append([]string{
		"--kubeconfig", path, "--namespace", Namespace,
		"--metrics-bind-address", "0", "--health-probe-bind-address", address,
	}, flags...)...)
	if err != nil {
		return nil, err
	}
	m := &Manager{program}
	if err := m.waitReady(ctx, "http://"+address+"/readyz"); err != nil {
		return nil, fmt.Errorf("starting the manager: %w; see %s", err, m.LogFile())
	}
	return m, nil
}

func (m *Manager) waitReady(ctx context.Context, url string) error {
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, readyLimit, true, func(ctx context.Context) (bool, error) {
		select {
		case <-m.Done():
			return false, fmt.Errorf("it has ended")
		default:
		}
		return localcluster.Answers(ctx, url), nil
	})
}
