// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// signingDuration is how long certificates are valid that kubelets should renew soon. The signer sets their start five minutes
// into the past, and a kubelet renews after 70 to 90 % of the whole, counted from there (pkg/controller/certificates/signer,
// k8s.io/client-go/util/certificate): between 45 s before the issue and 29 s after it. So each certificate is renewed within
// 29 s, most of them at once, and a kubelet stays far below the 20 CSRs in an hour on which the operator decides. The test
// takes a random 5 to 60 s.
const signingDuration = 65 * time.Second

// A kubelet renews both of its certificates, and needs no token for it. kube-controller-manager approves the
// client certificate, through a binding of the operator's, and the operator the serving certificate.
func TestKubeletRenewsItsCertificates(t *testing.T) {
	const name = "renewing"
	ip, _ := machineAddress(t)
	signFor(t, signingDuration)
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ServingCertificate.Addresses = []string{name, ip}
	cluster.Create(t, nb)
	awaited, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{
		NodeName: name, BootstrapKubeconfig: kubeconfig, ServerTLSBootstrap: true, ExtraArgs: map[string]string{"node-ip": ip},
	})
	waitJoined(t, name)
	first := certificateOf(t, &sentWith(t, awaited.Status.Token.ID)[0])
	var servedFirst, served *x509.Certificate
	env.Eventually(t, "the first serving certificate", func() (err error) {
		servedFirst, err = servedBy(t.Context(), name)
		return err
	})
	waitRecorded(t, name, servedFirst)

	env.Eventually(t, "another client certificate", func() error {
		path := filepath.Join(kubelet.Dir(), "pki", "kubelet-client-current.pem")
		current, err := tls.LoadX509KeyPair(path, path)
		if err == nil && current.Leaf.Equal(first) {
			err = errors.New("it is still the first one")
		}
		return err
	})
	env.Eventually(t, "another serving certificate", func() (err error) {
		served, err = servedBy(t.Context(), name)
		if err == nil && served.Equal(servedFirst) {
			err = errors.New("it is still the first one")
		}
		return err
	})
	waitRecorded(t, name, served)
	// Each CSR names the credential with which it was sent, which shows that a certificate is in use.
	var since time.Time
	env.Eventually(t, "a request sent with another client certificate than the first one", func() error {
		for _, r := range append(clientRenewals(t, name), servingRequests(t, name)...) {
			if id := r.Spec.Extra[credentialID]; len(id) == 1 && id[0] != credential(first) {
				since = r.CreationTimestamp.Time
				return nil
			}
		}
		return errors.New("there is none")
	})
	env.Eventually(t, "a heartbeat after that", func() error {
		var lease coordinationv1.Lease
		cluster.Get(t, corev1.NamespaceNodeLease, name, &lease)
		if !lease.Spec.RenewTime.After(since) {
			return fmt.Errorf("the last one was at %s, before %s", lease.Spec.RenewTime, since)
		}
		return nil
	})

	waitJoined(t, name)
	for _, r := range clientRenewals(t, name) {
		if reason := approvedFor(&r); len(r.Status.Certificate) > 0 && reason != "AutoApproved" { // the reason that kube-controller-manager sets
			t.Errorf("the renewal %s is approved for %q", r.Name, reason)
		}
	}
	t.Logf("%d client certificates and %d serving certificates were requested with a certificate", len(clientRenewals(t, name)), len(servingRequests(t, name)))
}

// signFor changes the duration of issued certificates until the test is over.
func signFor(t *testing.T, duration time.Duration) {
	t.Helper()
	restart := func(ctx context.Context, args map[string]string) error {
		if err := cluster.StopControllerManager(); err != nil {
			return err
		}
		return cluster.StartControllerManager(ctx, args)
	}
	t.Cleanup(func() {
		if err := restart(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	if err := restart(t.Context(), map[string]string{"cluster-signing-duration": duration.String()}); err != nil {
		t.Fatal(err)
	}
}

// clientRenewals are the CSRs for client certificates that a node has sent with its existing one.
func clientRenewals(t *testing.T, node string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	return sentBy(t, node, certificatesv1.KubeAPIServerClientKubeletSignerName)
}

// waitRecorded waits until a status has the operator's approval of the CSR to which a serving certificate was issued.
func waitRecorded(t *testing.T, node string, certificate *x509.Certificate) {
	t.Helper()
	requests := servingRequests(t, node)
	i := slices.IndexFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool { return isIssued(&r, certificate) })
	if i < 0 {
		t.Fatalf("no CSR of the node %s has the serving certificate of its kubelet", node)
	}
	env.Eventually(t, "the record of the approval", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", node, &nb)
		return recorded(&nb, &requests[i], csr.ReasonKubeletServing)
	})
}

// credentialID is the field in which a CSR names the client certificate with which it was sent
// (staging/src/k8s.io/apiserver/pkg/authentication/request/x509).
const credentialID = "authentication.kubernetes.io/credential-id"

func credential(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return "X509SHA256=" + hex.EncodeToString(sum[:])
}

// certificateOf is the certificate that was issued to a CSR.
func certificateOf(t *testing.T, r *certificatesv1.CertificateSigningRequest) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(r.Status.Certificate)
	if block == nil {
		t.Fatalf("the request %s has no certificate: %+v", r.Name, r.Status)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
