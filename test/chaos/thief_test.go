// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509/pkix"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
)

// theft is what a thief with someone else's kubeconfig requests.
type theft struct {
	what   string
	node   func(own, other string) string
	signer string
	times  int
}

// thefts begin with the worst.
var thefts = []theft{
	{"another node's certificate", func(_, other string) string { return other }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"the certificate of a node that nobody knows", func(own, _ string) string { return own + "-unknown" }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"the node's own certificate, with a key of his", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"a client certificate of another kind", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientSignerName, 1},
	{"many certificates", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientKubeletSignerName, 12},
}

// steal sends the CSRs of a theft with a kubeconfig, and does not wait for the outcome, which the ledger checks. It tries each
// once; the API server accepts a deleted token for ten seconds more.
func (s *suite) steal(ctx context.Context, t theft, kubeconfig []byte, own, other string) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	_, client, err := connect(kubeconfig)
	if err != nil {
		s.fail("reading a kubeconfig: %v", err)
		return
	}
	s.line.note("%s: a thief asks for %s", own, t.what)
	for range t.times {
		key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
		if err != nil {
			s.fail("creating a key: %v", err)
			return
		}
		asked, err := cert.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + t.node(own, other)}, nil, nil)
		if err != nil {
			s.fail("creating a CSR: %v", err)
			return
		}
		_, err = client.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "stolen-"},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Request: asked, SignerName: t.signer, Usages: kubeletUsages},
		}, metav1.CreateOptions{})
		if err != nil {
			s.line.note("%s: the thief gets no answer: %v", own, err)
			return
		}
	}
}
