// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// hostKey is the machine's, in its /etc/ssh.
const hostKey = "/etc/ssh/ssh_host_ed25519_key"

// accessFiles are the accounts, the SSH server's configuration and keys, and who may log in with which key. It also writes what ssh on this
// machine needs.
func (m *Machine) accessFiles(ctx context.Context) (map[string][]byte, error) {
	files, err := accounts()
	if err != nil {
		return nil, err
	}
	userKey, err := m.cluster.sshUser(ctx)
	if err != nil {
		return nil, err
	}
	for _, home := range []string{"/root", "/home/" + MachineAdmin, "/home/" + MachineGuest} {
		if err := m.mkdir(home+"/.ssh", 0o700); err != nil {
			return nil, err
		}
		files[home+"/.ssh/authorized_keys"] = userKey
	}
	if m.sshPort, err = freePort(); err != nil {
		return nil, err
	}
	if err := m.mkdir("/run/sshd", 0o755); err != nil {
		return nil, err
	}
	setEnv := "PATH=" + machinePath
	for _, name := range slices.Sorted(maps.Keys(m.cfg.Env)) {
		setEnv += fmt.Sprintf(` "%s=%s"`, name, m.cfg.Env[name])
	}
	files["/etc/ssh/sshd_config"] = fmt.Appendf(nil, `ListenAddress 127.0.0.1
Port %d
HostKey %s
UsePAM no
PasswordAuthentication no
MaxStartups 100
PidFile none
Subsystem sftp internal-sftp
SetEnv %s
`, m.sshPort, hostKey, setEnv)
	public, err := newKey(ctx, m.upper(hostKey))
	if err != nil {
		return nil, err
	}
	return files, m.writeSSHConfig(public)
}

// writeSSHConfig lets ssh on this machine know the machine.
func (m *Machine) writeSSHConfig(hostKey []byte) error {
	known := m.KnownHosts()
	if err := os.WriteFile(known, []byte(m.cfg.HostName+" "+string(hostKey)), 0o600); err != nil {
		return err
	}
	return os.WriteFile(m.sshFile(), fmt.Appendf(nil, `Host %s
  HostName 127.0.0.1
  HostKeyAlias %s
  Port %d
  UserKnownHostsFile %s
`, m.cfg.HostName, m.cfg.HostName, m.sshPort, known), 0o600)
}

// KnownHosts is the file with the machine's host key.
func (m *Machine) KnownHosts() string { return m.file("known_hosts") }

// sshFile is the machine's part of SSHConfig.
func (m *Machine) sshFile() string {
	return filepath.Join(m.cluster.sshDir(), filepath.Base(m.dir)+".conf")
}

// SSHConfig is the path of a configuration for ssh -F, which knows all machines of the cluster by their host names, with keys and host keys.
func (m *Machine) SSHConfig() string { return filepath.Join(m.cluster.sshDir(), "config") }

// SSHBin is a directory with ssh and scp that use SSHConfig, for the beginning of a PATH.
func (m *Machine) SSHBin() string { return filepath.Join(m.cluster.sshDir(), "bin") }

// SSH is an ssh command to the machine as one of its users: root, MachineAdmin, MachineGuest.
func (m *Machine) SSH(ctx context.Context, user string, command ...string) *exec.Cmd {
	arguments := append([]string{"-F", m.SSHConfig(), user + "@" + m.cfg.HostName}, command...)
	return exec.CommandContext(ctx, "ssh", arguments...)
}

func (c *Cluster) sshDir() string { return filepath.Join(c.dir, "ssh") }

// sshUser returns the public key of whoever uses ssh, and prepares ssh for the first machine.
func (c *Cluster) sshUser(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, config, bin := filepath.Join(c.sshDir(), "id"), filepath.Join(c.sshDir(), "config"), filepath.Join(c.sshDir(), "bin")
	if exists(config) {
		return os.ReadFile(key + ".pub")
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	public, err := newKey(ctx, key)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"ssh", "scp"} {
		path, err := TestProgram(name)
		if err != nil {
			return nil, err
		}
		script := fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", path, config)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			return nil, err
		}
	}
	return public, os.WriteFile(config, fmt.Appendf(nil, `Include %s/*.conf
Host *
  IdentityFile %s
  IdentitiesOnly yes
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
`, c.sshDir(), key), 0o600)
}

// newKey makes a key for SSH and returns its public part.
func newKey(ctx context.Context, path string) ([]byte, error) {
	program, err := TestProgram("ssh-keygen")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-q", "-t", "ed25519", "-N", "", "-C", "localcluster", "-f", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("creating a key for SSH: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.ReadFile(path + ".pub")
}
