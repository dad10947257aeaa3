// SPDX-License-Identifier: Apache-2.0

//go:build linux

package join

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// One command takes a hand-installed machine from installed packages to a Ready node. A second run finds nothing to do.
func TestHandInstalled(t *testing.T) {
	const node = "by-hand"
	m := startMachine(t, node, localcluster.MachineConfig{})
	cluster.DeleteAfter(t, cluster.NodeBootstrap(node))
	o := join(t, node, m, "--create", "--server-url", cluster.Server())
	o.succeeded(t, node, m)
	t.Logf("Ready after %s:\n%s", o.took, o.errOut)

	again := join(t, node, m)
	again.succeeded(t, node, m)
	if !strings.Contains(again.errOut, "is the node by-hand already") {
		t.Errorf("the second run says\n%s", again.errOut)
	}
}

// The same with sudo, through the user's configuration of ssh, and without a kubelet configuration on the machine.
func TestHandInstalledWithSudo(t *testing.T) {
	const node = "with-sudo"
	hand := startMachine(t, "configured", localcluster.MachineConfig{})
	config, err := os.ReadFile(hand.Path(nodescript.Default.KubeletConfig))
	env.Must(t, err)
	file := filepath.Join(t.TempDir(), "config.yaml")
	env.Must(t, os.WriteFile(file, config, 0o600))
	m := startMachine(t, node, localcluster.MachineConfig{Files: map[string][]byte{nodescript.Default.KubeletConfig: nil}})
	create(t, node)
	args := []string{node, "--ssh", localcluster.MachineAdmin + "@" + node, "--sudo"}
	machines := []*localcluster.Machine{m}
	run(t, command{machines: machines, args: args}).failed(t, m, nodescript.ExitNoConfig, "--kubelet-config")
	run(t, command{machines: machines, args: append(args, "--kubelet-config", file)}).succeeded(t, node, m)
}

// The operator does not run. When it does, the same command continues.
func TestOperatorDown(t *testing.T) {
	const node = "operator-down"
	m := startMachine(t, node, localcluster.MachineConfig{})
	env.Must(t, manager.Stop())
	cluster.Create(t, cluster.NodeBootstrap(node))
	join(t, node, m, "--timeout", "2s").failed(t, m, 1, "gave up after 2s", "is it running?")
	var err error
	manager, err = operator.Start(t.Context(), cluster.Cluster)
	env.Must(t, err)
	join(t, node, m).succeeded(t, node, m)
}

// inOrder fails the test if a machine is not in order.
func inOrder(t *testing.T, results []check.Result) {
	t.Helper()
	for _, r := range results {
		if r.Status != check.Passed {
			t.Errorf("the machine is not in order: %+v", r)
		}
	}
	if len(results) < 5 {
		t.Errorf("only this was checked: %+v", results)
	}
}

// One command takes a machine with kubeadm from installed packages to a Ready node.
func TestKubeadm(t *testing.T) {
	const node = "with-kubeadm"
	env.Must(t, cluster.InitKubeadm(t.Context(), nil))
	m := startMachine(t, node, localcluster.MachineConfig{Kubeadm: true})
	create(t, node)
	inOrder(t, checked(t, node, m))
	o := join(t, node, m)
	o.succeeded(t, node, m)
	t.Logf("Ready after %s:\n%s", o.took, o.errOut)
	if !strings.Contains(o.errOut, "[start] kubeadm join") {
		t.Error("it was not kubeadm")
	}
	join(t, node, m).succeeded(t, node, m)
}

// Several machines join at once, and one of them cannot. A kubelet configuration comes from the cluster.
func TestSeveral(t *testing.T) {
	t.Parallel()
	var machines []*localcluster.Machine
	var args []string
	for _, node := range []string{"several-1", "several-2", "several-3"} {
		var config localcluster.MachineConfig
		switch node {
		case "several-2":
			config.Missing = []string{"openssl"}
		case "several-3": // only one: machines with the cluster's configuration have the same ports
			config.Files = map[string][]byte{nodescript.Default.KubeletConfig: nil}
		}
		machines = append(machines, startMachine(t, node, config))
		create(t, node)
		args = append(args, node+"=root@"+node)
	}
	o := run(t, command{machines: machines, args: append(args, "--parallel", "3", "-o", "json")})
	var summary struct {
		Machines []struct {
			Node, Result string
			ExitCode     int
		}
	}
	env.Must(t, json.Unmarshal([]byte(o.out), &summary))
	if got, want := fmt.Sprint(summary.Machines), "[{several-1 Ready 0} {several-2 Failed 11} {several-3 Ready 0}]"; got != want || o.code != 1 {
		t.Errorf("exit code %d, and the summary is %s, want %s\n%s", o.code, got, want, o.errOut)
	}
	unchanged(t, machines[1])
}

// --dry-run changes nothing, on the machine or in the cluster.
func TestDryRun(t *testing.T) {
	t.Parallel()
	const node = "dry-run"
	m := startMachine(t, node, localcluster.MachineConfig{})
	create(t, node)
	o := join(t, node, m, "--dry-run")
	if o.code != 0 || !strings.HasPrefix(o.out, "#!/bin/sh") || !strings.Contains(o.errOut, "all checks passed") {
		t.Errorf("exit code %d, %s\n%s", o.code, o.out, o.errOut)
	}
	unchanged(t, m)
	absent(t, m, nodescript.Default.Key)
	nb, _ := cluster.WaitAwaited(t, node)
	if nb.Spec.PinnedKey() != "" || len(nb.Status.Certificates) > 0 {
		t.Errorf("the NodeBootstrap was changed: %+v", nb)
	}
}

// The command is interrupted or killed, or the connection is cut, when a line appears. The machine is unchanged, or it joins without the
// command. Running the command again continues.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	kill := func(signal syscall.Signal) func(*os.Process, *localcluster.Machine) error {
		return func(plugin *os.Process, _ *localcluster.Machine) error { return plugin.Signal(signal) }
	}
	cut := func(_ *os.Process, m *localcluster.Machine) error { return m.CutConnections() }
	for name, tc := range map[string]struct {
		line string
		act  func(*os.Process, *localcluster.Machine) error
		// joins reports whether the machine joins without the command.
		joins bool
		code  int
	}{
		"interrupt-checks": {"[check] this machine is not a node yet", kill(syscall.SIGINT), false, 1},
		"interrupt-key":    {"the node's key, which stays", kill(syscall.SIGTERM), false, 1},
		"kill-key":         {"the node's key, which stays", kill(syscall.SIGKILL), false, -1},
		"kill-sent":        {"Sent the request", kill(syscall.SIGKILL), false, -1},
		"cut-key":          {"the node's key, which stays", cut, false, 255},
		"interrupt-start":  {"[start] systemctl", kill(syscall.SIGINT), true, 1},
		"kill-start":       {"[start] systemctl", kill(syscall.SIGKILL), true, -1},
		"cut-start":        {"[start] systemctl", cut, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMachine(t, name, localcluster.MachineConfig{})
			create(t, name)
			acted := false
			o := run(t, command{machines: []*localcluster.Machine{m}, args: joinArgs(name, m), on: func(line string, plugin *os.Process) {
				if !acted && strings.Contains(line, tc.line) {
					acted = true
					env.Check(t, tc.act(plugin, m))
				}
			}})
			if !acted || o.code != tc.code {
				t.Fatalf("acted: %t, exit code %d, want %d\n%s", acted, o.code, tc.code, o.errOut)
			}
			if tc.joins {
				env.Eventually(t, "the machine's kubeconfig", func() error {
					_, err := os.Stat(m.Path(nodescript.Default.Kubeconfig))
					return err
				})
			} else {
				env.Eventually(t, "the end of the script", func() error {
					if out, _ := m.Run(t.Context(), "pgrep -fx 'sh -s'"); out != "" {
						return fmt.Errorf("it runs as %s", out)
					}
					return nil
				})
				unchanged(t, m)
			}
			join(t, name, m).succeeded(t, name, m)
		})
	}
}

// The script and the kubeconfig are cut at every kilobyte. Until both have arrived the machine is unchanged.
func TestCutAtEveryKilobyte(t *testing.T) {
	t.Parallel()
	const node = "cut"
	m := startMachine(t, node, localcluster.MachineConfig{})
	create(t, node)
	for size := 0; ; size += 1024 {
		if size > 1<<20 {
			t.Fatal("the machine never joins")
		}
		bin := t.TempDir()
		env.Must(t, os.WriteFile(filepath.Join(bin, "ssh"),
			fmt.Appendf(nil, "#!/bin/sh\ndd bs=1 count=%d status=none | %s \"$@\"\n", size, filepath.Join(m.SSHBin(), "ssh")), 0o755))
		o := run(t, command{machines: []*localcluster.Machine{m}, args: joinArgs(node, m), bin: bin})
		t.Logf("%d bytes: exit code %d after %s", size, o.code, o.took)
		if o.code == 0 {
			t.Logf("it joined with the first %d bytes", size)
			o.succeeded(t, node, m)
			return
		}
		if o.code != 1 && o.code != nodescript.ExitNoAnswer {
			t.Errorf("cut after %d bytes: exit code %d\n%s", size, o.code, o.errOut)
		}
		unchanged(t, m)
	}
}
