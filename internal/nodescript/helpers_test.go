// SPDX-License-Identifier: Apache-2.0

package nodescript_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

// machine is a directory with a machine's files, and programs that play those that a test must not run. The API server, the socket of
// the container runtime, openssl and curl are real.
type machine struct {
	t       *testing.T
	dir     string
	bin     string // programs that come first in PATH
	options nodescript.Options
	shell   []string
	// replies is what the script reads after its request; nil: the connection ends.
	replies []byte
	// cut closes the connection as soon as the reply is sent.
	cut bool
	// rejects makes the API server reject the machine's certificate.
	rejects bool
}

const (
	unit = "[Service]\nEnvironmentFile=-DIR/etc/default/kubelet\nExecStart=\nExecStart=DIR/bin/kubelet --kubeconfig=x --config=DIR/var/lib/kubelet/config.yaml $KUBELET_EXTRA_ARGS\n"
	// systemctl keeps the unit's state in files, and plays the kubelet: it writes the kubeconfig if the bootstrap kubeconfig is there.
	systemctl = `#!/bin/sh
echo "$@" >>DIR/calls
case "$1" in
cat) cat DIR/unit ;;
is-active) [ -e DIR/active ] ;;
is-enabled) [ -e DIR/enabled ] ;;
enable) touch DIR/enabled ;;
disable) rm -f DIR/enabled ;;
stop) rm -f DIR/active ;;
start) touch DIR/active ;;
restart)
	touch DIR/active
	if [ -s DIR/etc/kubernetes/bootstrap-kubelet.conf ] && [ -e DIR/kubelet-works ]; then
		[ -e DIR/node.pem ] || echo certificate >DIR/node.pem
		echo "client-certificate: DIR/node.pem" >DIR/etc/kubernetes/kubelet.conf
		echo "server: SERVER" >>DIR/etc/kubernetes/kubelet.conf
	fi ;;
esac
`
	config = "kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://DIR/runtime.sock\n"
)

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "nb") // short enough for a socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, bin: filepath.Join(dir, "bin"), shell: []string{"dash", "-s"}, replies: []byte("signed\n" + nodescript.EndLine + "\n")}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.rejects && r.URL.Path == "/api/v1/nodes/worker-1" && len(r.TLS.PeerCertificates) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	socket, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "runtime.sock"))
	must(t, err)
	t.Cleanup(func() { socket.Close() })
	go func() { _ = http.Serve(socket, http.NotFoundHandler()) }()
	m.options = nodescript.Options{
		Node: "worker-1", Server: server.URL, With: nodescript.Kubelet, Rendered: time.Now(), Limit: 20 * time.Second,
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		Paths: nodescript.Paths{
			BootstrapKubeconfig: dir + "/etc/kubernetes/bootstrap-kubelet.conf", Kubeconfig: dir + "/etc/kubernetes/kubelet.conf",
			CA: dir + "/etc/kubernetes/pki/ca.crt", KubeletConfig: dir + "/var/lib/kubelet/config.yaml", Key: dir + "/var/lib/kubelet/pki/node.key", Unit: "kubelet",
		},
	}
	m.program("systemctl", systemctl)
	m.program("id", "#!/bin/sh\necho 0\n")
	m.program("uname", "#!/bin/sh\necho Worker-1\n")
	m.program("kubelet", "#!/bin/sh\n")
	m.program("journalctl", "#!/bin/sh\necho the last line of the log\n")
	m.write("unit", unit)
	m.write("var/lib/kubelet/config.yaml", config)
	m.write("kubelet-works", "")
	m.write("etc/hosts", "")
	return m
}

// write writes a file of the machine, with the machine's own values in place of DIR and SERVER.
func (m *machine) write(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	must(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
	content = strings.NewReplacer("DIR", m.dir, "SERVER", m.options.Server).Replace(content)
	must(m.t, os.WriteFile(path, []byte(content), 0o600))
}

func (m *machine) program(name, content string) {
	m.t.Helper()
	m.write("bin/"+name, content)
	must(m.t, os.Chmod(filepath.Join(m.bin, name), 0o755))
}

func (m *machine) remove(name string) {
	m.t.Helper()
	must(m.t, os.RemoveAll(filepath.Join(m.dir, name)))
}

func (m *machine) read(name string) string {
	content, err := os.ReadFile(filepath.Join(m.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	must(m.t, err)
	return string(content)
}

// result is how a script ended.
type result struct {
	code           int
	stdout, stderr string
}

func (m *machine) run() result {
	m.t.Helper()
	script, err := nodescript.Render(m.options)
	must(m.t, err)
	return m.runScript(script)
}

// runScript sends a script to the shell, and a reply when the script has printed its request.
func (m *machine) runScript(script []byte) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, m.shell[0], m.shell[1:]...)
	cmd.Env = []string{"PATH=" + m.bin + ":" + os.Getenv("PATH"), "TMPDIR=" + m.dir, "nb_node=from-the-environment"}
	stdin, err := cmd.StdinPipe()
	must(m.t, err)
	stdout, err := cmd.StdoutPipe()
	must(m.t, err)
	progress, written, err := os.Pipe()
	must(m.t, err)
	defer progress.Close()
	cmd.Stderr = written
	must(m.t, cmd.Start())
	written.Close()
	var stderr bytes.Buffer
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(&stderr, progress)
	}()
	go func() {
		_, _ = stdin.Write(script)
		if len(m.options.Kubeconfig) > 0 {
			stdin.Close()
		}
	}()
	out := &strings.Builder{}
	lines := bufio.NewScanner(io.TeeReader(stdout, out))
	if bytes.HasSuffix(script, []byte("\nmain\n}\n")) {
		for lines.Scan() && lines.Text() != nodescript.EndLine {
		}
		_, _ = stdin.Write(m.replies)
	}
	stdin.Close()
	if m.cut {
		stdout.Close()
		progress.Close()
	}
	_, _ = io.Copy(out, stdout)
	err = cmd.Wait()
	<-copied
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		m.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// files are the machine's files, with their modes and content, without those of the test.
func (m *machine) files() map[string]string {
	m.t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(m.dir, path)
		if err != nil || name == "calls" || d.Type() == fs.ModeSocket {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		found[name] = info.Mode().String()
		if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			found[name] += " " + string(content)
			return err
		}
		return nil
	})
	must(m.t, err)
	return found
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
