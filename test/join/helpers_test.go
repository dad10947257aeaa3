// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package join tests kubectl nodebootstrap join on test machines: with a real SSH server, stock kubelets and kubeadm, a real control plane, and
// the manager binary as its own ServiceAccount.
package join

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var (
	cluster *env.Env
	manager *operator.Manager
)

// Tests that stop the manager, or that need a cluster without kubeadm's ConfigMaps, are not parallel, and run first.
func TestMain(m *testing.M) { env.Main(m, setup) }

func setup(ctx context.Context) (func() error, error) {
	var err error
	if cluster, err = env.Start(ctx, localcluster.Config{}); err != nil {
		return nil, err
	}
	if manager, err = operator.Start(ctx, cluster.Cluster); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return cluster.Stop, nil
}

// startMachine starts a machine until the test is over. Its host name is that of its node, unless the configuration has another one.
func startMachine(t *testing.T, node string, config localcluster.MachineConfig) *localcluster.Machine {
	t.Helper()
	if config.HostName == "" {
		config.HostName = node
	}
	m, err := cluster.StartMachine(t.Context(), config)
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, m.Stop())
		env.Check(t, client.IgnoreNotFound(cluster.Client.Delete(context.Background(), nodeOf(node))))
		if log, err := os.ReadFile(m.LogFile("kubelet")); err == nil && t.Failed() {
			t.Logf("the log of the kubelet ends with:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return m
}

func nodeOf(name string) *corev1.Node {
	n := &corev1.Node{}
	n.Name = name
	return n
}

// command is a run of the plugin.
type command struct {
	// name is that of the command: join by default.
	name     string
	machines []*localcluster.Machine
	args     []string
	// bin is a directory with an ssh that is used instead of the machine's.
	bin string
	// on is called with each line of the timeline.
	on func(line string, plugin *os.Process)
}

// outcome is how a run ended.
type outcome struct {
	out, errOut string
	code        int
	took        time.Duration
}

// joinArgs are for one machine, as root.
func joinArgs(node string, m *localcluster.Machine, args ...string) []string {
	return append([]string{node, "--ssh", "root@" + m.HostName()}, args...)
}

// join lets one machine join, as root.
func join(t *testing.T, node string, m *localcluster.Machine, args ...string) outcome {
	t.Helper()
	return run(t, command{machines: []*localcluster.Machine{m}, args: joinArgs(node, m, args...)})
}

// checked runs the command check for a machine, and returns what it says about it. Nothing may change there.
func checked(t *testing.T, node string, m *localcluster.Machine, args ...string) []check.Result {
	t.Helper()
	o := run(t, command{name: "check", machines: []*localcluster.Machine{m}, args: append(joinArgs(node, m, args...), "-o", "json")})
	unchanged(t, m)
	var printed struct {
		Checks []check.Result `json:"checks"`
	}
	if err := json.Unmarshal([]byte(o.out), &printed); err != nil {
		t.Fatalf("check prints no JSON: %v\n%s%s", err, o.out, o.errOut)
	}
	return slices.DeleteFunc(printed.Checks, func(r check.Result) bool { return r.Name != check.Machine })
}

// run runs the plugin as an administrator. It fails if the token of a node is in the output, or in a process of a machine.
func run(t *testing.T, c command) outcome {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	admin, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	plugin := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"),
		append([]string{cmp.Or(c.name, "join"), "--kubeconfig", admin, "--ignore-preflight-errors", "SystemVerification"}, c.args...)...)
	bin := c.bin
	if bin == "" {
		bin = c.machines[0].SSHBin()
	}
	plugin.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	plugin.Stdout = &out
	stderr, err := plugin.StderrPipe()
	env.Must(t, err)
	search := searchProcesses(t, c.machines)
	begin := time.Now()
	env.Must(t, plugin.Start())
	var o outcome
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		o.errOut += line
		if c.on != nil && line != "" {
			c.on(line, plugin.Process)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		env.Must(t, err)
	}
	_ = plugin.Wait() // the exit code says it
	o.out, o.code, o.took = out.String(), plugin.ProcessState.ExitCode(), time.Since(begin)
	search(o.out + o.errOut)
	return o
}

// searchProcesses looks for the tokens of all nodes in arguments and environments of machines, until the function that it returns is called,
// and then in the machines' files and in a text.
func searchProcesses(t *testing.T, machines []*localcluster.Machine) func(text string) {
	t.Helper()
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			for _, secret := range tokens(t) {
				for _, m := range machines {
					if found, err := m.FindInProcesses(secret); err != nil || len(found) > 0 {
						t.Errorf("the token is in %q of %s (%v)", found, m.HostName(), err)
					}
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	before := tokens(t)
	return func(text string) {
		t.Helper()
		close(stop)
		group.Wait()
		for _, secret := range append(before, tokens(t)...) {
			if strings.Contains(text, secret) {
				t.Errorf("the token is printed: %s", text)
			}
			for _, m := range machines {
				if found, err := m.FindInFiles(secret); err != nil || len(found) > 0 {
					t.Errorf("the token is in the files %q of %s (%v)", found, m.HostName(), err)
				}
			}
		}
	}
}

// tokens are the secret parts of all tokens that are published.
func tokens(t *testing.T) []string {
	var list corev1.SecretList
	if err := cluster.Client.List(context.WithoutCancel(t.Context()), &list, client.InNamespace(operator.Namespace)); err != nil {
		t.Errorf("listing the published kubeconfigs: %v", err)
	}
	var out []string
	for _, s := range list.Items {
		config, err := clientcmd.Load(s.Data["kubeconfig"])
		if err != nil {
			continue
		}
		for _, user := range config.AuthInfos {
			if _, secret, ok := strings.Cut(user.Token, "."); ok {
				out = append(out, secret)
			}
		}
	}
	return out
}

// succeeded fails the test if the node is not Ready, or if something is left of the join.
func (o outcome) succeeded(t *testing.T, node string, m *localcluster.Machine) {
	t.Helper()
	if o.code != 0 {
		t.Fatalf("exit code %d after %s\n%s%s", o.code, o.took, o.out, o.errOut)
	}
	var n corev1.Node
	cluster.Get(t, "", node, &n)
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			t.Errorf("the node is not Ready: %+v", c)
		}
	}
	env.Check(t, cluster.NothingLeft(t.Context(), node))
	absent(t, m, nodescript.Default.BootstrapKubeconfig, nodescript.Default.Key)
	nothingTemporary(t, m)
}

// failed fails the test if the exit code or the texts of the last lines are others, or if the machine was changed.
func (o outcome) failed(t *testing.T, m *localcluster.Machine, code int, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Fatalf("exit code %d after %s, want %d\n%s%s", o.code, o.took, code, o.out, o.errOut)
	}
	for _, text := range texts {
		if !strings.Contains(o.errOut, text) {
			t.Errorf("it does not say %q:\n%s", text, o.errOut)
		}
	}
	if o.out != "" {
		t.Errorf("it printed %q", o.out)
	}
	unchanged(t, m)
}

// unchanged fails the test if a kubelet was started, or anything but the key was left on the machine.
func unchanged(t *testing.T, m *localcluster.Machine) {
	t.Helper()
	absent(t, m, nodescript.Default.BootstrapKubeconfig, nodescript.Default.Kubeconfig, nodescript.Default.CA)
	if out, _ := m.Run(t.Context(), "pgrep -x kubelet"); out != "" {
		t.Errorf("a kubelet runs: %s", out)
	}
	nothingTemporary(t, m)
}

func nothingTemporary(t *testing.T, m *localcluster.Machine) {
	t.Helper()
	if out, err := m.Run(t.Context(), "find /run /tmp /etc/kubernetes /var/lib/kubelet -name 'nodebootstrap*' -o -name '*.new'"); err != nil || out != "" {
		t.Errorf("left on the machine: %s (%v)", out, err)
	}
}

func absent(t *testing.T, m *localcluster.Machine, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(m.Path(path)); err == nil {
			t.Errorf("%s exists", path)
		}
	}
}

// create creates a NodeBootstrap with some changes, and waits until its kubeconfig is published.
func create(t *testing.T, name string, changes ...func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := cluster.NodeBootstrap(name)
	for _, change := range changes {
		change(nb)
	}
	cluster.Create(t, nb)
	nb, _ = cluster.WaitAwaited(t, name)
	return nb
}
