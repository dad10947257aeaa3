// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// opensslRequest makes a key and a CSR with the commands of docs/pinned-keys.md.
const opensslRequest = `
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$KEY"
printf '[req]\nstring_mask=default\ndistinguished_name=req\n' |
  openssl req -new -config /dev/stdin -key "$KEY" -subj "/O=system:nodes/CN=system:node:$NODE"
`

// A stock kubelet joins with a key of openssl's and the kubeconfig that the plugin prints, without ever having a token. From then on
// it renews its certificate with keys of its own, and needs neither the key nor the kubeconfig.
func TestKubeletWithSignedKubeconfig(t *testing.T) {
	const name = "signed"
	signFor(t, signingDuration)
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)

	key, request := makeRequest(t, name)
	signed := sign(t, name, request, "--output", "kubeconfig", "--key-path", key)
	config, err := clientcmd.RESTConfigFromKubeConfig(signed)
	if err != nil {
		t.Fatal(err)
	}
	if config.BearerToken != "" || config.KeyFile != key || config.KeyData != nil {
		t.Errorf("the kubeconfig has a token, or not the key's path: %+v", config)
	}
	env.Eventually(t, "the record of the approval", func() error {
		cluster.Get(t, "", name, nb)
		if len(nb.Status.Certificates) != 1 {
			return fmt.Errorf("the status has these decisions: %+v", nb.Status.Certificates)
		}
		return nil
	})
	if err := ownsOnlyThePin(nb, csr.EvaluateContent(request, name).KeyFingerprint); err != nil {
		t.Error(err)
	}
	if certificate := sign(t, name, request); !bytes.Equal(certificate, config.CertData) {
		t.Error("the second run did not print the certificate of the first one")
	}
	first := certificateOf(t, &sentWith(t, nb.Status.Token.ID)[0])

	kubelet := startKubelet(t, name, signed)
	waitJoined(t, name)
	env.Eventually(t, "a renewal after the kubelet's own certificate", func() error {
		for _, r := range clientRenewals(t, name) {
			if id := r.Spec.Extra[credentialID]; len(id) == 1 && id[0] != credential(first) && len(r.Status.Certificate) > 0 {
				return nil
			}
		}
		return errors.New("all were sent with the first certificate")
	})

	if err := errors.Join(kubelet.Stop(), os.Remove(key), os.Remove(kubelet.BootstrapKubeconfig())); err != nil {
		t.Fatal(err)
	}
	current := filepath.Join(kubelet.Dir(), "pki", "kubelet-client-current.pem")
	pair, err := tls.LoadX509KeyPair(current, current)
	if err != nil || pair.Leaf.Equal(first) {
		t.Errorf("the kubelet still has the first certificate (%v)", err)
	}
	again := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	env.Eventually(t, "the kubelet that was started again being Ready", func() error {
		select {
		case <-again.Done():
			t.Fatal("the kubelet ended")
		default:
		}
		log, err := os.ReadFile(again.LogFile())
		if err == nil && bytes.Count(log, []byte("Successfully registered node")) < 2 {
			err = errors.New("it has not registered a second time")
		}
		return err
	})
}

// With approval Manual the plugin names the CSR. After a person has approved it, the next run takes its certificate and sends no other CSR.
func TestSignWithManualApproval(t *testing.T) {
	t.Parallel()
	const name = "signed-manual"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	nb, _ = cluster.WaitAwaited(t, name)
	_, request := makeRequest(t, name)

	_, errOut, err := runSign(t, name, request, "--wait", "5s")
	sent := sentWith(t, nb.Status.Token.ID)
	if err == nil || len(sent) != 1 || !strings.Contains(errOut, "kubectl certificate approve "+sent[0].Name) {
		t.Fatalf("before the approval: %v with the CSRs %+v: %s", err, sent, errOut)
	}
	if _, err := operator.Kubectl(t.Context(), cluster.Cluster, "certificate", "approve", sent[0].Name); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the record of the approval", func() error {
		cluster.Get(t, "", name, nb)
		if len(nb.Status.Certificates) == 0 {
			return errors.New("the status has no decision")
		}
		return nil
	})
	if certificate := sign(t, name, request); !bytes.Contains(certificate, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("got %s", certificate)
	}
	if sent := sentWith(t, nb.Status.Token.ID); len(sent) != 1 {
		t.Errorf("%d CSRs were sent, want one", len(sent))
	}
}

// A thief has the kubeconfig of a node whose key is pinned, comes first, and takes the node's name. It gets nothing and stops nothing:
// the machine joins with the same token.
func TestThiefComesBeforeThePinnedKey(t *testing.T) {
	t.Parallel()
	const name = "pinned-machine"
	key, request := makeRequest(t, name)
	pin := csr.EvaluateContent(request, name).KeyFingerprint
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.KeyFingerprint = pin
	cluster.Create(t, nb)
	before, kubeconfig := cluster.WaitAwaited(t, name)
	tokenID := before.Status.Token.ID

	thief := startKubeletWith(t, localcluster.KubeletConfig{
		NodeName: "pinned-thief", BootstrapKubeconfig: kubeconfig, ExtraArgs: map[string]string{"hostname-override": name},
	})
	// The first denial could be followed by a revocation, the second one was sent with the token after it.
	env.Eventually(t, "two denials", func() error {
		denied := slices.DeleteFunc(sentWith(t, tokenID), func(r certificatesv1.CertificateSigningRequest) bool {
			return !wasDenied(&r, csr.ReasonKeyNotPinned, pin)
		})
		if len(denied) < 2 {
			return fmt.Errorf("%d CSRs are denied", len(denied))
		}
		return nil
	})
	alarmed, published := cluster.WaitAwaited(t, name)
	env.Check(t, conditionIs(meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused), metav1.ConditionTrue, csr.ReasonKeyNotPinned))
	if alarmed.Status.Token.ID != tokenID || !bytes.Equal(published, kubeconfig) {
		t.Errorf("after the theft the token is %s, want %s, which is not revoked", alarmed.Status.Token.ID, tokenID)
	}

	startKubelet(t, name, sign(t, name, request, "--output", "kubeconfig", "--key-path", key))
	joined := waitJoined(t, name)
	env.Check(t, conditionIs(meta.FindStatusCondition(joined.Status.Conditions, v1alpha1.ConditionTokenMisused), metav1.ConditionTrue, csr.ReasonKeyNotPinned))
	env.Check(t, onlyKeyApproved(joined, tokenID, pin))
	if _, err := os.Stat(filepath.Join(thief.Dir(), "pki", "kubelet-client-current.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the thief has a certificate (%v)", err)
	}
}

// A reinstalled machine has its old key, or a new one that is pinned together with the reissue. It joins from an empty directory while
// the old Node still exists.
func TestReinstalledMachineWithPinnedKey(t *testing.T) {
	t.Parallel()
	for name, withNewKey := range map[string]bool{"pinned-old-key": false, "pinned-new-key": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nb := cluster.NodeBootstrap(name)
			cluster.Create(t, nb)
			key, request := makeRequest(t, name)
			pin := csr.EvaluateContent(request, name).KeyFingerprint
			old := startKubelet(t, name, sign(t, name, request, "--output", "kubeconfig", "--key-path", key))
			waitJoined(t, name)
			node := waitNodeReady(t, name)
			env.Must(t, old.Stop())

			oldRequest, oldPin := request, pin
			if withNewKey {
				key, request = makeRequest(t, name)
				pin = csr.EvaluateContent(request, name).KeyFingerprint
			}
			env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
				nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "reinstalled"}
				nb.Spec.ClientCertificate.KeyFingerprint = pin
			})
			awaited, _ := cluster.WaitAwaited(t, name)
			if withNewKey {
				if _, errOut, err := runSign(t, name, oldRequest); err == nil || !strings.Contains(errOut, "pins another key, "+pin) {
					t.Errorf("with the old key: %v: %s", err, errOut)
				}
			}
			startKubelet(t, name, sign(t, name, request, "--output", "kubeconfig", "--key-path", key))
			joined := waitJoinedAgain(t, name, node)
			if joined.Status.LastHandledReissueAt != "reinstalled" {
				t.Errorf("status.lastHandledReissueAt is %q", joined.Status.LastHandledReissueAt)
			}
			noAlarm(t, joined)
			env.Check(t, onlyKeyApproved(joined, awaited.Status.Token.ID, pin))
			if len(joined.Status.Certificates) != 2 || joined.Status.Certificates[0].KeyFingerprint != oldPin {
				t.Errorf("the status has these decisions: %+v", joined.Status.Certificates)
			}
		})
	}
}

// onlyKeyApproved is nil if the status has one approval with a token, which is for a key.
func onlyKeyApproved(nb *v1alpha1.NodeBootstrap, tokenID, key string) error {
	var approved []string
	for _, d := range nb.Status.Certificates {
		if d.TokenID == tokenID && d.Verdict == v1alpha1.VerdictApproved {
			approved = append(approved, d.KeyFingerprint)
		}
	}
	if !slices.Equal(approved, []string{key}) {
		return fmt.Errorf("approved with the token %s are the keys %q, want only %s", tokenID, approved, key)
	}
	return nil
}

func makeRequest(t *testing.T, node string) (keyPath string, request []byte) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "node.key")
	openssl := exec.CommandContext(t.Context(), "sh", "-ec", opensslRequest)
	openssl.Env = append(os.Environ(), "KEY="+key, "NODE="+node)
	request, err := openssl.Output()
	if err != nil {
		t.Fatal(err)
	}
	return key, request
}

// sign runs the plugin, and returns what it prints to standard output.
func sign(t *testing.T, name string, request []byte, args ...string) []byte {
	t.Helper()
	out, errOut, err := runSign(t, name, request, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, errOut)
	}
	return out
}

// runSign runs the plugin as an administrator.
func runSign(t *testing.T, name string, request []byte, args ...string) (out []byte, errOut string, err error) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := cluster.WriteAdminKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	plugin := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"),
		append([]string{"sign", name, "--kubeconfig", admin, "--request", "-"}, args...)...)
	plugin.Stdin = bytes.NewReader(request)
	var stderr strings.Builder
	plugin.Stderr = &stderr
	out, err = plugin.Output()
	return out, stderr.String(), err
}

// ownsOnlyThePin is nil if the plugin has pinned a key, and its field manager owns nothing else.
func ownsOnlyThePin(nb *v1alpha1.NodeBootstrap, fingerprint string) error {
	const want = `{"f:spec":{"f:clientCertificate":{"f:keyFingerprint":{}}}}`
	i := slices.IndexFunc(nb.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == "kubectl-nodebootstrap-sign" })
	if i < 0 || nb.ManagedFields[i].FieldsV1.GetRawString() != want || nb.Spec.PinnedKey() != fingerprint {
		return errors.New("the plugin did not apply the pin alone")
	}
	return nil
}
