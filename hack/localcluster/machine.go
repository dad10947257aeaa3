// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Users of each machine whom ssh lets in, besides root.
const (
	// MachineAdmin may use sudo without a password.
	MachineAdmin = "admin"
	// MachineGuest may not use sudo.
	MachineGuest = "guest"
)

// RuntimeSocket is the container runtime's socket on a machine.
const RuntimeSocket = "unix:///run/containerd/containerd.sock"

// machinePath is the PATH of everything that runs on a machine.
const machinePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

// MachineConfig describes a test machine. If only HostName is set, the machine has a running container runtime, and a kubelet with its unit
// and configuration at kubeadm's paths, which has not been started.
type MachineConfig struct {
	// HostName is the machine's host name, under which ssh knows it.
	HostName string

	// Kubeadm makes it a machine with Debian's packages of kubeadm and kubelet: with the unit and drop-in of the packages, without a
	// kubelet configuration, and with a kubelet that systemd starts again and again until it has one.
	Kubeadm bool

	// BootstrapKubeconfig, Kubeconfig and CA are the paths that the kubelet's unit and configuration name, unless Kubeadm is set.
	// Defaults: those of kubeadm.
	BootstrapKubeconfig, Kubeconfig, CA string

	// Files are written before the machine starts, by their absolute paths, with mode 0755 in bin directories and otherwise 0600.
	// They replace others, and nil leaves out one that the machine would have, such as /var/lib/kubelet/config.yaml.
	Files map[string][]byte

	// Missing are programs that the machine does not have: kubelet, openssl, containerd.
	Missing []string

	// Env is the environment of commands that run over ssh or by Run.
	Env map[string]string
}

// Machine is a test machine: processes with a mount, a UTS and a PID namespace of their own. Its root file system is that of this machine,
// with empty directories where there would be secrets and state, and everything that is written there disappears with the machine. It
// has a small systemctl and journalctl, a fake container runtime at RuntimeSocket, and an SSH server on loopback.
//
// It shares network, kernel and clock with this machine.
type Machine struct {
	cluster *Cluster
	cfg     MachineConfig
	dir     string
	logs    string
	sshPort int
	program *Program
}

// StartMachine starts a machine and returns when it can be reached by ssh, after about 0.3 s. It needs root, Linux, and the programs that
// make test-packages installs. The machine stops with the cluster at the latest. ctx bounds only the start.
func (c *Cluster) StartMachine(ctx context.Context, cfg MachineConfig) (*Machine, error) {
	m := &Machine{cluster: c, cfg: cfg}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting machine %q: %w", cfg.HostName, err), m.Stop())
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("it needs root")
	}
	if m.cfg.HostName == "" || strings.ContainsAny(m.cfg.HostName, "/ \n") {
		return errors.New("it needs a host name")
	}
	for _, program := range []string{"sshd", "sudo"} {
		if _, err := TestProgram(program); err != nil {
			return err
		}
	}
	if err := m.makeDirs(); err != nil {
		return err
	}
	arguments, err := m.prepare(ctx)
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", append([]string{m.file("init")}, arguments...)...)
	cmd.Env = m.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID}
	if m.program, err = m.cluster.startProgram(filepath.Base(m.logs), cmd); err != nil {
		return err
	}
	if err := poll(ctx, m.program.p, m.answers); err != nil {
		return m.program.p.failed(fmt.Errorf("waiting for its services: %w", err))
	}
	return nil
}

func (m *Machine) makeDirs() error {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	if m.cluster.stopped {
		return errors.New("the cluster is stopped")
	}
	m.dir = m.cluster.newDir("m")
	m.logs = filepath.Join(m.cluster.logDir, filepath.Base(m.dir)+"-"+m.cfg.HostName)
	for _, dir := range []string{m.file("upper"), m.file("work"), m.file("root"), m.logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return os.Chmod(m.file("upper"), 0o755) // the machine's root directory, whatever the umask
}

// answers reports whether the SSH server and the container runtime listen.
func (m *Machine) answers(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(m.sshPort)))
	if err != nil {
		return err
	}
	conn.Close()
	if m.lacks("containerd") {
		return nil
	}
	_, err = os.Stat(m.Path(strings.TrimPrefix(RuntimeSocket, "unix://")))
	return err
}

// Stop ends all processes of the machine and removes its files, except the logs.
func (m *Machine) Stop() error {
	var err error
	if m.program != nil {
		err = m.program.Stop()
	}
	if m.dir == "" {
		return err
	}
	return errors.Join(err, os.RemoveAll(m.dir), os.RemoveAll(m.sshFile()))
}

// HostName is the name by which ssh knows the machine.
func (m *Machine) HostName() string { return m.cfg.HostName }

// Path is where a file of the machine is on this machine, as long as the machine runs. Symbolic links with absolute targets lead
// astray: Run can read those.
func (m *Machine) Path(file string) string {
	return m.proc("root") + file
}

// LogFile is the path of the log of one of the machine's services, such as kubelet. Stop keeps it in the cluster's LogDir.
func (m *Machine) LogFile(service string) string { return filepath.Join(m.logs, service+".log") }

// Run runs a shell command as root on the machine, without ssh, and returns what it prints. The error repeats that.
func (m *Machine) Run(ctx context.Context, command string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", "--target="+strconv.Itoa(m.program.PID()), "--mount", "--uts", "--pid", "--root",
		"/bin/sh", "-c", "cd\n"+command)
	cmd.Env = append(m.environment(), "HOME=/root", "USER=root")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what it leaves running in the background
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return string(out), fmt.Errorf("running %q on %s: %w\n%s", command, m.cfg.HostName, err, out)
	}
	return string(out), nil
}

// environment is what the machine's init and Run get.
func (m *Machine) environment() []string {
	env := []string{"PATH=" + machinePath, "LANG=C.UTF-8"}
	for _, name := range slices.Sorted(maps.Keys(m.cfg.Env)) {
		env = append(env, name+"="+m.cfg.Env[name])
	}
	return env
}

func (m *Machine) lacks(program string) bool { return slices.Contains(m.cfg.Missing, program) }
func (m *Machine) file(name string) string   { return filepath.Join(m.dir, name) }

// TestProgram returns the path of a program that make test-packages installs.
func TestProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/lib/dracut/modules.d/30ignition"} {
		if path := filepath.Join(dir, name); exists(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run make test-packages", name)
}
