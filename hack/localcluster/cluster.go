// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// startLimit is how long one component can take to become ready. It allows for
// a busy machine; a second or three is usual.
const startLimit = time.Minute

// maxTempDir keeps unix sockets below it within their limit of 104 bytes.
const maxTempDir = 40

// Cluster is a running control plane and the kubelets started on it. Its methods
// may be called concurrently.
type Cluster struct {
	cfg      Config
	dir      string
	logDir   string
	binaries binaries
	guard    *guard
	ca       *authority
	admin    *rest.Config

	etcdServer *envtest.Etcd
	apiServer  *envtest.APIServer

	// planeMu guards plane, and is held while etcd or kube-apiserver restarts, and
	// by Stop: it is taken before mu, so that other processes may start meanwhile.
	planeMu sync.Mutex
	plane   []*planeProcess // In the order in which they were started.

	// mu guards the fields below, and is held while processes start and stop.
	// Only Start does not take it, because nothing else uses the cluster yet.
	mu       sync.Mutex
	stopped  bool
	manager  *process
	kubelets []*Kubelet
	programs []*Program
	dirs     int // The number of directories created for kubelets and machines.
}

// Start starts a cluster and returns once the API server is ready, the system
// namespaces and default ClusterRoles exist and, with kube-controller-manager,
// kube-root-ca.crt is published: about 3 s on two cores. ctx bounds only the
// start; the cluster runs until Stop. If anything fails or ctx is done, Start
// stops all processes, and the error repeats the end of the log of the process
// that failed.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := newCluster(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		if ctx.Err() != nil { // Nothing failed, so no log is of interest.
			return nil, errors.Join(fmt.Errorf("starting a local cluster: %w", ctx.Err()), c.stop(false))
		}
		return nil, errors.Join(err, c.stop(true))
	}
	return c, nil
}

// newCluster prepares directories and the CA, and starts the guard; nothing
// else runs yet.
func newCluster(cfg Config) (_ *Cluster, err error) {
	dir, err := makeTempDir()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	c := &Cluster{cfg: cfg, dir: dir, logDir: cfg.LogDir, binaries: newBinaries(cfg.AssetsDir)}
	if c.logDir == "" {
		c.logDir = filepath.Join(dir, "logs")
	}
	for _, sub := range []string{c.logDir, c.pkiFile(""), c.etcdDir(), c.apiServerDir()} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return nil, fmt.Errorf("creating the cluster's directories: %w", err)
		}
	}
	if c.ca, err = newAuthority(c.pkiFile("")); err != nil {
		return nil, err
	}
	c.guard, err = startGuard(dir)
	return c, err
}

func (c *Cluster) start(ctx context.Context) error {
	steps := []func(context.Context) error{c.startEtcd, c.startAPIServer, c.waitForSystemObjects}
	if !c.cfg.NoControllerManager {
		steps = append(steps, c.startConfiguredManager, c.waitForRootCA)
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("starting a local cluster: %w", err)
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop stops all processes, the kubelets first, then programs, and etcd last, unmounts what the
// kubelets mounted and removes the cluster's directory. A process that does not end within 10 s
// of SIGTERM is killed. Further calls do nothing. An error means that a process, a mount or the
// directory is left behind.
func (c *Cluster) Stop() error { return c.stop(false) }

func (c *Cluster) stop(keepLogs bool) error {
	c.planeMu.Lock()
	defer c.planeMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	errs := []error{stopKubelets(c.kubelets)}
	for _, p := range c.programs {
		errs = append(errs, p.Stop())
	}
	if c.manager != nil {
		errs = append(errs, c.manager.stop())
	}
	for i := len(c.plane) - 1; i >= 0; i-- {
		errs = append(errs, c.plane[i].stop())
	}
	return errors.Join(append(errs, c.removeDir(keepLogs), c.guard.done())...)
}

// removeDir removes the cluster's directory, but nothing that is mounted in it.
func (c *Cluster) removeDir(keepLogs bool) error {
	if err := unmountBelow(c.dir); err != nil {
		return err
	}
	if !keepLogs || c.cfg.LogDir != "" {
		return os.RemoveAll(c.dir)
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if path := filepath.Join(c.dir, entry.Name()); path != c.logDir {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// Dir returns the directory of the cluster's files, which Stop removes.
func (c *Cluster) Dir() string { return c.dir }

// LogDir returns the directory with one log file per process.
func (c *Cluster) LogDir() string { return c.logDir }

// Binary returns the absolute path of a program, such as kubectl, from the
// directories that the cluster's own programs come from.
func (c *Cluster) Binary(name string) (string, error) { return c.binaries.find(name) }

func (c *Cluster) logFile(name string) string { return filepath.Join(c.logDir, name+".log") }
func (c *Cluster) pkiFile(name string) string { return filepath.Join(c.dir, "pki", name) }
func (c *Cluster) etcdDir() string            { return filepath.Join(c.dir, "etcd") }
func (c *Cluster) apiServerDir() string       { return filepath.Join(c.dir, "apiserver") }

// makeTempDir creates the cluster's directory, by a path that is short enough and
// free of symbolic links, as the kernel's list of mounts has it.
func makeTempDir() (string, error) {
	parent := os.TempDir()
	if len(parent) > maxTempDir {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "nb-")
	if err != nil {
		return "", fmt.Errorf("creating the cluster's directory: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}
