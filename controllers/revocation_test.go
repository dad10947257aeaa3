// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const aFinalizer = "example.com/stay"

// withFinalizer lets a CSR survive its deletion.
func withFinalizer(r *certificatesv1.CertificateSigningRequest) { r.Finalizers = []string{aFinalizer} }

// approve approves a CSR as a person does.
func approve(t *testing.T, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	cluster.Get(t, "", request.Name, request)
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	})
	if err := cluster.Client.SubResource("approval").Update(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// issue stores a certificate that expires at a time, as the signer does.
func issue(t *testing.T, request *certificatesv1.CertificateSigningRequest, expires time.Time) {
	t.Helper()
	issueFrom(t, request, time.Now().Add(-time.Hour), expires)
}

// issueFrom stores a certificate that is valid from one time to another.
func issueFrom(t *testing.T, request *certificatesv1.CertificateSigningRequest, starts, expires time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: starts, NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "storing the certificate", func() error {
		cluster.Get(t, "", request.Name, request)
		request.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		return cluster.Client.Status().Update(t.Context(), request)
	})
}

// A CSR that could not be revoked is denied, without an alarm: an admission policy may have added the finalizer or owner. A
// kubelet's CSR is still approved.
func TestRequestThatCannotBeRevokedIsDenied(t *testing.T) {
	const name = "irrevocable"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	for what, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){
		"finalizer": withFinalizer,
		"owner": func(r *certificatesv1.CertificateSigningRequest) {
			r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "another", UID: "5d1f6f0e-0000-4000-8000-000000000000"}}
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := waitCondition(t, sendEdited(t, kubeconfig, kubeletSpec(t, name, newKey(t)), edit), certificatesv1.CertificateDenied)
			if c.Reason != csr.ReasonUnexpectedAttributes || !strings.Contains(c.Message, "finalizers") {
				t.Errorf("it is denied with %s: %s", c.Reason, c.Message)
			}
		})
	}
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	cluster.Get(t, "", name, nb)
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil {
		t.Errorf("an alarm is raised: %+v", c)
	}
}

// A CSR with a finalizer survives its deletion, and the signer signs it nevertheless. After the revocation it must not exist,
// whatever state it was in.
func TestRevokedRequestIsGoneInSpiteOfFinalizers(t *testing.T) {
	for name, c := range map[string]struct {
		signer   string
		approved bool
	}{
		"final-denied":         {certificatesv1.KubeAPIServerClientKubeletSignerName, false},
		"final-approved":       {certificatesv1.KubeAPIServerClientKubeletSignerName, true},
		"final-other-signer":   {certificatesv1.KubeAPIServerClientSignerName, false},
		"final-other-approved": {certificatesv1.KubeAPIServerClientSignerName, true},
	} {
		t.Run(name, func(t *testing.T) {
			nb := cluster.NodeBootstrap(name)
			nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide // so that no CSR is denied before
			cluster.Create(t, nb)
			_, kubeconfig := cluster.WaitAwaited(t, name)
			spec := kubeletSpec(t, name, newKey(t))
			spec.SignerName = c.signer
			request := sendEdited(t, kubeconfig, spec, withFinalizer)
			if c.approved {
				approve(t, request)
			}
			cluster.Delete(t, nb)
			env.Eventually(t, "the deletion of the CSR and the credential", func() error {
				return errors.Join(cluster.NothingLeft(t.Context(), name),
					cluster.Absent(t.Context(), "", request.Name, &certificatesv1.CertificateSigningRequest{}))
			})
		})
	}
}

// A certificate cannot be revoked. If it was issued before its token was revoked, it is reported until it expires.
func TestCertificateThatOutlivesItsTokenIsReported(t *testing.T) {
	const name = "outlived"
	before := metric(t, "nodebootstrap_certificates_not_revoked_total")
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	key := newKey(t)
	request := ask(t, kubeconfig, name, key)
	waitCondition(t, request, certificatesv1.CertificateApproved)
	expires := time.Now().Add(2 * time.Hour)
	issue(t, request, expires)
	reissue(t, name, "before the node has joined")

	c := waitCond(t, name, v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue)
	fingerprint, err := csr.Fingerprint(request)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{request.Name, fingerprint, expires.UTC().Format(time.RFC3339)} {
		if !strings.Contains(c.Message, want) {
			t.Errorf("the message does not say %q: %s", want, c.Message)
		}
	}
	env.Eventually(t, "the metric", func() error { // it is counted after the status is stored
		if got := metric(t, "nodebootstrap_certificates_not_revoked_total") - before; got != 1 {
			return fmt.Errorf("%v certificates are counted, want 1", got)
		}
		return nil
	})
	env.Eventually(t, "the event", func() error {
		if got := eventsOf(t, name); !slices.Contains(got, v1alpha1.ReasonIssuedBeforeRevocation) {
			return fmt.Errorf("the events are %v", got)
		}
		return nil
	})
	at(t, 3*time.Hour)
	poke(t, name)
	env.Eventually(t, "the end of the condition", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionCertificateNotRevoked); c != nil {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// After the NodeBootstrap is deleted, no condition can report it: an event about the CSR does.
func TestCertificateThatOutlivesItsNodeBootstrapIsReported(t *testing.T) {
	const name = "outlived-nb"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, request, certificatesv1.CertificateApproved)
	issue(t, request, time.Now().Add(time.Hour))
	cluster.Delete(t, nb)
	env.Eventually(t, "the event", func() error {
		if got := eventsOf(t, request.Name); !slices.Contains(got, v1alpha1.ReasonIssuedBeforeRevocation) {
			return fmt.Errorf("the events are %v", got)
		}
		return nil
	})
}
