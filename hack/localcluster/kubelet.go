// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// maxSocketPath is the length that a unix socket's address can have on every system.
const maxSocketPath = 103

// KubeletConfig describes one kubelet.
type KubeletConfig struct {
	// NodeName is the node's name, and part of the log files' names.
	NodeName string

	// BootstrapKubeconfig is the content of the file with which the kubelet
	// requests its certificate. It may be empty only if Dir is set.
	BootstrapKubeconfig []byte

	// ServerTLSBootstrap lets the kubelet request a serving certificate.
	// Without it, it signs its own.
	ServerTLSBootstrap bool

	// ExtraConfig are fields of KubeletConfiguration that replace those that
	// StartKubelet sets.
	ExtraConfig map[string]any

	// ExtraArgs are flags, without dashes, that replace those that StartKubelet
	// sets.
	ExtraArgs map[string]string

	// Files are placed in the kubelet's directory before it starts, by their
	// paths in it. pki is its --cert-dir: with rotateCertificates false, a
	// kubelet requests its certificate with the key in
	// pki/kubelet-client.key.tmp if it exists, of whatever type.
	Files map[string][]byte

	// Dir is the directory of an earlier kubelet of this cluster, which must
	// have been stopped: this kubelet continues with its certificates and
	// state. Default: a new directory.
	Dir string
}

// Kubelet is a running kubelet and its fake container runtime.
type Kubelet struct {
	dir      string
	runtime  *process
	kubelet  *process
	stopOnce sync.Once
	stopErr  error
}

// StartKubelet runs a stock kubelet, and a container runtime that runs nothing,
// and returns as soon as the process runs, before it joins. It needs root and
// Linux. The kubelet sets kernel parameters as it does on any node
// (vm.overcommit_memory, kernel.panic and others) and uses
// /var/lib/kubelet/device-plugins and /var/log/containers whatever its root
// directory. Stop undoes none of that: do not run it on a machine that is already
// a node. ctx bounds only the start.
func (c *Cluster) StartKubelet(ctx context.Context, cfg KubeletConfig) (*Kubelet, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, errors.New("starting a kubelet: the cluster is stopped")
	}
	dir, err := c.kubeletDir(cfg)
	if err != nil {
		return nil, fmt.Errorf("starting kubelet %q: %w", cfg.NodeName, err)
	}
	k := &Kubelet{dir: dir}
	if err := c.runKubelet(ctx, k, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("starting kubelet %q: %w", cfg.NodeName, err), k.Stop())
	}
	c.kubelets = append(c.kubelets, k)
	return k, nil
}

// kubeletDir checks the configuration and returns the kubelet's directory.
func (c *Cluster) kubeletDir(cfg KubeletConfig) (string, error) {
	switch {
	case os.Geteuid() != 0:
		return "", errors.New("a kubelet needs root")
	case cfg.NodeName == "" || strings.ContainsRune(cfg.NodeName, filepath.Separator):
		return "", errors.New("it needs a node name without slashes")
	case cfg.Dir == "" && len(cfg.BootstrapKubeconfig) == 0:
		return "", errors.New("it needs a bootstrap kubeconfig")
	case cfg.Dir == "":
		return c.newKubeletDir()
	}
	known := false
	for _, k := range c.kubelets {
		if k.dir != cfg.Dir {
			continue
		}
		if known = true; !closedWithin(k.Done(), 0) || !closedWithin(k.runtime.exited, 0) {
			return "", fmt.Errorf("the earlier kubelet in %s is not stopped", cfg.Dir)
		}
	}
	if !known {
		return "", fmt.Errorf("%s is not a kubelet's directory", cfg.Dir)
	}
	return cfg.Dir, nil
}

func (c *Cluster) newKubeletDir() (string, error) {
	dir := c.newDir("k")
	longest := filepath.Join(dir, "root", "pod-resources", "kubelet.sock")
	if len(longest) > maxSocketPath {
		return "", fmt.Errorf("the path %s is too long for a socket", longest)
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// newDir is the path of a directory that does not exist yet. Its callers hold mu.
func (c *Cluster) newDir(prefix string) string {
	c.dirs++
	return filepath.Join(c.dir, prefix+strconv.Itoa(c.dirs-1))
}

// runKubelet starts the runtime, then the kubelet.
func (c *Cluster) runKubelet(ctx context.Context, k *Kubelet, cfg KubeletConfig) error {
	runtimePath, err := c.binaries.find("fakeruntime")
	if err != nil {
		return err
	}
	kubeletPath, err := c.binaries.find("kubelet")
	if err != nil {
		return err
	}
	if err := c.writeKubeletFiles(k, cfg); err != nil {
		return err
	}
	name := "fakeruntime-" + cfg.NodeName
	k.runtime, err = startProcess(c.guard, name, runtimePath, c.logFile(name), []string{k.socket()})
	if err != nil {
		return err
	}
	if err := waitForSocket(ctx, k); err != nil {
		return k.runtime.failed(fmt.Errorf("waiting for its container runtime: %w", err))
	}
	name = "kubelet-" + cfg.NodeName
	args := flags(merge(map[string]string{
		"bootstrap-kubeconfig": k.BootstrapKubeconfig(),
		"kubeconfig":           k.Kubeconfig(),
		"config":               k.file("config.json"),
		"cert-dir":             k.file("pki"),
		"root-dir":             k.file("root"),
		"hostname-override":    cfg.NodeName,
	}, cfg.ExtraArgs))
	k.kubelet, err = startProcess(c.guard, name, kubeletPath, c.logFile(name), args)
	return err
}

func (c *Cluster) writeKubeletFiles(k *Kubelet, cfg KubeletConfig) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	config, err := json.MarshalIndent(merge(c.kubeletConfiguration(k, cfg, port), cfg.ExtraConfig), "", "  ")
	if err != nil {
		return fmt.Errorf("encoding its configuration: %w", err)
	}
	files := map[string][]byte{k.file("config.json"): config}
	if len(cfg.BootstrapKubeconfig) > 0 {
		files[k.BootstrapKubeconfig()] = cfg.BootstrapKubeconfig
	}
	for name, content := range cfg.Files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the path %q leads out of its directory", name)
		}
		files[k.file(name)] = content
	}
	for path, content := range files {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			return fmt.Errorf("storing its configuration: %w", err)
		}
	}
	return nil
}

// kubeletConfiguration is for a kubelet next to others on one machine, with as little as possible outside of its directory.
func (c *Cluster) kubeletConfiguration(k *Kubelet, cfg KubeletConfig, port int) map[string]any {
	return merge(runsAnywhere(), map[string]any{
		"authentication":           map[string]any{"x509": map[string]any{"clientCAFile": c.ca.certFile}},
		"serverTLSBootstrap":       cfg.ServerTLSBootstrap,
		"containerRuntimeEndpoint": k.socket(),
		"port":                     port,
		"readOnlyPort":             0,
		"healthzPort":              0,
		"podLogsDir":               k.file("pod-logs"),
		"volumePluginDir":          k.file("volume-plugins"),
	})
}

// runsAnywhere is a KubeletConfiguration with which a kubelet runs as a plain process: no cgroups, no eviction because the machine's disk
// is full, and a Lease renewed each second instead of every ten, so that nothing waits long for a renewal.
func runsAnywhere() map[string]any {
	return map[string]any{
		"apiVersion":                  "kubelet.config.k8s.io/v1beta1",
		"kind":                        "KubeletConfiguration",
		"rotateCertificates":          true,
		"cgroupDriver":                "cgroupfs",
		"cgroupsPerQOS":               false,
		"enforceNodeAllocatable":      []string{},
		"failCgroupV1":                false,
		"failSwapOn":                  false,
		"nodeLeaseDurationSeconds":    4,
		"makeIPTablesUtilChains":      false,
		"evictionHard":                map[string]string{"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100,
	}
}

func waitForSocket(ctx context.Context, k *Kubelet) error {
	return poll(ctx, k.runtime, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(k.socket(), "unix://"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Stop stops the kubelet, then its container runtime, by SIGTERM and, 10 s later,
// SIGKILL, and unmounts what is mounted below its directory. Further calls return
// the result of the first one.
func (k *Kubelet) Stop() error {
	k.stopOnce.Do(func() {
		var errs []error
		for _, p := range []*process{k.kubelet, k.runtime} {
			if p != nil {
				errs = append(errs, p.stop())
			}
		}
		k.stopErr = errors.Join(append(errs, unmountBelow(k.dir))...)
	})
	return k.stopErr
}

// stopKubelets stops many at once.
func stopKubelets(kubelets []*Kubelet) error {
	errs := make([]error, len(kubelets))
	var group sync.WaitGroup
	for i, k := range kubelets {
		group.Go(func() { errs[i] = k.Stop() })
	}
	group.Wait()
	return errors.Join(errs...)
}

// Done is closed when the kubelet's process has ended, for whatever reason.
func (k *Kubelet) Done() <-chan struct{} { return k.kubelet.exited }

// Dir returns the directory of the kubelet's files, which lies in the cluster's.
func (k *Kubelet) Dir() string { return k.dir }

// LogFile returns the path of the kubelet's log.
func (k *Kubelet) LogFile() string { return k.kubelet.logFile }

// Kubeconfig returns the path of the kubeconfig that the kubelet writes: with
// rotateCertificates as soon as it starts, with paths of files that exist once it
// has its certificate; without, once it has its certificate.
func (k *Kubelet) Kubeconfig() string { return k.file("kubeconfig") }

// BootstrapKubeconfig returns the path of the bootstrap kubeconfig.
func (k *Kubelet) BootstrapKubeconfig() string { return k.file("bootstrap.kubeconfig") }

func (k *Kubelet) file(name string) string { return filepath.Join(k.dir, name) }
func (k *Kubelet) socket() string          { return "unix://" + k.file("cri.sock") }
