// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// stubs are the programs in which a machine differs from this one.
//
//go:embed machine
var stubs embed.FS

func readStub(name string) []byte {
	content, err := stubs.ReadFile("machine/" + name)
	if err != nil {
		panic(err) // it is compiled in
	}
	return content
}

// Paths that kubeadm and its packages use.
const (
	kubeadmBootstrapKubeconfig = "/etc/kubernetes/bootstrap-kubelet.conf"
	kubeadmKubeconfig          = "/etc/kubernetes/kubelet.conf"
	kubeadmCA                  = "/etc/kubernetes/pki/ca.crt"
	kubeletConfigFile          = "/var/lib/kubelet/config.yaml"
	unitDir                    = "/usr/lib/systemd/system/"
)

// emptyDirs are those of which the machine does not see this machine's content, with their modes.
var emptyDirs = map[string]os.FileMode{
	"/etc/kubernetes": 0o755, "/etc/systemd/system": 0o755, "/var/lib/kubelet": 0o755, "/var/lib/kubernetes": 0o755,
	"/var/log/journal": 0o755, "/etc/ssh": 0o755, "/home": 0o755, "/run": 0o755, "/run/old": 0o700,
	"/root": 0o700, "/tmp": os.ModeSticky | 0o777, "/var/tmp": os.ModeSticky | 0o777,
}

// kubeletUnit and kubeletDropIn are those of Debian's packages of kubelet and kubeadm.
const (
	kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
`
	kubeletDropIn = `# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generates at runtime, populating the KUBELET_KUBEADM_ARGS variable dynamically
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# This is a file that the user can use for overrides of the kubelet args as a last resort. Preferably, the user should use
# the .NodeRegistration.KubeletExtraArgs object in the configuration files instead. KUBELET_EXTRA_ARGS should be sourced from this file.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`
	handMadeUnit = `[Unit]
Description=Kubernetes kubelet
Requires=containerd.service

[Service]
ExecStart=/usr/local/bin/kubelet \
  --bootstrap-kubeconfig=%s \
  --kubeconfig=%s \
  --cert-dir=/var/lib/kubelet/pki \
  --config=/var/lib/kubelet/config.yaml
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
`
	containerdUnit = "[Service]\nExecStart=/usr/bin/containerd " + RuntimeSocket + "\nRestart=always\n"
	sshUnit        = "[Service]\nExecStart=/usr/sbin/sshd -D -e\n"
)

// prepare writes what the machine has and this machine has not, and returns the arguments of init.
func (m *Machine) prepare(ctx context.Context) ([]string, error) {
	for dir, mode := range emptyDirs {
		if err := m.makeEmpty(dir, mode); err != nil {
			return nil, err
		}
	}
	files, units, err := m.standardFiles()
	if err != nil {
		return nil, err
	}
	access, err := m.accessFiles(ctx)
	if err != nil {
		return nil, err
	}
	programs, err := m.programs()
	if err != nil {
		return nil, err
	}
	arguments := []string{m.dir, m.cfg.HostName, m.logs, strings.Join(m.cfg.Missing, " "), strings.Join(units, " ")}
	for place, program := range programs {
		files[place] = []byte{}
		arguments = append(arguments, program+"="+place)
	}
	for path, content := range merge(merge(files, access), m.cfg.Files) {
		if content == nil {
			continue
		}
		if err := m.write(path, content); err != nil {
			return nil, err
		}
	}
	if err := m.makeHomes(); err != nil {
		return nil, err
	}
	return arguments, os.WriteFile(m.file("init"), readStub("init"), 0o600)
}

// programs are files of this machine by their places on the machine.
func (m *Machine) programs() (map[string]string, error) {
	places := map[string]string{"containerd": "/usr/bin/containerd", "kubelet": "/usr/local/bin/kubelet"}
	if m.cfg.Kubeadm {
		places["kubelet"], places["kubeadm"] = "/usr/bin/kubelet", "/usr/bin/kubeadm"
	}
	found := map[string]string{}
	for name, place := range places {
		if m.lacks(name) {
			continue
		}
		if name == "containerd" {
			name = "fakeruntime"
		}
		path, err := m.cluster.binaries.find(name)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err != nil {
			return nil, err
		}
		found[place] = path
	}
	return found, nil
}

// standardFiles are those of every machine, and the units that it starts.
func (m *Machine) standardFiles() (map[string][]byte, []string, error) {
	units := []string{"ssh"}
	files := map[string][]byte{
		"/etc/hostname":         []byte(m.cfg.HostName + "\n"),
		"/etc/hosts":            []byte("127.0.0.1 localhost\n127.0.1.1 " + m.cfg.HostName + "\n"),
		"/usr/bin/systemctl":    readStub("systemctl"),
		"/usr/bin/journalctl":   readStub("journalctl"),
		unitDir + "ssh.service": []byte(sshUnit),
	}
	if !m.lacks("containerd") {
		units = append(units, "containerd")
		files[unitDir+"containerd.service"] = []byte(containerdUnit)
		if err := m.mkdir("/run/containerd", 0o711); err != nil {
			return nil, nil, err
		}
	}
	port, err := freePort()
	if err != nil || m.lacks("kubelet") {
		return files, units, err
	}
	if m.cfg.Kubeadm {
		// All machines of a cluster get one configuration from kubeadm, and share this machine's ports.
		files["/run/systemd/arguments/kubelet"] = fmt.Appendf(nil, "--port=%d\n", port)
		files[unitDir+"kubelet.service"] = []byte(kubeletUnit)
		files[unitDir+"kubelet.service.d/10-kubeadm.conf"] = []byte(kubeletDropIn)
		return files, append(units, "kubelet"), nil
	}
	files["/etc/systemd/system/kubelet.service"] = fmt.Appendf(nil, handMadeUnit,
		or(m.cfg.BootstrapKubeconfig, kubeadmBootstrapKubeconfig), or(m.cfg.Kubeconfig, kubeadmKubeconfig))
	files[kubeletConfigFile], err = json.MarshalIndent(merge(runsAnywhere(), map[string]any{
		"authentication":           map[string]any{"x509": map[string]any{"clientCAFile": or(m.cfg.CA, kubeadmCA)}},
		"containerRuntimeEndpoint": RuntimeSocket,
		"port":                     port,
		"healthzPort":              0,
	}), "", "  ")
	return files, units, err
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// makeEmpty makes a directory that hides the one of this machine, as overlayfs does it.
func (m *Machine) makeEmpty(dir string, mode os.FileMode) error {
	if err := m.mkdir(dir, mode); err != nil {
		return err
	}
	if err := syscall.Setxattr(m.upper(dir), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("hiding %s of this machine: %w", dir, err)
	}
	return nil
}

// mkdir makes a directory whatever the umask, and those above it with mode 0755.
func (m *Machine) mkdir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(m.upper(dir), 0o755); err != nil {
		return err
	}
	return os.Chmod(m.upper(dir), mode)
}

// write writes a file before the machine starts.
func (m *Machine) write(path string, content []byte) error {
	if !filepath.IsAbs(path) || path != filepath.Clean(path) {
		return fmt.Errorf("%q is not an absolute path", path)
	}
	if err := os.MkdirAll(filepath.Dir(m.upper(path)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(m.upper(path), content, modeOf(path))
}

// modeOf is the mode of a file: secret unless it is a program or all users read it.
func modeOf(path string) os.FileMode {
	switch dir := filepath.Dir(path); {
	case strings.HasSuffix(dir, "bin"):
		return 0o755
	case path == "/etc/passwd" || path == "/etc/group" || path == "/etc/hosts" || path == "/etc/hostname" || strings.Contains(dir, "systemd"):
		return 0o644
	}
	return 0o600
}

// upper is where a file is before the machine starts.
func (m *Machine) upper(path string) string { return filepath.Join(m.dir, "upper") + path }

// userIDs are those of the machine's users.
var userIDs = map[string]int{MachineAdmin: 64001, MachineGuest: 64002}

// makeHomes gives the users of the machine their home directories.
func (m *Machine) makeHomes() error {
	for name, id := range userIDs {
		if err := m.mkdir("/home/"+name, 0o700); err != nil {
			return err
		}
		for _, path := range []string{"", "/.ssh", "/.ssh/authorized_keys"} {
			if err := os.Chown(m.upper("/home/"+name+path), id, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// accounts are the accounts of this machine and the machine's users.
func accounts() (map[string][]byte, error) {
	files := map[string][]byte{"/etc/sudoers.d/" + MachineAdmin: []byte(MachineAdmin + " ALL=(ALL) NOPASSWD: ALL\n")}
	for _, path := range []string{"/etc/passwd", "/etc/group", "/etc/shadow"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		lines := ""
		for line := range strings.Lines(string(content)) {
			name, _, _ := strings.Cut(line, ":")
			if _, ours := userIDs[name]; !ours && (name != "root" || path != "/etc/shadow") {
				lines += line
			}
		}
		if path == "/etc/shadow" {
			lines += "root:*:20000:0:99999:7:::\n" // sshd refuses users whose account is locked
		}
		for name, number := range userIDs {
			id := strconv.Itoa(number)
			lines += map[string]string{
				"/etc/passwd": name + ":x:" + id + ":" + id + "::/home/" + name + ":/bin/sh\n",
				"/etc/group":  name + ":x:" + id + ":\n",
				"/etc/shadow": name + ":*:20000:0:99999:7:::\n",
			}[path]
		}
		files[path] = []byte(lines)
	}
	return files, nil
}
