// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// RestartAPIServer ends kube-apiserver by SIGKILL, as a crash would, and starts it
// again on its port. It returns once /healthz answers. No other process is
// touched: clients see their connections break and then be refused for a while. It
// needs /proc. ctx bounds only the start; if that fails, the cluster can only be
// stopped.
func (c *Cluster) RestartAPIServer(ctx context.Context) error {
	return c.restart(ctx, "kube-apiserver")
}

// RestartEtcd does the same with etcd, on its port and its data.
func (c *Cluster) RestartEtcd(ctx context.Context) error { return c.restart(ctx, "etcd") }

func (c *Cluster) restart(ctx context.Context, name string) error {
	c.planeMu.Lock()
	defer c.planeMu.Unlock()
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		return fmt.Errorf("restarting %s: the cluster is stopped", name)
	}
	for _, p := range c.plane {
		if p.name != name {
			continue
		}
		if err := p.crash(c.guard); err != nil {
			return fmt.Errorf("restarting %s: %w", name, err)
		}
		return c.startPlaneProcess(ctx, p)
	}
	return fmt.Errorf("restarting %s: it was never started", name)
}

// crash ends the process by SIGKILL and releases it from the guard.
func (p *planeProcess) crash(g *guard) error {
	if p.pid == 0 {
		return errors.New("its process is not known")
	}
	if isChild(p.pid) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		if !closedWithin(p.exited(ctx), killGrace) {
			return fmt.Errorf("process %d did not end after SIGKILL", p.pid)
		}
	}
	pid := p.pid
	p.pid = 0
	return g.drop(pid)
}
