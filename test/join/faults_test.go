// SPDX-License-Identifier: Apache-2.0

//go:build linux

package join

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const sshFailed = 255

// Whatever is wrong with the machine or the way to it: the exit code says what, the last line what to do, and nothing is changed. When it is
// corrected, the same command joins.
func TestFaults(t *testing.T) {
	t.Parallel()
	otherCA := string(selfSigned(t, pkix.Name{CommonName: "another CA"}))
	command := func(command string) func(context.Context, *localcluster.Machine) error {
		return func(ctx context.Context, m *localcluster.Machine) error {
			_, err := m.Run(ctx, command)
			return err
		}
	}
	for name, tc := range map[string]struct {
		machine localcluster.MachineConfig
		spec    func(*v1alpha1.NodeBootstrap)
		spoil   func(context.Context, *localcluster.Machine) error
		repair  func(context.Context, *localcluster.Machine) error
		args    []string
		code    int
		texts   []string
	}{
		"ssh-refused": {spoil: command("systemctl stop ssh"), repair: command("systemctl start ssh"), code: sshFailed,
			texts: []string{"Connection refused", "no ssh server listens"}},
		"host-key-changed": {spoil: command("cd /etc/ssh && mkdir old && mv ssh_host* old && ssh-keygen -qt ed25519 -N '' -f ssh_host_ed25519_key && systemctl restart ssh"),
			repair: command("cd /etc/ssh && cp -p old/* . && systemctl restart ssh"), code: sshFailed,
			texts: []string{"REMOTE HOST IDENTIFICATION HAS CHANGED", "not the one that you know"}},
		"host-key-unknown": {spoil: func(_ context.Context, m *localcluster.Machine) error {
			return os.Rename(m.KnownHosts(), m.KnownHosts()+".old")
		},
			repair: func(_ context.Context, m *localcluster.Machine) error {
				return os.Rename(m.KnownHosts()+".old", m.KnownHosts())
			}, code: sshFailed,
			texts: []string{"Host key verification failed", "does not know the host key"}},
		"not-let-in": {spoil: command("mv /root/.ssh/authorized_keys /root/keys"), repair: command("mv /root/keys /root/.ssh/authorized_keys"), code: sshFailed,
			texts: []string{"Permission denied", "let nobody in"}},
		"sudo-asks":  {args: []string{"--ssh", localcluster.MachineGuest + "@sudo-asks", "--sudo"}, code: nodescript.ExitNotRoot, texts: []string{"a password is required", "NOPASSWD"}},
		"not-root":   {args: []string{"--ssh", localcluster.MachineGuest + "@not-root"}, code: nodescript.ExitNotRoot, texts: []string{"as the user guest", "sudo"}},
		"no-kubelet": {machine: localcluster.MachineConfig{Missing: []string{"kubelet"}}, code: nodescript.ExitProgramMissing, texts: []string{"kubelet"}},
		"no-openssl": {machine: localcluster.MachineConfig{Missing: []string{"openssl"}}, code: nodescript.ExitProgramMissing, texts: []string{"openssl is not installed"}},
		"no-runtime": {machine: localcluster.MachineConfig{Missing: []string{"containerd"}}, code: nodescript.ExitRuntime, texts: []string{"systemctl start containerd"}},
		"runtime-down": {spoil: command("systemctl stop containerd"), repair: command("systemctl start containerd; until [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done"),
			code: nodescript.ExitRuntime, texts: []string{"systemctl start containerd"}},
		"other-name":  {machine: localcluster.MachineConfig{HostName: "localhost.example.com"}, code: nodescript.ExitOtherName, texts: []string{"would register as localhost.example.com", "--hostname-override=other-name"}},
		"wrong-ca":    {spec: func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.CABundle = otherCA }, code: nodescript.ExitServer, texts: []string{"is not valid for this cluster's CA"}},
		"unreachable": {spec: func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://127.0.0.1:1" }, code: nodescript.ExitServer, texts: []string{"cannot be reached from this machine"}},
		"clock": {spoil: func(_ context.Context, m *localcluster.Machine) error { return m.SetClock(-48 * time.Hour) }, repair: command("rm /usr/local/bin/date"),
			code: nodescript.ExitClock, texts: []string{"timedatectl set-ntp true"}},
		"disk-full": {spoil: func(ctx context.Context, m *localcluster.Machine) error {
			return m.FillDisk(ctx, "/var/lib/kubelet", 0)
		},
			repair: func(ctx context.Context, m *localcluster.Machine) error { return m.FreeDisk(ctx, "/var/lib/kubelet") }, code: nodescript.ExitFiles, texts: []string{"disk full"}},
		"disk-full-later": {spoil: func(ctx context.Context, m *localcluster.Machine) error { return m.FillDisk(ctx, "/etc/kubernetes", 0) },
			repair: func(ctx context.Context, m *localcluster.Machine) error { return m.FreeDisk(ctx, "/etc/kubernetes") }, code: nodescript.ExitFiles,
			texts: []string{"delivered the signed kubeconfig", "disk full", "in the cluster: NodeBootstrap disk-full-later is Ready True"}},
		"read-only": {spoil: func(ctx context.Context, m *localcluster.Machine) error {
			return m.MakeReadOnly(ctx, "/var/lib/kubelet")
		},
			repair: func(ctx context.Context, m *localcluster.Machine) error {
				return m.MakeWritable(ctx, "/var/lib/kubelet")
			}, code: nodescript.ExitFiles, texts: []string{"read-only"}},
		"read-only-later": {spoil: func(ctx context.Context, m *localcluster.Machine) error {
			return m.MakeReadOnly(ctx, "/etc/kubernetes")
		},
			repair: func(ctx context.Context, m *localcluster.Machine) error {
				return m.MakeWritable(ctx, "/etc/kubernetes")
			}, code: nodescript.ExitFiles,
			texts: []string{"delivered the signed kubeconfig", "read-only"}},
		"kubelet-fails": {spoil: command("mv /var/lib/kubelet/config.yaml /root; echo 'kind: nonsense' >/var/lib/kubelet/config.yaml"),
			repair: command("mv -f /root/config.yaml /var/lib/kubelet"), args: []string{"--timeout", "30s"}, code: nodescript.ExitNotJoined,
			texts: []string{"failed to load Kubelet config file", "the last lines of the kubelet's log", "in the cluster: NodeBootstrap kubelet-fails is Ready True, AwaitingNode"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMachine(t, name, tc.machine)
			create(t, name, func(nb *v1alpha1.NodeBootstrap) {
				if tc.spec != nil {
					tc.spec(nb)
				}
			})
			if tc.spoil != nil {
				env.Must(t, tc.spoil(t.Context(), m))
			}
			if slices.Contains(foundByChecks, tc.code) {
				results := checked(t, name, m, tc.args...)
				last := results[len(results)-1]
				if text := tc.texts[len(tc.texts)-1]; last.Status != check.Failed || last.Fix == "" || !strings.Contains(last.Message+last.Fix, text) {
					t.Errorf("check does not say %q: %+v", text, last)
				}
			}
			join(t, name, m, tc.args...).failed(t, m, tc.code, tc.texts...)
			if tc.repair != nil {
				env.Must(t, tc.repair(t.Context(), m))
				join(t, name, m).succeeded(t, name, m)
			}
		})
	}
}

// foundByChecks are the exit codes of the script's checks, which the command check runs, too.
var foundByChecks = []int{
	sshFailed, nodescript.ExitNotRoot, nodescript.ExitProgramMissing, nodescript.ExitRuntime, nodescript.ExitOtherName, nodescript.ExitServer, nodescript.ExitClock,
}

// A person denies the CSR, or the NodeBootstrap is deleted, while the machine waits for its certificate.
func TestRefusedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		act   func(t *testing.T, nb *v1alpha1.NodeBootstrap, request string) error
		texts []string
	}{
		"denied": {func(t *testing.T, _ *v1alpha1.NodeBootstrap, request string) error {
			_, err := operator.Kubectl(t.Context(), cluster.Cluster, "certificate", "deny", request)
			return err
		}, []string{"was denied", "on the machine: no signed kubeconfig arrived"}},
		"deleted": {func(t *testing.T, nb *v1alpha1.NodeBootstrap, _ string) error {
			return cluster.Client.Delete(t.Context(), nb)
		},
			[]string{"on the machine: no signed kubeconfig arrived", "in the cluster: NodeBootstrap deleted does not exist"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := startMachine(t, name, localcluster.MachineConfig{})
			nb := create(t, name, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual })
			acted := make(chan error, 1)
			go func() {
				request, err := requestOf(t, nb)
				if err == nil {
					err = tc.act(t, nb, request)
				}
				acted <- err
			}()
			o := join(t, name, m)
			env.Must(t, <-acted)
			o.failed(t, m, 1, tc.texts...)
		})
	}
}

// requestOf waits for the CSR that is sent with the token of a NodeBootstrap, and returns its name.
func requestOf(t *testing.T, nb *v1alpha1.NodeBootstrap) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), env.Limit)
	defer cancel()
	w, err := cluster.Client.Watch(ctx, &certificatesv1.CertificateSigningRequestList{})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if r, ok := e.Object.(*certificatesv1.CertificateSigningRequest); ok && token.IDOfUser(r.Spec.Username) == nb.Status.Token.ID {
			return r.Name, nil
		}
	}
	return "", errors.New("no CSR was sent")
}

// A machine that is a node already is left as it is.
func TestMemberElsewhere(t *testing.T) {
	t.Parallel()
	member, other := startMachine(t, "member", localcluster.MachineConfig{}), startMachine(t, "newcomer", localcluster.MachineConfig{})
	create(t, "member")
	create(t, "newcomer")
	join(t, "member", member).succeeded(t, "member", member)

	// Another machine is not the node that has joined.
	join(t, "member", other).failed(t, other, nodescript.ExitNotMember, "has joined already, and root@newcomer is not it", "kubectl nodebootstrap reissue member")
	// The machine is another node.
	o := join(t, "newcomer", member)
	if o.code != nodescript.ExitOtherNode || !strings.Contains(o.errOut, "this machine is the node member") {
		t.Errorf("exit code %d\n%s", o.code, o.errOut)
	}
	var node corev1.Node
	cluster.Get(t, "", "member", &node)
	if out, err := member.Run(t.Context(), "systemctl is-active kubelet"); err != nil {
		t.Errorf("the kubelet is %s", out)
	}
	// The machine is a node of that name in another cluster.
	foreign := startMachine(t, "foreign", localcluster.MachineConfig{Files: map[string][]byte{nodescript.Default.Kubeconfig: foreignKubeconfig(t, "foreign")}})
	create(t, "foreign")
	o = join(t, "foreign", foreign)
	if o.code != nodescript.ExitOtherNode || !strings.Contains(o.errOut, "the cluster at https://other.example.com:6443 already") {
		t.Errorf("exit code %d\n%s", o.code, o.errOut)
	}
}

// foreignKubeconfig is the kubeconfig of a kubelet in another cluster.
func foreignKubeconfig(t *testing.T, node string) []byte {
	t.Helper()
	certificate := selfSigned(t, pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node})
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: other
  cluster:
    certificate-authority-data: %s
    server: https://other.example.com:6443
users:
- name: node
  user:
    client-certificate-data: %[1]s
`, base64.StdEncoding.EncodeToString(certificate))
}

func selfSigned(t testing.TB, subject pkix.Name) []byte {
	key := env.Key(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	env.Must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
