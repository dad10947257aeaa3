// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// adoptInterval is how often a process that envtest starts is searched for:
// until it is found, the guard does not know of it.
const adoptInterval = 20 * time.Millisecond

// planeProcess is a process that envtest starts. envtest does not expose its ID,
// so it is found by one of its arguments.
type planeProcess struct {
	name    string
	arg     string
	logFile string
	start   func(log *os.File) error // envtest's own, like kill.
	kill    func() error
	pid     int // 0 until it is found, and always without /proc.
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	path, err := c.binaries.find("etcd")
	if err != nil {
		return err
	}
	c.etcdServer = &envtest.Etcd{Path: path, DataDir: c.etcdDir(), StartTimeout: startLimit, StopTimeout: stopGrace}
	// A single member elects itself, but only after the election timeout, by
	// default 1 s. The timeout must be at least five heartbeats.
	c.etcdServer.Configure().Set("election-timeout", "100").Set("heartbeat-interval", "20")
	c.etcdServer.Configure().Set("quota-backend-bytes", "8589934592") // 8 GiB instead of 2, for thousands of large objects
	if c.cfg.FSync {
		c.etcdServer.Configure().Disable("unsafe-no-fsync")
	}
	p := &planeProcess{
		name: "etcd", arg: "--data-dir=" + c.etcdDir(), logFile: c.logFile("etcd"),
		start: func(log *os.File) error {
			c.etcdServer.Out, c.etcdServer.Err = log, log
			return c.etcdServer.Start()
		},
		kill: c.etcdServer.Stop,
	}
	c.plane = append(c.plane, p)
	return c.startPlaneProcess(ctx, p)
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	path, err := c.binaries.find("kube-apiserver")
	if err != nil {
		return err
	}
	c.apiServer = &envtest.APIServer{
		Path: path, CertDir: c.apiServerDir(), EtcdURL: c.etcdServer.URL,
		StartTimeout: startLimit, StopTimeout: stopGrace,
	}
	c.apiServer.Authn = c.ca
	for name, value := range merge(apiServerDefaults, c.cfg.APIServerArgs) {
		c.apiServer.Configure().Set(name, value)
	}
	p := &planeProcess{
		name: "kube-apiserver", arg: "--cert-dir=" + c.apiServerDir(), logFile: c.logFile("kube-apiserver"),
		start: func(log *os.File) error {
			c.apiServer.Out, c.apiServer.Err = log, log
			return c.apiServer.Start()
		},
		kill: c.apiServer.Stop,
	}
	c.plane = append(c.plane, p)
	if err := c.startPlaneProcess(ctx, p); err != nil {
		return err
	}
	c.admin, err = c.ConfigFor("admin", "system:masters")
	return err
}

// apiServerDefaults are added to envtest's own flags.
var apiServerDefaults = map[string]string{
	"authorization-mode":          "Node,RBAC",
	"enable-admission-plugins":    "NodeRestriction",
	"enable-bootstrap-token-auth": "true",
	// A machine without a network has no other address; and a loopback address
	// must not be in the endpoints of the Service "kubernetes".
	"advertise-address":        "127.0.0.1",
	"endpoint-reconciler-type": "none",
}

// startPlaneProcess lets envtest start a process and wait until it is ready, and
// puts it under guard meanwhile. envtest takes no context: once ctx is done, the
// process is killed, which ends envtest's wait.
func (c *Cluster) startPlaneProcess(ctx context.Context, p *planeProcess) error {
	log, err := openLog(p.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	started := make(chan error, 1)
	go func() { started <- p.start(log) }()
	ticker := time.NewTicker(adoptInterval)
	defer ticker.Stop()
	for {
		select {
		case err := <-started:
			if err != nil {
				return withLog(fmt.Errorf("starting %s: %w", p.name, err), p.logFile)
			}
			return p.adopt(c.guard)
		case <-ticker.C:
		}
		if err := p.adopt(c.guard); err != nil {
			return err
		}
		if ctx.Err() != nil && p.pid != 0 {
			_ = syscall.Kill(-p.pid, syscall.SIGKILL)
			<-started //nolint:errcheck // It was killed, so the result of its start does not matter.
			return fmt.Errorf("starting %s: %w", p.name, ctx.Err())
		}
	}
}

// adopt searches for the process, unless it was found, and puts it under guard.
func (p *planeProcess) adopt(g *guard) error {
	if p.pid != 0 {
		return nil
	}
	pid := findChild(p.arg)
	if pid == 0 {
		return nil
	}
	p.pid = pid
	return g.add(pid)
}

// stop ends the process and fails if it still exists.
func (p *planeProcess) stop() error {
	if p.pid == 0 {
		return p.kill()
	}
	if !isChild(p.pid) {
		return nil // Another process may have its ID by now.
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return stopGroup(p.name, p.pid, p.exited(ctx))
}

// exited returns a channel that is closed when the process has ended, or ctx is
// done.
func (p *planeProcess) exited(ctx context.Context) <-chan struct{} {
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = wait.PollUntilContextCancel(ctx, adoptInterval, true, func(context.Context) (bool, error) {
			return !isChild(p.pid), nil // It leaves no zombie: envtest waits for it.
		})
	}()
	return exited
}

// waitForSystemObjects waits for the objects that the API server creates by itself.
func (c *Cluster) waitForSystemObjects(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("creating a client: %w", err)
	}
	err = poll(ctx, nil, func(ctx context.Context) error {
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
			if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		_, err := client.RbacV1().ClusterRoles().Get(ctx, "system:node-bootstrapper", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return withLog(fmt.Errorf("waiting for the system's namespaces and roles: %w", err), c.logFile("kube-apiserver"))
	}
	return nil
}
