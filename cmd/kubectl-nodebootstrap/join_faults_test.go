// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	certificatesv1 "k8s.io/api/certificates/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
)

// Whatever goes wrong, the user learns what happened and what to do, and the plugin has the exit code for it.
func TestJoinFaults(t *testing.T) {
	const changed = "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@"
	for name, tc := range map[string]struct {
		ssh  string
		args []string
		code int
		want []string
		// sent is how many requests reached the cluster.
		sent int
	}{
		"refused":           {"echo 'ssh: connect to host 192.0.2.7 port 22: Connection refused' >&2; exit 255", nil, 255, []string{"no ssh server listens", "--ssh-arg=-p"}, 0},
		"host key changed":  {"echo '" + changed + "' >&2; echo 'Host key verification failed.' >&2; exit 255", nil, 255, []string{"not the one that you know", "ssh-keygen -l"}, 0},
		"host key unknown":  {"echo 'Host key verification failed.' >&2; exit 255", nil, 255, []string{"does not know the host key", "known_hosts"}, 0},
		"not let in":        {"echo 'root@192.0.2.7: Permission denied (publickey).' >&2; exit 255", nil, 255, []string{"let nobody in", "ssh root@192.0.2.7 true"}, 0},
		"unknown host":      {"echo 'ssh: Could not resolve hostname' >&2; exit 255", nil, 255, []string{"not known here"}, 0},
		"no answer":         {"echo 'ssh: connect to host: Connection timed out' >&2; exit 255", nil, 255, []string{"does not answer", "firewall"}, 0},
		"some other reason": {"echo 'kex_exchange_identification' >&2; exit 255", nil, 255, []string{"failed or ended", "Run the command again"}, 0},
		"cut in the script": {"head -c 1000 >/dev/null; exit 255", nil, 255, []string{"failed or ended"}, 0},
		"killed":            {"kill -9 $$", nil, 255, []string{"failed or ended"}, 0},

		"sudo wants a password": {"echo 'sudo: a password is required' >&2; exit 1", []string{"--sudo"}, nodescript.ExitNotRoot, []string{"sudo runs no shell", "NOPASSWD"}, 0},
		"no sudo":               {"echo 'sh: 1: sudo: not found' >&2; exit 127", []string{"--sudo"}, nodescript.ExitNotRoot, []string{"sudo runs no shell"}, 0},
		"no shell":              {"echo 'This account is currently not available.'; exit 1", nil, 1, []string{"exit code 1, and the script did not run", "echo echo ok | ssh root@192.0.2.7 sh -s"}, 0},
		"a forced command":      {"echo 'welcome to git'; exit 0", nil, 1, []string{"exit code 0, and the script did not run"}, 0},
		"half a script":         {"echo 'sh: Syntax error: end of file unexpected' >&2; exit 2", nil, 1, []string{"exit code 2, and the script did not run"}, 0},
		"an endless greeting":   {"exec yes 'have a nice day'", nil, 1, []string{"prints too much"}, 0},

		"a check fails": {"script; echo 'error: openssl is not installed. Install it.' >&2; exit 11", nil, nodescript.ExitProgramMissing,
			[]string{"on root@192.0.2.7: openssl is not installed. Install it."}, 0},
		"it fails after the checks": {"script; exit 17", nil, nodescript.ExitFiles, []string{"ended too early, with exit code 17"}, 0},
		"success without a request": {"script; exit 0", nil, 1, []string{"ended too early, with exit code 0"}, 0},
		"a code of the shell":       {"script; exit 2", nil, 1, []string{"ended too early, with exit code 2"}, 0},
		"cut in the request":        {"script; echo NODEBOOTSTRAP-REQUEST kubelet; head -n 2 ../request; exit 255", nil, 255, []string{"failed or ended"}, 0},
		"a request for another":     {"script; echo NODEBOOTSTRAP-REQUEST kubelet; echo nonsense; echo NODEBOOTSTRAP-END; answer", nil, 1, []string{"nothing was sent"}, 0},
		"an endless request":        {"script; echo NODEBOOTSTRAP-REQUEST kubelet; exec yes", nil, 1, []string{"prints too much"}, 0},

		"the kubelet gets nothing": {"script; request; answer; echo '    no route to host' >&2; echo 'error: the kubelet got no certificate within 120 s.' >&2; echo '[undo] removing' >&2; exit 20",
			nil, nodescript.ExitNotJoined, []string{"on root@192.0.2.7: the kubelet got no certificate"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := machines{signing: signing{cluster: published(t)}, ssh: tc.ssh}
			if tc.sent > 0 { // what is issued is never used
				m.answer = issue
			}
			r := m.execute(t, append([]string{node, "--ssh", host, "--timeout", "20s"}, tc.args...)...)
			if r.err == nil || exitCode(r.err) != tc.code || r.out != "" {
				t.Fatalf("got %q, the exit code %d and %v, want %d\n%s", r.out, exitCode(r.err), r.err, tc.code, r.errOut)
			}
			mention(t, "the error", r.err.Error(), tc.want...)
			if len(m.sent) != tc.sent {
				t.Errorf("%d requests were sent, want %d", len(m.sent), tc.sent)
			}
			if tc.sent > 0 { // both ends
				mention(t, "the timeline", r.errOut, "no route to host", "[undo] removing", "in the cluster: NodeBootstrap worker-1 is Ready True, AwaitingNode")
			}
		})
	}
}

// Lines that a login shell prints do no harm.
func TestJoinWithNoise(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}, ssh: "echo Welcome; echo NODEBOOTSTRAP; script; request; answer; exit 0"}
	if r := m.execute(t, node, "--ssh", host); r.err != nil {
		t.Errorf("%v\n%s", r.err, r.errOut)
	}
}

// A machine cannot control the user's terminal, by whatever it prints, not even in the summary.
func TestJoinEscapes(t *testing.T) {
	const clearScreen = `\033[2J\233H\302\2332J\r\a\b\342\200\256`
	m := machines{signing: signing{cluster: published(t)}, ssh: "script; printf '[check] \\033[0;32mgreen\\033[m " + clearScreen + "\\nerror: " + clearScreen + "\\n' >&2; exit 11"}
	r := m.execute(t, node, "--ssh", host, "-o", "json")
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the timeline", r.errOut, "[check] green \ufffd[2J")
	for where, text := range map[string]string{"timeline": r.errOut, "error": r.err.Error(), "summary": r.out} {
		mention(t, "the "+where, text, "[2J")
		if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("the %s has a control character at %d: %q", where, i, text)
		}
	}
}

// After the kubeconfig was delivered the machine goes on without a connection, and so does the command.
func TestJoinCutAfterDelivery(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}, ssh: "script; request; answer; exit 255"}
	r := m.execute(t, node, "--ssh", host)
	if r.err != nil {
		t.Fatal(r.err)
	}
	mention(t, "the timeline", r.errOut, "the connection to root@192.0.2.7 ended", "Node worker-1 is Ready")
}

// Nobody waits for a machine that has no kubeconfig.
func TestJoinCutBeforeDelivery(t *testing.T) {
	m := machines{signing: signing{cluster: published(t), answer: issue}, ssh: "script; exec <&-; request; exit 255"}
	r := m.execute(t, node, "--ssh", host, "--timeout", "20s")
	if exitCode(r.err) != sshFailed || strings.Contains(r.errOut, "delivered") {
		t.Fatalf("got %v\n%s", r.err, r.errOut)
	}
	mention(t, "the error", r.err.Error(), "failed or ended", "Run the command again")
}

func TestJoinDoesNotFindSSH(t *testing.T) {
	m := machines{signing: signing{cluster: published(t)}, withoutSSH: true}
	r := m.execute(t, node, "--ssh", host)
	if exitCode(r.err) != sshFailed {
		t.Fatalf("got %v", r.err)
	}
	mention(t, "the error", r.err.Error(), "no program ssh")
}

// The machine hears that the request was denied, and keeps only its key.
func TestJoinDenied(t *testing.T) {
	m := machines{signing: signing{cluster: published(t), answer: sets(certificatesv1.CertificateDenied, "KeyNotPinned", "another key is pinned")},
		ssh: "script; request; answer; touch joined"}
	r := m.execute(t, node, "--ssh", host)
	if r.err == nil || exitCode(r.err) != 1 || m.read("joined") != "" {
		t.Fatalf("got %v", r.err)
	}
	mention(t, "the error", r.err.Error(), "was denied: KeyNotPinned: another key is pinned")
	mention(t, "the timeline", r.errOut, "on the machine: no kubeconfig arrived", "in the cluster: NodeBootstrap worker-1")
	if _, err := os.Stat(filepath.Join(m.dir, host, "joined")); err == nil {
		t.Error("the machine went on")
	}
}

// The cluster's side is not ready, or fails meanwhile.
func TestJoinClusterFaults(t *testing.T) {
	deleted := func(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error {
		if err := issue(ctx, c, r); err != nil {
			return err
		}
		return c.Delete(ctx, awaiting())
	}
	expires := map[string]string{"the operator is down": "2s", "nothing signs": "5s", "it never joins": "5s"}
	for name, tc := range map[string]struct {
		signing signing
		code    int
		want    []string
		calls   bool
	}{
		"the operator is down": {signing{cluster: cluster{objects: []client.Object{awaiting(isNew)}}}, 1, []string{"gave up after 2s", "is it running?"}, false},
		"stalled":              {signing{cluster: cluster{objects: []client.Object{awaiting(isStalled)}}}, 1, []string{"waiting does not help"}, false},
		"misused":              {signing{cluster: published(t, isMisused)}, 1, []string{"was misused"}, false},
		"ClusterWide": {signing{cluster: published(t, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide })}, 1,
			[]string{"no key can be pinned"}, true},
		"another key is pinned": {signing{cluster: published(t, pins("SHA256:"+strings.Repeat("0", 64)))}, 1, []string{"pins another key"}, true},
		"nothing signs":         {signing{cluster: published(t), answer: ignore}, 1, []string{"gave up after", "is not approved yet"}, true},
		"deleted meanwhile":     {signing{cluster: published(t), answer: deleted}, 1, []string{"NodeBootstrap worker-1 does not exist"}, true},
		"it never joins":        {signing{cluster: published(t), answer: issue}, exitNotInTime, []string{"gave up after 5s", "goes on by itself", "kubectl nodebootstrap status worker-1"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := machines{signing: tc.signing}
			r := m.execute(t, node, "--ssh", host, "--timeout", cmp.Or(expires[name], "1m"))
			if r.err == nil || exitCode(r.err) != tc.code || r.out != "" {
				t.Fatalf("got %q, the exit code %d and %v, want %d\n%s", r.out, exitCode(r.err), r.err, tc.code, r.errOut)
			}
			mention(t, "the error", r.err.Error(), tc.want...)
			if (m.read("args") != "") != tc.calls {
				t.Errorf("ssh was called with %q", m.read("args"))
			}
		})
	}
}

// A kubelet that fails after it has its certificate: both ends are shown.
func TestJoinShowsTheKubeletsLog(t *testing.T) {
	m := machines{signing: signing{cluster: published(t), answer: issue},
		ssh: `[ ! -e script ] || { cat >journal; echo 'address already in use' >&2; exit 0; }; ` + goodSSH}
	r := m.execute(t, node, "--ssh", host, "--timeout", "5s", "--unit", "k8s")
	if exitCode(r.err) != exitNotInTime {
		t.Fatalf("got %v", r.err)
	}
	mention(t, "the timeline", r.errOut, "on the machine: address already in use", "in the cluster: NodeBootstrap worker-1 is Ready True")
	if got := m.read("journal"); got != "journalctl -u 'k8s' -n 10 --no-pager -o cat >&2\n" {
		t.Errorf("the machine ran %q", got)
	}
	mention(t, "ssh's arguments", m.read("args"), "-o BatchMode=yes -- "+host)
}

// Interrupted at each step, the machine is unchanged or joins.
func TestJoinInterrupted(t *testing.T) {
	for name, tc := range map[string]struct {
		ssh  string
		want []string
		// delivered reports whether the machine gets the kubeconfig.
		delivered bool
	}{
		"before the request": {"script; touch here; exec sleep 60", []string{"interrupted", "Nothing was changed"}, false},
		"in the request":     {"script; request | head -n 2; touch here; exec sleep 60", []string{"interrupted", "Nothing was changed"}, false},
		"after the delivery": {"script; request; answer; touch here; exec sleep 60", []string{"interrupted", "goes on by itself"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := machines{signing: signing{cluster: published(t), ctx: ctx, answer: issue}, ssh: tc.ssh}
			m.started = func() { // the file "here" exists some time after the fake ssh has begun
				for ctx.Err() == nil {
					if _, err := os.Stat(filepath.Join(m.dir, host, "here")); err == nil {
						cancel()
					}
				}
			}
			r := m.execute(t, node, "--ssh", host, "--timeout", "30s")
			if r.err == nil || exitCode(r.err) != 1 {
				t.Fatalf("got %v\n%s", r.err, r.errOut)
			}
			mention(t, "the error", r.err.Error(), append(tc.want, "Running the command again continues")...)
			if got := strings.HasSuffix(m.read("kubeconfig"), nodescript.EndLine+"\n"); got != tc.delivered {
				t.Errorf("the machine got the kubeconfig: %t", got)
			}
		})
	}
}

// severalMachines are published NodeBootstraps, a Secret that all of them use, and a request of each machine.
func severalMachines(t *testing.T, names ...string) machines {
	t.Helper()
	m := machines{signing: signing{cluster: cluster{objects: []client.Object{renderedSecret(t)}}}, requests: map[string][]byte{}}
	for _, name := range names {
		nb := awaiting()
		nb.Name = name
		m.cluster.objects = append(m.cluster.objects, nb)
		m.requests["root@"+name] = requestPEM(t, newKey(t), name)
	}
	return m
}

// One of several machines fails. The others join, and the summary has all of them.
func TestJoinSeveral(t *testing.T) {
	m := severalMachines(t, "a", "b", "c")
	m.ssh = `[ "$host" != root@b ] || { echo 'root@b: Permission denied' >&2; exit 255; }; script; request ../request-$host; answer; exit 0`
	r := m.execute(t, "a=root@a", "b=root@b", "c=root@c", "--parallel", "2", "-o", "json")
	if r.err == nil || exitCode(r.err) != 1 {
		t.Fatalf("got %v\n%s", r.err, r.errOut)
	}
	mention(t, "the error", r.err.Error(), "1 of 3 machines failed: b")
	var summary struct{ Machines []joinResult }
	if err := json.Unmarshal([]byte(r.out), &summary); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range summary.Machines {
		got = append(got, fmt.Sprintf("%s %s %s %d %t", s.Node, s.Host, s.Result, s.ExitCode, s.Error != ""))
	}
	if want := "a root@a Ready 0 false, b root@b Failed 255 true, c root@c Ready 0 false"; strings.Join(got, ", ") != want {
		t.Errorf("the summary is %q, want %q", got, want)
	}
	for _, line := range strings.Split(strings.TrimSpace(r.errOut), "\n") {
		if name, _, _ := strings.Cut(line, ": "); name != "a" && name != "b" && name != "c" {
			t.Errorf("a line of no machine: %q", line)
		}
	}
	mention(t, "ssh's arguments", m.read("args", "root@a"), "-o BatchMode=yes")
	mention(t, "the lines", r.errOut, "root@b: Permission denied", "error: root@b let nobody in")
}

// No more machines than --parallel join at once.
func TestJoinParallel(t *testing.T) {
	m := severalMachines(t, "a", "b", "c", "d")
	m.ssh = `mkdir ../running 2>/dev/null || { echo too many >../too-many; }
script; request ../request-$host; answer; rmdir ../running; exit 0`
	r := m.execute(t, "a=root@a", "b=root@b", "c=root@c", "d=root@d", "--parallel", "1")
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.errOut)
	}
	if m.read("too-many", "") != "" {
		t.Error("more than one ran at once")
	}
	if strings.Count(r.out, "Ready after") != 4 {
		t.Errorf("printed %q", r.out)
	}
}

// After an interruption no other machine is begun, and the summary says so.
func TestJoinSeveralInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := severalMachines(t, "a", "b")
	m.ctx = ctx
	m.ssh = "script; touch here; exec sleep 60"
	m.started = func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(filepath.Join(m.dir, "root@a", "here")); err == nil {
				cancel()
			}
		}
	}
	r := m.execute(t, "a=root@a", "b=root@b", "--parallel", "1", "-o", "json")
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the error", r.err.Error(), "2 of 2 machines failed: a, b")
	mention(t, "the summary", r.out, `"result": "Failed"`, `"result": "NotBegun"`)
	if m.read("args", "root@b") != "" || strings.Contains(r.errOut, "b: ") {
		t.Errorf("b was begun:\n%s", r.errOut)
	}
}
