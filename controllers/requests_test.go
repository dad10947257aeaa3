// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ask sends the CSR of a kubelet of a name, with a bootstrap kubeconfig.
func ask(t *testing.T, kubeconfig []byte, node string, key crypto.Signer) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	return send(t, kubeconfig, kubeletSpec(t, node, key))
}

// kubeletSpec returns the spec of a CSR of a kubelet of a name.
func kubeletSpec(t *testing.T, node string, key crypto.Signer) certificatesv1.CertificateSigningRequestSpec {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}
}

// send sends a CSR with a kubeconfig.
func send(t *testing.T, kubeconfig []byte, spec certificatesv1.CertificateSigningRequestSpec) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	return sendEdited(t, kubeconfig, spec, func(*certificatesv1.CertificateSigningRequest) {})
}

// sendEdited sends a CSR with edited metadata.
func sendEdited(t *testing.T, kubeconfig []byte, spec certificatesv1.CertificateSigningRequestSpec,
	edit func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"}, Spec: spec}
	edit(request)
	sendRequest(t, kubeconfig, request)
	return request
}

// sendRequest sends a CSR with a kubeconfig, and sets it to the stored one.
func sendRequest(t *testing.T, kubeconfig []byte, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The permission to send CSRs comes from a binding that the API server's authorizer may see a moment later.
	env.Eventually(t, "sending a CSR", func() error {
		sent, err := cs.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request, metav1.CreateOptions{})
		if err == nil {
			*request = *sent
		}
		return err
	})
	t.Cleanup(func() { cluster.DeleteAfter(t, request) })
}

func waitCondition(t *testing.T, request *certificatesv1.CertificateSigningRequest, want certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequestCondition {
	t.Helper()
	var got certificatesv1.CertificateSigningRequestCondition
	env.Eventually(t, "the verdict on "+request.Name, func() error {
		cluster.Get(t, "", request.Name, request)
		if len(request.Status.Conditions) != 1 || request.Status.Conditions[0].Type != want {
			return fmt.Errorf("the conditions are %+v, want %s", request.Status.Conditions, want)
		}
		got = request.Status.Conditions[0]
		return nil
	})
	return got
}

func TestVerdicts(t *testing.T) {
	const name = "verdicts"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	key := newKey(t)

	waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved)
	waitCondition(t, ask(t, kubeconfig, name, key), certificatesv1.CertificateApproved) // the same kubelet, trying again
	if c := waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateDenied); c.Reason != csr.ReasonKeyReplaced {
		t.Errorf("a second key is denied with %s: %s", c.Reason, c.Message)
	}

	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", name, &nb)
	var got []string
	for _, d := range nb.Status.Certificates {
		got = append(got, string(d.Verdict)+" "+d.Reason)
	}
	want := "[Approved KubeletClientOfThisNode Approved KubeletClientOfThisNode Denied KeyReplaced]"
	if fmt.Sprint(got) != want {
		t.Errorf("status.certificates is %v, want %s", got, want)
	}
}

// If an approved CSR has no certificate after a minute, the message points at kube-controller-manager, which this cluster does
// not have.
func TestCertificateNotIssued(t *testing.T) {
	const name = "not-issued"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	at(t, 2*time.Minute)
	poke(t, name)
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonCertificateNotIssued)
	if !strings.Contains(env.ReadyMessage(nb), "--cluster-signing-key-file") {
		t.Errorf("the message does not say what to do: %s", env.ReadyMessage(nb))
	}
}

// A CSR is deleted with its token, even an approved one: the signer would still sign it.
func TestRequestsGoWithTheirToken(t *testing.T) {
	for name, approval := range map[string]v1alpha1.Approval{"goes-pending": v1alpha1.ApprovalManual, "goes-approved": v1alpha1.ApprovalNode} {
		t.Run(name, func(t *testing.T) {
			nb := cluster.NodeBootstrap(name)
			nb.Spec.ClientCertificate.Approval = approval
			cluster.Create(t, nb)
			_, kubeconfig := cluster.WaitAwaited(t, name)
			request := ask(t, kubeconfig, name, newKey(t))
			if approval == v1alpha1.ApprovalManual {
				cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
			} else {
				waitCondition(t, request, certificatesv1.CertificateApproved)
			}
			cluster.Delete(t, nb)
			env.Eventually(t, "the deletion of the CSR and the credential", func() error {
				return errors.Join(cluster.NothingLeft(t.Context(), name),
					cluster.Absent(t.Context(), "", request.Name, &certificatesv1.CertificateSigningRequest{}))
			})
		})
	}
}

// A Node that an administrator created in advance is not a member: the machine still needs its credential.
func TestNodeCreatedAhead(t *testing.T) {
	const name = "ahead"
	cluster.Create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
}

// When a joined node is deleted it is awaited again, with a token of another id.
func TestDeletedNodeIsAwaitedAgain(t *testing.T) {
	const name = "comes-back"
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, _ := cluster.WaitAwaited(t, name)
	cluster.Create(t, node)
	node.Status.NodeInfo.KubeletVersion = "v1.37.2"
	if err := cluster.Client.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	renews(t, name, node.CreationTimestamp.Time)
	poke(t, name) // neither the status of a Node nor its Lease is watched
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
	cluster.Delete(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	after, _ := cluster.WaitAwaited(t, name)
	if after.Status.Token.ID == before.Status.Token.ID {
		t.Error("the token's id was used before")
	}
	if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, node); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}
