// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
)

func startMachine(t *testing.T, c *Cluster, cfg MachineConfig) *Machine {
	t.Helper()
	m, err := c.StartMachine(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// over runs a command over ssh, with an input, and returns what it prints to its standard output.
func over(t *testing.T, m *Machine, user, input, command string) (string, error) {
	t.Helper()
	cmd := m.SSH(t.Context(), user, command)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s@%s: %s: %w\n%s%s", user, m.HostName(), command, err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), err
}

// mustOver fails the test if the command fails.
func mustOver(t *testing.T, m *Machine, user, input, command string) string {
	t.Helper()
	out, err := over(t, m, user, input, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// expect runs a command as root, without ssh, and compares what it prints and its exit code.
func expect(t *testing.T, m *Machine, command, want string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := m.Run(ctx, command)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if out = strings.TrimSpace(out); out != want || got != code {
		t.Errorf("%s prints %q and exits with %d, not %q and %d", command, out, got, want, code)
	}
}

func machinePIDs(m *Machine) ([]int, error) {
	var pids []int
	err := m.eachProcess(func(pid int, _, _ []byte) { pids = append(pids, pid) })
	return pids, err
}

// hostPaths must not change because of a machine.
var hostPaths = []string{"/etc/kubernetes", "/etc/hosts", "/etc/passwd", "/etc/systemd/system/kubelet.service", "/run/containerd", "/run/sshd",
	"/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki", "/usr/local/bin/kubelet", "/usr/bin/kubeadm", "/home/" + MachineAdmin, "/var/log/pods"}

func hostState() string {
	state, _ := os.Hostname()
	for _, path := range hostPaths {
		if info, err := os.Stat(path); err == nil {
			state += fmt.Sprintf("\n%s %d %s", path, info.Size(), info.ModTime())
		}
	}
	return state
}

func TestMachineJoinsByHandAndLeavesNothing(t *testing.T) {
	needRoot(t)
	before := hostState()
	c := start(t, Config{LogDir: t.TempDir()})
	client := kubernetes.NewForConfigOrDie(c.AdminConfig())
	allowTestToken(t, client)
	bootstrap, err := c.TokenKubeconfig(tokenID + "." + tokenSecret)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m := startMachine(t, c, MachineConfig{HostName: "worker-1.example.com"})
	t.Logf("the machine was ready after %s", time.Since(begin))
	if name := mustOver(t, m, "root", "", "hostname"); name != "worker-1.example.com" {
		t.Errorf("the machine's name is %q", name)
	}
	mustOver(t, m, "root", string(bootstrap), "umask 077; cat >/etc/kubernetes/bootstrap-kubelet.conf")
	mustOver(t, m, "root", string(c.ClientCA()), "mkdir -p /etc/kubernetes/pki; cat >/etc/kubernetes/pki/ca.crt")
	mustOver(t, m, "root", "", "systemctl enable --now kubelet")
	eventually(t, "the node is ready", func() error { return nodeReady(t.Context(), client, "worker-1.example.com") })
	t.Logf("the node was ready after %s", time.Since(begin))
	if log := mustOver(t, m, "root", "", "journalctl -u kubelet -n 2000 --no-pager"); !strings.Contains(log, "Successfully registered node") {
		t.Errorf("the kubelet's journal has %q", log)
	}
	found, err := m.FindInFiles(tokenSecret)
	if err != nil || !slices.Equal(found, []string{"/etc/kubernetes/bootstrap-kubelet.conf"}) {
		t.Errorf("the token is in %q, %v", found, err)
	}

	pids, err := machinePIDs(m)
	if err != nil || len(pids) < 6 {
		t.Errorf("the machine has the processes %v, %v", pids, err)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if exists(m.dir) || exists(m.sshFile()) || len(mountsBelow(c.Dir())) > 0 {
		t.Errorf("%s is still there", m.dir)
	}
	if after := hostState(); after != before {
		t.Errorf("this machine has changed from\n%s\nto\n%s", before, after)
	}
	if !exists(m.LogFile("kubelet")) {
		t.Error("the kubelet's log was removed")
	}
	if err := m.Stop(); err != nil {
		t.Errorf("the second Stop: %v", err)
	}
}

func TestMachine(t *testing.T) {
	needRoot(t)
	c := start(t, Config{NoControllerManager: true})
	m := startMachine(t, c, MachineConfig{HostName: "worker-1", Env: map[string]string{"COLOUR": "blue and red"}})

	t.Run("users", func(t *testing.T) {
		for user, want := range map[string]string{
			"root":       "0 0 blue and red",
			MachineAdmin: "64001 0 blue and red",
			MachineGuest: "64002 sudo: a password is required blue and red",
		} {
			if got := mustOver(t, m, user, "", `echo $(id -u) $(sudo -n id -u 2>&1) $COLOUR`); got != want {
				t.Errorf("%s: %q, not %q", user, got, want)
			}
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		scp := exec.CommandContext(t.Context(), filepath.Join(m.SSHBin(), "scp"), file, "root@worker-1:copied")
		if out, err := scp.CombinedOutput(); err != nil {
			t.Errorf("scp: %v\n%s", err, out)
		}
		expect(t, m, "cat copied; pwd; echo $COLOUR", "x/root\nblue and red", 0)
	})
	t.Run("unknown host key", func(t *testing.T) {
		other := startMachine(t, c, MachineConfig{HostName: "worker-2"})
		mustOver(t, other, "root", "", "true")
		if err := os.WriteFile(other.KnownHosts(), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := over(t, other, "root", "", "true"); err == nil || !strings.Contains(err.Error(), "Host key verification failed") {
			t.Errorf("ssh: %v", err)
		}
	})
	t.Run("systemctl", func(t *testing.T) { testSystemctl(t, m) })
	t.Run("faults", func(t *testing.T) { testFaults(t, m) })
	t.Run("search", func(t *testing.T) {
		expect(t, m, "echo needle-1 | tee /tmp/a /dev/shm/b >/var/log/journal/c; N=needle-2 sleep 1001 & sh -c 'sleep 1002; :' needle-2 &", "", 0)
		found, err := m.FindInFiles("needle-1")
		if want := []string{"/dev/shm/b", "/tmp/a", "/var/lib/kubelet/b", "/var/log/journal/c"}; err != nil || !slices.Equal(found, want) {
			t.Errorf("found in files %q, %v, not %q", found, err, want)
		}
		found, err = m.FindInProcesses("needle-2")
		slices.Sort(found)
		if want := []string{"arguments of sh -c sleep 1002; : needle-2", "environment of sleep 1001"}; err != nil || !slices.Equal(found, want) {
			t.Errorf("found in processes %q, %v, not %q", found, err, want)
		}
	})
	t.Run("connection is cut", func(t *testing.T) {
		cmd := m.SSH(t.Context(), "root", "echo started; sleep 1; sleep 1003")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		if err := m.CutConnections(); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 255 {
			t.Errorf("ssh ended with %v", err)
		}
		eventually(t, "the command goes on", func() error {
			_, err := m.Run(t.Context(), "pgrep -fx 'sleep 1003'")
			return err
		})
	})
}

func testSystemctl(t *testing.T, m *Machine) {
	const (
		unit = "/etc/systemd/system/kubelet.service"
		log  = "/var/log/journal/kubelet.log"
	)
	for _, step := range []struct {
		command, want string
		code          int
	}{
		{"systemctl is-active kubelet", "inactive", 3},
		{"systemctl is-enabled kubelet.service", "disabled", 1},
		{"systemctl start --quiet none", "Failed to start none.service: Unit none.service not found.", 5},
		{"systemctl enable none", "Failed to enable unit: Unit file none.service does not exist.", 1},
		{"systemctl status none", "Unit none.service could not be found.", 4},
		{"systemctl cat none", "No files found for none.service.", 1},
		{"systemctl list-units", "systemctl: the test machine's has no command list-units", 1},
		{"systemctl cat kubelet | head -n 2", "# " + unit + "\n[Unit]", 0},
		{`printf '[Service]\nEnvironment="A=1 2"\nEnvironmentFile=-/etc/b\nExecStart=/bin/sh -c \\\n  "echo $A $B"\nRestart=always\nRestartSec=60s\n' >` + unit, "", 0},
		{`echo 'B="3"' >/etc/b; systemctl restart kubelet; tail -f --pid=$$ ` + log + ` | sed '/exited/q'`,
			"1 2 3\nkubelet.service: Main process exited, code=exited, status=0", 0},
		{"systemctl is-active kubelet", "activating", 3},
		{"systemctl enable --now kubelet", "Created symlink /etc/systemd/system/multi-user.target.wants/kubelet.service → " + unit + ".", 0},
		{"systemctl is-enabled -q kubelet", "", 0},
		// A drop-in counts after daemon-reload.
		{`mkdir ` + unit + `.d; printf '[Service]\nExecStart=\nExecStart=sleep 999\n' >` + unit + `.d/a.conf; systemctl restart kubelet`, "", 0},
		{"until [ $(grep -c exited " + log + ") = 2 ]; do sleep 0.01; done; pgrep -fx 'sleep 999'", "", 1},
		{"systemctl daemon-reload; systemctl restart kubelet; until pgrep -fx 'sleep 999' >/dev/null; do sleep 0.01; done; systemctl is-active kubelet", "active", 0},
		{"systemctl stop kubelet; pgrep -fx 'sleep 999'; systemctl is-active kubelet", "inactive", 3},
	} {
		expect(t, m, step.command, step.want, step.code)
	}
}

func testFaults(t *testing.T, m *Machine) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.MakeReadOnly(t.Context(), "/etc/kubernetes"))
	expect(t, m, "touch /etc/kubernetes/x", "touch: cannot touch '/etc/kubernetes/x': Read-only file system", 1)
	must(m.MakeWritable(t.Context(), "/etc/kubernetes"))
	expect(t, m, "touch /etc/kubernetes/x", "", 0)

	must(m.FillDisk(t.Context(), "/var/lib/kubelet", 8))
	expect(t, m, "head -c 8192 /dev/zero >/var/lib/kubelet/a; echo $?; echo x >/var/lib/kubelet/b",
		"0\n/bin/sh: 2: echo: echo: I/O error", 1)
	must(m.FreeDisk(t.Context(), "/var/lib/kubelet"))
	expect(t, m, "echo needle-1 >/var/lib/kubelet/b; grep -c rotateCertificates /var/lib/kubelet/config.yaml", "1", 0)

	must(m.SetClock(-48 * time.Hour))
	expect(t, m, `echo $((($(date +%s) - $(/usr/bin/date +%s)) / 3600)); date -u -d @0 +%F`, "-48\n1970-01-01", 0)
}

func TestMissingPackageIsNamed(t *testing.T) {
	if path, err := TestProgram("no-such-program"); err == nil || !strings.Contains(err.Error(), "make test-packages") {
		t.Errorf("it is %q, %v", path, err)
	}
}

func TestMachineWithKubeadm(t *testing.T) {
	needRoot(t)
	c := start(t, Config{NoControllerManager: true})
	m := startMachine(t, c, MachineConfig{HostName: "worker-1", Kubeadm: true, Missing: []string{"openssl"}})
	expect(t, m, "openssl", "/bin/sh: 2: openssl: not found", 127)
	expect(t, m, "systemctl is-enabled kubelet; systemctl cat kubelet | grep '^# /'",
		"enabled\n# /usr/lib/systemd/system/kubelet.service\n# /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", 0)
	eventually(t, "the kubelet has stopped without a configuration", func() error {
		_, err := m.Run(t.Context(), "journalctl -u kubelet -n 1 | grep 'status=1' && systemctl is-active kubelet | grep activating")
		return err
	})
	if version, err := m.Run(t.Context(), "kubeadm version -o short"); err != nil || !strings.HasPrefix(version, "v1.") {
		t.Errorf("kubeadm's version: %q, %v", version, err)
	}
	bare := startMachine(t, c, MachineConfig{HostName: "bare", Missing: []string{"kubelet", "containerd"},
		Files: map[string][]byte{"/usr/local/bin/hello": []byte("#!/bin/sh\necho hello\n"), "/etc/kubernetes/x": []byte("x")}})
	expect(t, bare, "hello; ls /etc/kubernetes /var/lib/kubelet; command -v kubelet containerd", "hello\n/etc/kubernetes:\nx\n\n/var/lib/kubelet:", 127)
}
