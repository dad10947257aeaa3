// SPDX-License-Identifier: Apache-2.0

package nodescript_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

// shells are those that are common on nodes.
var shells = map[string][]string{"dash": {"dash", "-s"}, "bash": {"bash", "-s"}, "bash posix": {"bash", "--posix", "-s"}, "busybox": {"busybox", "sh", "-s"}}

func TestMachineJoins(t *testing.T) {
	t.Parallel()
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.shell = shell
			m.remove("var/lib/kubelet")
			m.options.KubeletConfiguration = []byte("kind: KubeletConfiguration # it's the cluster's\n")
			m.options.Paths.RuntimeSocket = m.dir + "/runtime.sock"
			got := m.run()
			if got.code != nodescript.ExitJoined {
				t.Fatalf("%+v", got)
			}
			request, method := requestIn(t, got.stdout)
			if result := csr.EvaluateContent(request, "worker-1"); result.Verdict != csr.Approve || method != "kubelet" {
				t.Errorf("the request, for %s, is judged %v", method, result)
			}
			if m.read("var/lib/kubelet/config.yaml") != string(m.options.KubeletConfiguration) || m.read("etc/kubernetes/pki/ca.crt") != string(m.options.CA) {
				t.Errorf("files: %q", m.files())
			}
			for _, gone := range []string{"var/lib/kubelet/pki/node.key", "etc/kubernetes/bootstrap-kubelet.conf"} {
				if m.read(gone) != "" {
					t.Errorf("%s is left behind", gone)
				}
			}
			if m.read("enabled") != "" || !strings.Contains(m.read("calls"), "enable kubelet\nrestart kubelet\n") {
				t.Errorf("systemctl: %s", m.read("calls"))
			}
		})
	}
}

// requestIn is the CSR that a script printed, and the method.
func requestIn(t *testing.T, stdout string) (request []byte, method string) {
	t.Helper()
	first, rest, _ := strings.Cut(stdout, "\n")
	method, ok := strings.CutPrefix(first, nodescript.RequestLine+" ")
	body, ended := strings.CutSuffix(rest, nodescript.EndLine+"\n")
	if !ok || !ended {
		t.Fatalf("standard output has no request: %q", stdout)
	}
	return []byte(body), method
}

func TestFilesWhileTheKubeletStarts(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.program("systemctl", strings.Replace(systemctl, "restart)", "restart)\n\tmkdir DIR/seen; cp -rp DIR/etc DIR/var DIR/seen\n", 1))
	if got := m.run(); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	files := m.files()
	for name, want := range map[string]string{
		"seen/etc/kubernetes/bootstrap-kubelet.conf": "-rw------- signed\n",
		"seen/etc/kubernetes/pki/ca.crt":             "-rw-r--r-- " + string(m.options.CA),
		"seen/etc/kubernetes/pki":                    "drwxr-xr-x",
	} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	if key := files["seen/var/lib/kubelet/pki/node.key"]; !strings.HasPrefix(key, "-rw------- -----BEGIN PRIVATE KEY-----") {
		t.Errorf("the key is %q", key)
	}
}

// A unit of the machine's own has other paths than kubeadm's.
func TestPathsOfTheUnit(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"arguments":                     "[Service]\nExecStart=DIR/bin/kubelet \\\n  --bootstrap-kubeconfig=DIR/own/bootstrap \\\n  --kubeconfig DIR/own/kubeconfig \\\n  --config=DIR/own/config.yaml\n",
		"flags only, and the host name": "[Service]\nExecStart=DIR/bin/kubelet --bootstrap-kubeconfig=DIR/own/bootstrap --kubeconfig=DIR/own/kubeconfig --client-ca-file=DIR/own/ca.crt --container-runtime-endpoint=unix://DIR/runtime.sock --hostname-override=%H\n",
		"environment":                   "[Service]\nEnvironment=\"ARGS=--bootstrap-kubeconfig=DIR/own/bootstrap --config=DIR/own/config.yaml\"\nEnvironment=\"MORE=--kubeconfig=DIR/own/kubeconfig\"\nExecStart=DIR/bin/kubelet $ARGS $MORE\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.write("unit", text)
			if strings.Contains(text, "--config") {
				m.write("own/config.yaml", "authentication: {}\n  x509:\n    clientCAFile: DIR/own/ca.crt\ncontainerRuntimeEndpoint: unix://DIR/runtime.sock\n")
			}
			m.remove("var")
			m.program("systemctl", strings.NewReplacer("etc/kubernetes/bootstrap-kubelet.conf", "own/bootstrap", "etc/kubernetes/kubelet.conf", "own/kubeconfig").Replace(systemctl))
			got := m.run()
			if got.code != 0 || m.read("own/ca.crt") != string(m.options.CA) || m.read("own/kubeconfig") == "" || m.read("own/bootstrap") != "" {
				t.Errorf("%+v, files %q", got, slices.Sorted(maps.Keys(m.files())))
			}
		})
	}
}

// certificate writes a certificate of a node, and the kubelet's kubeconfig with it, as kubeadm does.
func (m *machine) certificate(commonName string, expires time.Time) {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(m.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: commonName},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: expires,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(m.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(m.t, err)
	m.write("node.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	m.write("etc/kubernetes/kubelet.conf", "    server: SERVER\n    client-certificate: DIR/node.pem\n")
}

func TestMemberIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*machine){
		"of this API server": func(*machine) {},
		"of another address of this cluster": func(m *machine) {
			m.write("ca.crt", string(m.options.CA))
			m.write("etc/kubernetes/kubelet.conf", "    server: https://other.example.com\n    certificate-authority: DIR/ca.crt\n    client-certificate: DIR/node.pem\n")
		},
		"asked only that": func(m *machine) { m.options.OnlyMember, m.options.Server, m.options.CA = true, "", nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.certificate("system:node:worker-1", time.Now().Add(time.Hour))
			change(m)
			before := m.files()
			got := m.run()
			if got.code != 0 || got.stdout != nodescript.MemberLine+"\n" || !strings.Contains(got.stderr, "is the node worker-1 already. Nothing was changed") {
				t.Errorf("%+v", got)
			}
			if !maps.Equal(before, m.files()) {
				t.Errorf("files: %q", m.files())
			}
		})
	}
}

// Each failure has its exit code, says what to do, and leaves the machine as it was.
func TestFailures(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*machine)
		code   int
		says   string
		// keyStays: a key that can be pinned by then stays for the next run.
		keyStays bool
	}{
		"not root":     {func(m *machine) { m.program("id", "#!/bin/sh\n[ $1 = -u ] && echo 1000 || echo me\n") }, nodescript.ExitNotRoot, "as the user me, and it needs root. Use sudo", false},
		"no kubelet":   {func(m *machine) { m.remove("bin/kubelet") }, nodescript.ExitProgramMissing, "the unit kubelet starts DIR/bin/kubelet, which does not exist. Install it", false},
		"no unit":      {func(m *machine) { m.remove("unit") }, nodescript.ExitProgramMissing, "systemd has no unit kubelet that runs the kubelet. Install", false},
		"no kubeadm":   {func(m *machine) { m.options.With = nodescript.Kubeadm }, nodescript.ExitProgramMissing, "kubeadm is not installed", false},
		"another node": {func(m *machine) { m.certificate("system:node:worker-2", time.Now().Add(time.Hour)) }, nodescript.ExitOtherNode, "is the node worker-2 of the cluster at SERVER already", false},
		"expired node": {func(m *machine) { m.certificate("system:node:worker-1", time.Now().Add(-time.Hour)) }, nodescript.ExitOtherNode, "was the node worker-1 already, and its certificate has expired", false},
		"rejected certificate": {func(m *machine) {
			m.certificate("system:node:worker-1", time.Now().Add(time.Hour))
			m.rejects = true
		}, nodescript.ExitOtherNode, "that the API server at SERVER does not accept", false},
		"key with a passphrase": {func(m *machine) {
			m.write("var/lib/kubelet/pki/node.key", encryptedKey(m.t))
		}, nodescript.ExitFiles, "node.key is not a private key that openssl can read without a passphrase", false},
		"key is a directory": {func(m *machine) { m.write("var/lib/kubelet/pki/node.key/x", "") }, nodescript.ExitFiles, "node.key is a directory", false},
		"bootstrap kubeconfig is a directory": {func(m *machine) {
			m.write("etc/kubernetes/bootstrap-kubelet.conf/x", "")
		}, nodescript.ExitFiles, "bootstrap-kubelet.conf is a directory", true},
		"restart fails": {func(m *machine) {
			m.program("systemctl", strings.Replace(systemctl, "restart)", "restart) echo it is masked >&2; exit 1", 1))
		}, nodescript.ExitNotJoined, "systemctl restart kubelet failed (see above)", true},
		"no request": {func(m *machine) {
			m.program("openssl", "#!/bin/sh\n[ $1 = req ] && exit 1\nexec /usr/bin/openssl \"$@\"\n")
		}, nodescript.ExitFiles, "openssl creates no request", false},
		"other cluster": {func(m *machine) {
			m.certificate("system:node:worker-1", time.Now().Add(time.Hour))
			m.write("etc/kubernetes/kubelet.conf", "    server: https://other.example.com\n    client-certificate: DIR/node.pem\n")
		}, nodescript.ExitOtherNode, "of the cluster at https://other.example.com already", false},
		"not a member": {func(m *machine) { m.options.OnlyMember = true }, nodescript.ExitNotMember, "Another machine has joined as worker-1", false},
		"host name":    {func(m *machine) { m.program("uname", "#!/bin/sh\necho worker-1.example.com\n") }, nodescript.ExitOtherName, "would register as worker-1.example.com, the host name", false},
		"override": {func(m *machine) {
			m.write("unit", strings.Replace(unit, "--kube", "--hostname-override=worker-9 --kube", 1))
		}, nodescript.ExitOtherName, "has --hostname-override=worker-9", false},
		"override in an environment file": {func(m *machine) {
			m.write("etc/default/kubelet", "KUBELET_EXTRA_ARGS=\"--hostname-override worker-9\"\n")
		}, nodescript.ExitOtherName, "would register as worker-9", false},
		"no runtime": {func(m *machine) { m.remove("runtime.sock") }, nodescript.ExitRuntime, "no container runtime at DIR/runtime.sock", false},
		"dead runtime": {func(m *machine) {
			m.write("var/lib/kubelet/config.yaml", "containerRuntimeEndpoint: unix://DIR/dead.sock\n")
			deadSocket(m)
		}, nodescript.ExitRuntime, "does not answer at DIR/dead.sock", false},
		"clock behind":  {func(m *machine) { m.options.Rendered = time.Now().Add(time.Hour) }, nodescript.ExitClock, "the clock of this machine is 3", false},
		"token expired": {func(m *machine) { m.options.Expires = time.Now().Add(-time.Minute) }, nodescript.ExitClock, "the bootstrap token expired 6", false},
		"no API server": {func(m *machine) { m.options.Server = "https://127.0.0.1:1" }, nodescript.ExitServer, "https://127.0.0.1:1 cannot be reached from this machine: ", false},
		"another CA":    {func(m *machine) { m.options.CA = otherCA(m.t) }, nodescript.ExitServer, "is not valid for this cluster's CA", false},
		"no config": {func(m *machine) {
			m.remove("var/lib/kubelet/config.yaml")
			m.options.Paths.RuntimeSocket = m.dir + "/runtime.sock"
		}, nodescript.ExitNoConfig, "no kubelet configuration at DIR/var/lib/kubelet/config.yaml", false},
		"no reply":       {func(m *machine) { m.replies = nil }, nodescript.ExitNoAnswer, "no signed kubeconfig arrived before the connection ended", true},
		"half a reply":   {func(m *machine) { m.replies = []byte("signed\n") }, nodescript.ExitNoAnswer, "no signed kubeconfig arrived", true},
		"no certificate": {func(m *machine) { m.remove("kubelet-works"); m.options.Limit = time.Second }, nodescript.ExitNotJoined, "the kubelet got no certificate within 1 s. What the cluster says: kubectl nodebootstrap status worker-1", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			tt.change(m)
			before := m.files()
			got := m.run()
			says := strings.NewReplacer("DIR", m.dir, "SERVER", m.options.Server).Replace(tt.says)
			if got.code != tt.code || !strings.Contains(got.stderr, "error: ") || !strings.Contains(got.stderr, says) {
				t.Errorf("exit code %d, want %d: %s", got.code, tt.code, got.stderr)
			}
			after := m.files()
			if tt.keyStays {
				if !strings.HasPrefix(after["var/lib/kubelet/pki/node.key"], "-rw-------") {
					t.Errorf("the key is %q", after["var/lib/kubelet/pki/node.key"])
				}
				delete(after, "var/lib/kubelet/pki/node.key")
				delete(after, "var/lib/kubelet/pki")
			}
			if !maps.Equal(before, after) {
				t.Errorf("files before: %q\nafter: %q", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
		})
	}
}

func encryptedKey(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes128", "-pass", "pass:x").Output()
	must(t, err)
	return string(out)
}

// deadSocket leaves a socket on which nothing listens.
func deadSocket(m *machine) {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "python3", "-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])", filepath.Join(m.dir, "dead.sock"))
	must(m.t, cmd.Run())
}

func otherCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestSecondRunUsesTheKeyOfTheFirst(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.replies = nil
	first := m.run()
	one, _ := requestIn(t, first.stdout)
	m.replies = []byte("signed\n" + nodescript.EndLine + "\n")
	second := m.run()
	two, _ := requestIn(t, second.stdout)
	if key := csr.EvaluateContent(one, "worker-1").KeyFingerprint; second.code != 0 || key == "" || key != csr.EvaluateContent(two, "worker-1").KeyFingerprint {
		t.Errorf("%+v, then %+v", first, second)
	}
}

// A stale bootstrap kubeconfig is replaced, and comes back if the machine does not join.
func TestOldBootstrapKubeconfig(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.options.Limit = time.Second
	m.write("etc/kubernetes/bootstrap-kubelet.conf", "old\n")
	m.remove("kubelet-works")
	m.write("active", "")
	if got := m.run(); got.code != nodescript.ExitNotJoined || m.files()["etc/kubernetes/bootstrap-kubelet.conf"] != "-rw------- old\n" || m.files()["active"] == "" {
		t.Errorf("%+v, files %q", got, m.files())
	}
}

func TestScriptWithToken(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.options.Kubeconfig = []byte("token: it's secret\n")
	m.program("systemctl", strings.Replace(systemctl, "restart)", "restart)\n\tcp -p DIR/etc/kubernetes/bootstrap-kubelet.conf DIR/seen\n", 1))
	got := m.run()
	if got.code != 0 || got.stdout != "" || m.files()["seen"] != "-rw------- token: it's secret\n" || m.read("etc/kubernetes/bootstrap-kubelet.conf") != "" {
		t.Errorf("%+v, files %q", got, m.files())
	}
	if strings.Contains(got.stderr, "secret") {
		t.Errorf("the token is in %q", got.stderr)
	}
}

func TestCheckOnlyWritesNothing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.options.CheckOnly = true
	before := m.files()
	if got := m.run(); got.code != 0 || got.stdout != "" || !strings.Contains(got.stderr, "all checks passed") || !maps.Equal(before, m.files()) {
		t.Errorf("%+v", got)
	}
}

// As soon as the certificate is there, the machine joins without the connection.
func TestConnectionIsCutAfterTheReply(t *testing.T) {
	t.Parallel()
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.shell, m.cut = shell, true
			if got := m.run(); got.code != 0 || m.read("etc/kubernetes/kubelet.conf") == "" || m.read("var/lib/kubelet/pki/node.key") != "" {
				t.Errorf("%+v, files %q", got, slices.Sorted(maps.Keys(m.files())))
			}
		})
	}
}

// A signal before the certificate is there undoes everything; later the script goes on.
func TestSignals(t *testing.T) {
	t.Parallel()
	const signal = "kill -TERM $(cat DIR/pid)\n"
	for name, tt := range map[string]struct {
		program, content string
		code             int
		joined           bool
	}{
		"while it checks":              {"id", "#!/bin/sh\n" + signal + "echo 0\n", 143, false},
		"while the kubelet is started": {"systemctl", strings.NewReplacer("restart)", "restart)\n\t"+signal+"{ sleep 0.3", ";;\nesac", "\n} & ;;\nesac").Replace(systemctl), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.program(tt.program, tt.content)
			before := m.files()
			script, err := nodescript.Render(m.options)
			must(t, err)
			got := m.runScript(append([]byte("echo $$ >"+m.dir+"/pid\n"), script...))
			m.remove("pid")
			if got.code != tt.code || (m.read("etc/kubernetes/kubelet.conf") != "") != tt.joined || !tt.joined && !maps.Equal(before, m.files()) {
				t.Errorf("%+v, files %q", got, slices.Sorted(maps.Keys(m.files())))
			}
		})
	}
}

// The machine goes down while the kubelet starts: the next run removes what was written, or what is not needed any more.
func TestRunAfterKill(t *testing.T) {
	t.Parallel()
	const kill = "kill -9 $(cat DIR/pid)\n"
	for name, member := range map[string]bool{"before the kubelet has its certificate": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.certificate("system:node:worker-1", time.Now().Add(time.Hour))
			m.remove("etc/kubernetes/kubelet.conf")
			if member {
				m.program("rm", "#!/bin/sh\n"+kill)
			} else {
				m.program("systemctl", strings.Replace(systemctl, "restart)", "restart)\n\t"+kill+"\texit", 1))
			}
			script, err := nodescript.Render(m.options)
			must(t, err)
			if first := m.runScript(append([]byte("echo $$ >"+m.dir+"/pid\n"), script...)); first.code != -1 || m.read("etc/kubernetes/bootstrap-kubelet.conf") == "" {
				t.Fatalf("%+v, files %q", first, slices.Sorted(maps.Keys(m.files())))
			}
			m.remove("pid")
			m.program("systemctl", systemctl)
			must(t, os.RemoveAll(filepath.Join(m.bin, "rm")))
			second := m.run()
			if second.code != 0 || strings.Contains(second.stdout, nodescript.MemberLine) != member {
				t.Errorf("%+v", second)
			}
			files := m.files()
			for _, gone := range []string{"etc/kubernetes/bootstrap-kubelet.conf", "etc/kubernetes/bootstrap-kubelet.conf.undo", "var/lib/kubelet/pki/node.key"} {
				if files[gone] != "" {
					t.Errorf("%s is left behind", gone)
				}
			}
		})
	}
}

// kubeadm fails if files of an earlier join exist.
func TestKubeadmAfterKill(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.options.With, m.options.Paths.RuntimeSocket = nodescript.Kubeadm, m.dir+"/runtime.sock"
	m.program("kubeadm", "#!/bin/sh\nmkdir -p DIR/etc/kubernetes/pki\necho x >DIR/etc/kubernetes/pki/ca.crt\nkill -9 $(cat DIR/pid)\n")
	script, err := nodescript.Render(m.options)
	must(t, err)
	if first := m.runScript(append([]byte("echo $$ >"+m.dir+"/pid\n"), script...)); first.code != -1 || m.read("etc/kubernetes/pki/ca.crt") == "" {
		t.Fatalf("%+v", first)
	}
	must(t, os.Rename(filepath.Join(m.dir, "runtime.sock"), filepath.Join(m.dir, "away.sock")))
	if failed := m.run(); failed.code != nodescript.ExitRuntime { // it changes nothing, so the note about the first run stays
		t.Fatalf("%+v", failed)
	}
	must(t, os.Rename(filepath.Join(m.dir, "away.sock"), filepath.Join(m.dir, "runtime.sock")))
	m.program("kubeadm", "#!/bin/sh\n[ -e DIR/etc/kubernetes/pki/ca.crt ] && exit 1\necho client-certificate-data: eA== >DIR/etc/kubernetes/kubelet.conf\n")
	second := m.run()
	for name := range m.files() {
		if strings.HasSuffix(name, "discovery.conf") {
			t.Errorf("%s is left behind", name)
		}
	}
	if second.code != 0 || m.read("etc/kubernetes/bootstrap-kubelet.conf.undo") != "" {
		t.Errorf("%+v, files %q", second, slices.Sorted(maps.Keys(m.files())))
	}
}

// A script whose transfer was cut does nothing.
func TestIncompleteScriptDoesNothing(t *testing.T) {
	t.Parallel()
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.shell = shell
			m.options.Kubeconfig = []byte("token\n")
			script, err := nodescript.Render(m.options)
			must(t, err)
			before := m.files()
			for _, cut := range cuts(len(script)) {
				m.runScript(script[:cut])
				if m.read("calls") != "" || !maps.Equal(before, m.files()) {
					t.Fatalf("%d of %d bytes did something: %s", cut, len(script), m.read("calls"))
				}
			}
		})
	}
}

// cuts are lengths of incomplete scripts: about each kilobyte, and each of the last bytes.
func cuts(length int) []int {
	var out []int
	for i := 1; i < length-40; i += 509 {
		out = append(out, i)
	}
	for i := length - 40; i < length-1; i++ { // without the last line feed it is complete
		out = append(out, i)
	}
	return out
}

func TestKubeadm(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		kubeadm string
		code    int
		says    string
		left    []string
	}{
		"joins": {"echo joined; cp -p $3 DIR/seen-config; cp -p $(sed -n 's/.*kubeConfigPath: //p' $3) DIR/seen-kubeconfig; echo client-certificate-data: eA== >DIR/etc/kubernetes/kubelet.conf", 0, "    joined", []string{"etc/kubernetes/kubelet.conf"}},
		"fails": {"echo no; mkdir -p DIR/etc/kubernetes/pki; echo x >DIR/etc/kubernetes/pki/ca.crt; exit 1", nodescript.ExitNotJoined, "kubeadm join failed", nil},
		"fails before the kubelet has its certificate": {"echo client-certificate: DIR/none.pem >DIR/etc/kubernetes/kubelet.conf; exit 1", nodescript.ExitNotJoined, "kubeadm join failed", nil},
		"fails after the kubelet has joined":           {"echo client-certificate-data: eA== >DIR/etc/kubernetes/kubelet.conf; exit 1", nodescript.ExitHalfJoined, "This machine is the node worker-1 now", []string{"etc/kubernetes/kubelet.conf"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.options.With, m.options.Paths.RuntimeSocket = nodescript.Detect, m.dir+"/runtime.sock"
			m.options.IgnorePreflightErrors = []string{"Swap"}
			m.program("kubeadm", "#!/bin/sh\nmkdir -p DIR/etc/kubernetes\n"+tt.kubeadm+"\n")
			got := m.run()
			if got.code != tt.code || !strings.Contains(got.stderr, tt.says) {
				t.Fatalf("%+v", got)
			}
			if _, method := requestIn(t, got.stdout); method != "kubeadm" {
				t.Errorf("the method is %q", method)
			}
			for _, file := range []string{"etc/kubernetes/kubelet.conf", "etc/kubernetes/pki/ca.crt"} {
				if there := m.read(file) != ""; there != slices.Contains(tt.left, file) {
					t.Errorf("%s exists: %t", file, there)
				}
			}
			if tt.code != 0 {
				return
			}
			if m.files()["seen-kubeconfig"] != "-rw------- signed\n" {
				t.Errorf("the discovery file is %q", m.files()["seen-kubeconfig"])
			}
			for _, want := range []string{"kind: JoinConfiguration", "name: worker-1", "criSocket: unix://" + m.dir + "/runtime.sock", "- Swap"} {
				if !strings.Contains(m.read("seen-config"), want) {
					t.Errorf("the configuration has no %q: %s", want, m.read("seen-config"))
				}
			}
		})
	}
}

func TestRenderRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*nodescript.Options){
		"is not a valid name of a node": func(o *nodescript.Options) { o.Node = "worker_1; rm" },
		"is not an https URL":           func(o *nodescript.Options) { o.Server = "http://x" },
		"not with \"magic\"":            func(o *nodescript.Options) { o.With = "magic" },
		"the CA":                        func(o *nodescript.Options) { o.CA = nil },
		"the path of the key":           func(o *nodescript.Options) { o.Paths.Key = "/a b" },
		"the path of the CA":            func(o *nodescript.Options) { o.Paths.CA = "relative" },
		"the path of the runtime":       func(o *nodescript.Options) { o.Paths.RuntimeSocket = "npipe:////./pipe/x" },
		"a systemd unit":                func(o *nodescript.Options) { o.Paths.Unit = "-a" },
	} {
		o := nodescript.Options{Node: "worker-1", Server: "https://x", CA: []byte("ca"), Paths: nodescript.Default}
		if _, err := nodescript.Render(o); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if _, err := nodescript.Render(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
	}
}

func TestScriptNamesItsExitCodes(t *testing.T) {
	t.Parallel()
	script, err := nodescript.Render(nodescript.Options{Node: "worker-1", Server: "https://x", CA: []byte("ca"), Paths: nodescript.Default})
	must(t, err)
	for _, e := range nodescript.ExitCodes {
		if !bytes.Contains(script, []byte(e.What)) || nodescript.What(e.Code) != e.What {
			t.Errorf("exit code %d is not explained", e.Code)
		}
	}
	for _, used := range []string{"checks.sh", "steps.sh"} {
		text, err := os.ReadFile(used)
		must(t, err)
		for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') }) {
			if strings.HasPrefix(word, "EXIT_") && !bytes.Contains(script, []byte("\n"+word+"=")) {
				t.Errorf("%s: %s is not defined", used, word)
			}
		}
	}
}
