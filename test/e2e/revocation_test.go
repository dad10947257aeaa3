// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// send sends a kubelet's CSR for a node, with a key of its own.
func send(t *testing.T, kubeconfig []byte, node string, finalizers ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var request *certificatesv1.CertificateSigningRequest
	env.Eventually(t, "sending a request", func() (err error) {
		request, err = create(t, kubeconfig, node, finalizers...)
		return err
	})
	t.Cleanup(func() { cluster.DeleteAfter(t, request) })
	return request
}

// create sends a kubelet's CSR once.
func create(t *testing.T, kubeconfig []byte, node string, finalizers ...string) (*certificatesv1.CertificateSigningRequest, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: nodeUser(node)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sender.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-", Finalizers: finalizers},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
}

// A CSR with a finalizer survived its deletion: another client could still approve it, and kube-controller-manager signed it,
// long after its NodeBootstrap and its token were deleted.
func TestTerminatingRequestIsNotSigned(t *testing.T) {
	const name = "terminating"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	if policies { // such a CSR is not even admitted
		env.Eventually(t, "the refusal", func() error {
			if _, err := create(t, kubeconfig, name, "example.com/stay"); !operator.Refuses("nodebootstrap-guard-tokens", err) {
				return fmt.Errorf("the policy does not refuse it: %v", err) //nolint:errorlint // nil is printed too
			}
			return nil
		})
		return
	}
	if err := killManager(); err != nil {
		t.Fatal(err)
	}
	request := send(t, kubeconfig, name, "example.com/stay")
	cluster.Delete(t, nb)
	if err := startManager(t.Context()); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "the revocation", func() error {
		err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(request), request)
		if err == nil && request.DeletionTimestamp == nil {
			return errors.New("the request is not being deleted")
		}
		return errors.Join(client.IgnoreNotFound(err), cluster.Absent(t.Context(), "", name, &v1alpha1.NodeBootstrap{}))
	})
	request.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	}}
	if err := cluster.Client.SubResource("approval").Update(t.Context(), request); err == nil {
		env.Eventually(t, "the certificate", func() error {
			if cluster.Get(t, "", request.Name, request); len(request.Status.Certificate) == 0 {
				return errors.New("there is none")
			}
			return nil
		})
		t.Fatal("the revoked request was approved, and has a certificate")
	} else if !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) && !apierrors.IsConflict(err) {
		t.Fatal(err)
	}
}

// While the operator is stopped, a machine and a thief send CSRs, in either order: the newest gets the certificate, and the
// status reports both keys.
func TestTwoKeysWhileTheOperatorIsStopped(t *testing.T) {
	const name = "two-keys"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	if err := killManager(); err != nil {
		t.Fatal(err)
	}
	requests := []*certificatesv1.CertificateSigningRequest{send(t, kubeconfig, name), send(t, kubeconfig, name)}
	if err := startManager(t.Context()); err != nil {
		t.Fatal(err)
	}
	var c *metav1.Condition
	env.Eventually(t, "the condition "+v1alpha1.ConditionKeyConflict, func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if c = meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionKeyConflict); c == nil {
			return fmt.Errorf("the conditions are %+v", nb.Status.Conditions)
		}
		return nil
	})
	var reasons []string
	for _, r := range requests {
		cluster.Get(t, "", r.Name, r)
		key, err := csr.Fingerprint(r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(c.Message, key) {
			t.Errorf("the message does not have the key %s: %s", key, c.Message)
		}
		for _, decided := range r.Status.Conditions {
			reasons = append(reasons, decided.Reason)
		}
	}
	slices.Sort(reasons)
	if want := []string{csr.ReasonKubeletClient, csr.ReasonSuperseded}; !slices.Equal(reasons, want) {
		t.Errorf("the requests are decided on with %q, want %q", reasons, want)
	}
}
