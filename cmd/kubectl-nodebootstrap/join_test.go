// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

const host = "root@192.0.2.7"

// fakeSSH is put before what a fake ssh does. For each host it records its arguments, its environment and the script.
const fakeSSH = `#!/bin/sh
args=$*
while [ "$1" != -- ]; do shift; done
host=$2
mkdir -p "$DIR/$host"
cd "$DIR/$host" || exit 98
printf '%s\n' "$args" >>args
env >env
read_until() { while IFS= read -r line; do printf '%s\n' "$line"; [ "$line" != "$1" ] || return 0; done; return 1; }
script() {
	until [ "$(tail -n 2 script 2>/dev/null | head -n 1)" = main ]; do read_until '}' >>script || exit 99; done
	echo "[check] all is well" >&2
}
request() { echo "NODEBOOTSTRAP-REQUEST kubelet"; cat "${1:-../request}"; echo NODEBOOTSTRAP-END; }
answer() { read_until NODEBOOTSTRAP-END >kubeconfig || { echo "error: no kubeconfig arrived" >&2; exit 19; }; }
`

// goodSSH is a machine that joins.
const goodSSH = "script; request; answer; echo '[done] the kubelet has its certificate' >&2; exit 0"

// machines is a command line with a fake ssh, and the cluster that answers it.
type machines struct {
	signing
	// ssh is what the fake ssh does; by default the machine joins.
	ssh string
	// node is registered when the certificate is issued; by default it is Ready.
	node *corev1.Node
	// requests are those of several machines, by host.
	requests map[string][]byte
	// withoutSSH leaves no ssh in the PATH.
	withoutSSH bool
	// started runs beside the command.
	started func()
	dir     string
}

// execute runs a command line, and fails if the token is anywhere.
func (m *machines) execute(t *testing.T, args ...string) result {
	t.Helper()
	m.dir = t.TempDir()
	if m.request == nil {
		m.request = requestPEM(t, newKey(t), node)
	}
	if m.ssh == "" {
		m.ssh = goodSSH
	}
	files := map[string][]byte{"request": m.request, "ssh": []byte(fakeSSH + m.ssh + "\n")}
	for host, request := range m.requests {
		files["request-"+host] = request
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(m.dir, name), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DIR", m.dir)
	t.Setenv("PATH", m.dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if m.withoutSSH {
		t.Setenv("PATH", "/nonexistent")
	}
	if m.answer == nil {
		m.answer = m.join
	}
	if m.started != nil {
		go m.started()
	}
	r := m.command(t, append([]string{"join"}, args...)...)
	err := filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(canary)) {
			t.Errorf("the token is in ssh's file %s: %s", path, content)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return r
}

// read returns what the fake ssh of a host has recorded; by default that of the host of one machine.
func (m *machines) read(name string, of ...string) string {
	content, _ := os.ReadFile(filepath.Join(append(append([]string{m.dir}, append(of, host)[0]), name)...))
	return string(content)
}

// join issues the certificate; the machine then registers its Node, and the operator reports that.
func (m *machines) join(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error {
	name := strings.TrimPrefix(csr.RequestedNode(r), "system:node:")
	registered := m.node
	if registered == nil {
		registered = nodeWith(corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	}
	registered = registered.DeepCopy()
	registered.Name = name
	joined := awaiting(hasJoined)
	joined.Name = name
	var now v1alpha1.NodeBootstrap
	if err := errors.Join(issue(ctx, c, r), c.Create(ctx, registered), c.Get(ctx, client.ObjectKey{Name: name}, &now)); err != nil {
		return err
	}
	now.Status = joined.Status
	return c.Status().Update(ctx, &now)
}

func nodeWith(ready corev1.ConditionStatus, reason, message string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: ready, Reason: reason, Message: message},
	}}}
}

func published(t *testing.T, changes ...func(*v1alpha1.NodeBootstrap)) cluster {
	t.Helper()
	return cluster{objects: []client.Object{awaiting(changes...), renderedSecret(t)}}
}

// One command, and the machine is a node. Nothing secret travels.
func TestJoin(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}}
	r := m.execute(t, node, "--ssh", host)
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.errOut)
	}
	if !strings.HasPrefix(r.out, "worker-1: Ready after ") {
		t.Errorf("printed %q", r.out)
	}
	mention(t, "the timeline", r.errOut, "is published", "[check] all is well", "Pinned the key", "Sent the request", "delivered the signed kubeconfig",
		"[done] the kubelet has its certificate", "Node worker-1 is registered", "NodeBootstrap worker-1 is Joined", "Node worker-1 is Ready")
	mention(t, "the script", m.read("script"), "nb_node='worker-1'", "nb_server='https://api.example.com:6443'", "nb_token_kubeconfig=''", "nb_check_only=''")
	const want = "-T -x -o ControlMaster=no -o ControlPath=none -o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no " +
		"-o RemoteCommand=none -o RequestTTY=no -- root@192.0.2.7 sh -s\n"
	if got := m.read("args"); got != want {
		t.Errorf("ssh was called with %q, want %q", got, want)
	}
	config, err := clientcmd.Load([]byte(strings.TrimSuffix(m.read("kubeconfig"), nodescript.EndLine+"\n")))
	if err != nil {
		t.Fatal(err)
	}
	user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
	if user.ClientKey != nodescript.Default.Key || string(user.ClientCertificateData) != certificateText || user.Token != "" {
		t.Errorf("the machine got %+v", user)
	}
}

func TestJoinFlags(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}}
	r := m.execute(t, node, "--ssh", "admin@worker", "--sudo", "--ssh-arg", "-F", "--ssh-arg=config", "--with", "kubelet", "--unit", "k8s-kubelet", "-o", "json")
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.errOut)
	}
	if got := m.read("args", "admin@worker"); !strings.HasSuffix(got, " RequestTTY=no -F config -- admin@worker sudo -n sh -s\n") {
		t.Errorf("ssh was called with %q", got)
	}
	mention(t, "the script", m.read("script", "admin@worker"), "nb_unit='k8s-kubelet'", "nb_method='kubelet'")
	var summary struct{ Machines []joinResult }
	if err := json.Unmarshal([]byte(r.out), &summary); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	got := summary.Machines[0]
	if len(summary.Machines) != 1 || got.Node != node || got.Host != "admin@worker" || got.Result != "Ready" || got.ExitCode != 0 || got.Error != "" || got.Seconds <= 0 {
		t.Errorf("the summary is %s", r.out)
	}
}

func TestJoinUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no machine":                 {nil, "no machine is named"},
		"no host":                    {[]string{node}, "worker-1 --ssh USER@HOST, or worker-1=USER@HOST"},
		"empty host":                 {[]string{node + "="}, "names no host"},
		"no host after the user":     {[]string{node, "--ssh", "root@"}, "names no host"},
		"an option as host":          {[]string{node, "--ssh", "-oProxyCommand=reboot"}, "begins with -"},
		"an option after the user":   {[]string{node, "--ssh", "root@-oProxyCommand=reboot"}, "begins with -"},
		"a command as host":          {[]string{node, "--ssh", "root@worker reboot"}, "has a space"},
		"a line break":               {[]string{node, "--ssh", "worker\nreboot"}, "control character"},
		"both ways":                  {[]string{node + "=" + host, "--ssh", host}, "--ssh goes with one NAME"},
		"one host for two":           {[]string{node, "worker-2", "--ssh", host}, "--ssh goes with one NAME"},
		"a name twice":               {[]string{node + "=a", node + "=b"}, "named twice"},
		"a machine twice":            {[]string{node + "=a", "worker-2=a"}, "named twice"},
		"no name of a node":          {[]string{"Worker_1=" + host}, "not a valid name"},
		"none at once":               {[]string{node, "--ssh", host, "--parallel", "0"}, "--parallel"},
		"no time":                    {[]string{node, "--ssh", host, "--timeout", "0s"}, "--timeout"},
		"unknown state":              {[]string{node, "--ssh", host, "--wait-for", "running"}, `not "running"`},
		"unknown output":             {[]string{node, "--ssh", host, "-o", "wide"}, `write json or yaml`},
		"dry run with a summary":     {[]string{node, "--ssh", host, "--dry-run", "-o", "json"}, "--output"},
		"dry run of two":             {[]string{node + "=a", "worker-2=b", "--dry-run"}, "one machine"},
		"a server without --create":  {[]string{node, "--ssh", host, "--server-url", "https://api"}, "--server-url requires --create"},
		"an unknown flag for a host": {[]string{node, "--host", host}, "--host"},
	} {
		t.Run(name, func(t *testing.T) {
			m := machines{signing: signing{cluster: cluster{err: errors.New("connected for a command line that is wrong")}}}
			r := m.execute(t, tc.args...)
			if r.err == nil || m.read("args") != "" {
				t.Fatalf("no error, or ssh was called: %q", m.read("args"))
			}
			mention(t, "the error", r.err.Error(), tc.want, "See kubectl nodebootstrap join --help")
			if code := exitCode(r.err); code != exitUsage {
				t.Errorf("the exit code is %d", code)
			}
		})
	}
}

// A missing NodeBootstrap is created only with --create, and with the flags for it.
func TestJoinCreate(t *testing.T) {
	missing := func() *machines {
		return &machines{signing: signing{cluster: cluster{objects: []client.Object{renderedSecret(t)}}}}
	}
	m := missing()
	r := m.execute(t, node, "--ssh", host)
	if r.err == nil || m.read("args") != "" {
		t.Fatalf("got %v, and ssh was called with %q", r.err, m.read("args"))
	}
	mention(t, "the error", r.err.Error(), "does not exist", "--create", "kind: NodeBootstrap\nmetadata:\n  name: worker-1")

	m = missing()
	m.cluster.funcs.Create = func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
		if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
			return errors.Join(c.Create(ctx, o, opts...), m.answer(ctx, c, r.DeepCopy()))
		}
		return errors.Join(c.Create(ctx, o), put(ctx, c, awaiting()))
	}
	r = m.execute(t, node, "--ssh", host, "--create", "--server-url", "https://api.example.com:6443", "--serving-address", "worker-1,192.0.2.7", "--ttl", "1h")
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.errOut)
	}
	nb, err := get(t.Context(), m.client, node)
	if err != nil {
		t.Fatal(err)
	}
	if nb.Spec.Cluster.Server != "https://api.example.com:6443" || fmt.Sprint(nb.Spec.ServingCertificate.Addresses) != "[worker-1 192.0.2.7]" ||
		nb.Spec.TokenTTL() != time.Hour {
		t.Errorf("created %+v", nb.Spec)
	}
	mention(t, "the timeline", r.errOut, "created NodeBootstrap worker-1")
}

// Only the checks run, and the whole script is printed.
func TestJoinDryRun(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}, ssh: "script; echo '[done] all checks passed' >&2; exit 0"}
	r := m.execute(t, node, "--ssh", host, "--dry-run")
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.errOut)
	}
	mention(t, "the script that ran", m.read("script"), "nb_check_only='true'")
	mention(t, "the printed script", r.out, "#!/bin/sh", "nb_check_only=''")
	if m.patches != 0 || len(m.sent) != 0 {
		t.Errorf("%d patches and %d requests were sent", m.patches, len(m.sent))
	}
}

// The node has joined already. The machine is that node, or another one.
func TestJoinMember(t *testing.T) {
	joined := cluster{objects: []client.Object{awaiting(hasJoined), nodeWith(corev1.ConditionTrue, "KubeletReady", "")}}
	m := machines{signing: signing{cluster: joined}, ssh: "script; echo NODEBOOTSTRAP-MEMBER; exit 0"}
	r := m.execute(t, node, "--ssh", host)
	if r.err != nil || !strings.HasPrefix(r.out, "worker-1: Ready") {
		t.Errorf("got %q and %v", r.out, r.err)
	}
	mention(t, "the script", m.read("script"), "nb_only_member='true'")

	m = machines{signing: signing{cluster: joined}, ssh: "script; echo 'error: this machine is not a node' >&2; exit 9"}
	r = m.execute(t, node, "--ssh", host)
	if exitCode(r.err) != nodescript.ExitNotMember {
		t.Fatalf("got %v", r.err)
	}
	mention(t, "the error", r.err.Error(), "worker-1 has joined already, and root@192.0.2.7 is not it", "kubectl nodebootstrap reissue worker-1")
}

func TestJoinNotReady(t *testing.T) {
	noNetwork := nodeWith(corev1.ConditionFalse, "KubeletNotReady", "container runtime network not ready: NetworkPluginNotReady")
	for name, tc := range map[string]struct {
		args []string
		code int
		out  string
	}{
		"joined is enough":     {[]string{"--wait-for", "joined"}, 0, "worker-1: Joined after"},
		"it has to be Ready":   {[]string{"--wait-for", "ready", "--timeout", "3s"}, exitNotInTime, ""},
		"not even the default": {[]string{"--timeout", "3s"}, exitNotInTime, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := machines{signing: signing{cluster: published(t)}, node: noNetwork}
			r := m.execute(t, append([]string{node, "--ssh", host}, tc.args...)...)
			if (r.err != nil) != (tc.code != 0) || r.err != nil && exitCode(r.err) != tc.code || !strings.HasPrefix(r.out, tc.out) {
				t.Fatalf("got %q and %v", r.out, r.err)
			}
			if r.err != nil {
				mention(t, "the error", r.err.Error(), "gave up after 3s", "has joined, and is not Ready", "network plugin, CNI")
			}
		})
	}
}

func TestEnough(t *testing.T) {
	const long, short = 2 * readyPatience, readyPatience / 2
	for name, tc := range map[string]struct {
		state   nodeState
		waitFor string
		want    bool
	}{
		"nothing":               {nodeState{}, "", false},
		"registered":            {nodeState{registered: true}, waitForJoined, false},
		"Ready before Joined":   {nodeState{registered: true, ready: true}, "", false},
		"joined":                {nodeState{joined: true}, waitForJoined, true},
		"joined, want ready":    {nodeState{joined: true}, waitForReady, false},
		"both":                  {nodeState{joined: true, ready: true}, waitForReady, true},
		"both, not asked for":   {nodeState{joined: true, ready: true}, "", true},
		"joined, not asked for": {nodeState{joined: true}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.state.enough(tc.waitFor, short); got != tc.want {
				t.Errorf("soon after: got %t, want %t", got, tc.want)
			}
			want := tc.want || tc.waitFor == "" && tc.state.joined
			if got := tc.state.enough(tc.waitFor, long); got != want {
				t.Errorf("long after: got %t, want %t", got, want)
			}
		})
	}
}
