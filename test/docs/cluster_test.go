// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// documentedServer is the API server's URL in the documents, which is replaced by the cluster's own.
const documentedServer = "https://api.example.com:6443"

// playground is a cluster of its own, and a copy of the project in which commands are run. Machines are test machines, and a
// Deployment is a process of bin/manager with its arguments.
type playground struct {
	*localcluster.Cluster
	clients *kubernetes.Clientset
	dir     string // of the copy
	env     []string
	path    string // without ssh to machines
	// kubeadm makes it a cluster of kubeadm, and its machines those of kubeadm.
	kubeadm bool
	// unit is the unit of the machines' kubelets, which nobody has started yet, if the document has it.
	unit string
	// servesMetrics is for the only document that reads metrics.
	servesMetrics bool
	// operatorIsDead keeps the manager from running, whatever is deployed.
	operatorIsDead bool

	manager  *operator.Manager
	deployed string // the arguments with which it runs
	machines map[string]*localcluster.Machine
}

func newPlayground(t *testing.T) *playground {
	t.Helper()
	cluster, err := localcluster.Start(t.Context(), localcluster.Config{})
	env.Must(t, err)
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	base := t.TempDir()
	p := &playground{Cluster: cluster, dir: filepath.Join(base, "project"), machines: map[string]*localcluster.Machine{}}
	if p.clients, err = kubernetes.NewForConfig(cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	env.Must(t, copyProject(root, p.dir))
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	kubectl, err := cluster.Binary("kubectl")
	env.Must(t, err)
	env.Must(t, os.Link(kubeconfig, filepath.Join(p.dir, "admin.kubeconfig")))
	p.path = strings.Join([]string{filepath.Join(root, "test", "docs", "testdata", "bin"), filepath.Join(root, "bin"), os.Getenv("PATH")}, ":")
	p.env = append(os.Environ(), "ROOT="+root, "KUBECTL="+kubectl, "KUBECONFIG="+kubeconfig, "PATH="+p.path)
	return p
}

// copyProject copies everything except build output.
func copyProject(root, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"Makefile", "PROJECT", "go.mod", "go.sum", "hack", "config", "charts", "examples", "api"} {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Stat(from)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			err = os.CopyFS(to, os.DirFS(from))
		default:
			err = os.Link(from, to)
			if err != nil { // another file system
				var content []byte
				if content, err = os.ReadFile(from); err == nil {
					err = os.WriteFile(to, content, 0o600)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run runs commands in the copy, which must succeed, while the Deployment is simulated.
func (p *playground) run(t *testing.T, commands string) {
	t.Helper()
	if out, err := p.try(t, commands); err != nil {
		t.Fatalf("%v\n%s", err, tail(out))
	}
}

// try runs commands as run does, and returns what they print and how they end.
func (p *playground) try(t *testing.T, commands string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	env.Must(t, p.startMachines(ctx, commands))
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(commands, documentedServer, p.Server()))
	cmd.Dir, cmd.Env = p.dir, p.env
	cmd.WaitDelay = 10 * time.Second // for what a command leaves running in the background
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	env.Must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if errors.Is(err, exec.ErrWaitDelay) {
				err = nil
			}
			return out.String(), err
		case <-tick.C:
			if err := p.playDeployment(ctx); err != nil && ctx.Err() == nil {
				cancel()
				t.Fatal(errors.Join(err, <-ended))
			}
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// playDeployment runs bin/manager with the arguments of the Deployment, while it exists.
func (p *playground) playDeployment(ctx context.Context) error {
	arguments, err := p.managerArguments(ctx)
	if err != nil {
		return err
	}
	if arguments == p.deployed {
		return nil
	}
	if p.manager != nil {
		if err := p.manager.Stop(); err != nil {
			return err
		}
	}
	p.manager, p.deployed = nil, ""
	if arguments == "" {
		return nil
	}
	manager, err := operator.Start(ctx, p.Cluster, strings.Fields(arguments)...)
	if err != nil {
		if now, err := p.managerArguments(ctx); err == nil && now == "" {
			return nil // it was being deleted, and its RBAC was deleted first
		}
		return fmt.Errorf("starting the manager with %s: %w", arguments, err)
	}
	p.manager, p.deployed = manager, arguments
	return nil
}

// managerArguments are those of the Deployment, none if it does not exist or is being deleted. Only one manager on this machine
// can have the port for metrics.
func (p *playground) managerArguments(ctx context.Context) (string, error) {
	if p.operatorIsDead {
		return "", nil
	}
	namespace, err := p.clients.CoreV1().Namespaces().Get(ctx, operator.Namespace, getOptions)
	if err != nil || namespace.DeletionTimestamp != nil {
		return "", client.IgnoreNotFound(err)
	}
	deployment, err := p.clients.AppsV1().Deployments(operator.Namespace).Get(ctx, operator.ServiceAccount, getOptions)
	if err != nil || deployment.DeletionTimestamp != nil {
		return "", client.IgnoreNotFound(err)
	}
	address := "0"
	if p.servesMetrics {
		address = "127.0.0.1:8443"
	}
	return strings.Join(append(slices.Clone(deployment.Spec.Template.Spec.Containers[0].Args), "--metrics-bind-address="+address), " "), nil
}

// userAt is how commands name a machine.
var userAt = regexp.MustCompile(`root@([\w-]+)`)

// startMachines starts the machines that commands name.
func (p *playground) startMachines(ctx context.Context, commands string) error {
	for _, match := range userAt.FindAllStringSubmatch(commands, -1) {
		if name := match[1]; p.machines[name] == nil {
			if err := p.startMachine(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// startMachine starts a machine, on which the kubelet starts again and again until it has its kubeconfig, as it does after installations.
func (p *playground) startMachine(ctx context.Context, name string) error {
	config := localcluster.MachineConfig{HostName: name, Kubeadm: p.kubeadm}
	if p.kubeadm {
		config.Files = map[string][]byte{"/usr/local/bin/kubeadm": []byte(kubeadmAnywhere)}
	} else {
		config.BootstrapKubeconfig, config.Kubeconfig = "/var/lib/kubelet/bootstrap-kubeconfig", "/var/lib/kubelet/kubeconfig"
		config.CA = "/var/lib/kubernetes/ca.crt"
		config.Files = map[string][]byte{
			config.CA: p.ServerCA(),
			"/etc/systemd/system/kubelet.service.d/tests.conf": []byte("[Service]\nRestartSec=1\n"),
		}
		if p.unit != "" {
			config.Files["/etc/systemd/system/kubelet.service"] = []byte(p.unit)
		}
	}
	m, err := p.StartMachine(ctx, config)
	if err != nil {
		return err
	}
	if len(p.machines) == 0 {
		p.env = append(p.env, "PATH="+m.SSHBin()+":"+p.path)
	}
	p.machines[name] = m
	if !p.kubeadm && p.unit == "" {
		_, err = m.Run(ctx, "systemctl enable --now kubelet")
	}
	return err
}

// kubeadmAnywhere is kubeadm without the check that fails with cgroup v1.
const kubeadmAnywhere = `#!/bin/sh
case $1 in join) set -- "$@" --ignore-preflight-errors=SystemVerification ;; esac
exec /usr/bin/kubeadm "$@"
`
