// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/rsa"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// contentChecks are those of clientChecks that need only the certificate request and the node's name, in the same order.
var contentChecks = []check{
	{"isOfModestSize", isOfModestSize},
	{"isOnePEMBlock", isOnePEMBlock},
	{"hasTokensSubject", hasTokensSubject},
	{"isSigned", isSigned},
	{"hasSoundKey", hasSoundKey},
	{"asksForNothingElse", asksForNothingElse},
}

// EvaluateContent is the verdict of [Evaluate] as far as it depends on the certificate request in PEM: for a node's kubelet client
// certificate, before a CSR exists.
func EvaluateContent(request []byte, node string) Result {
	e := &evaluation{csr: &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: request}}, node: node}
	return e.run(contentChecks, Result{Verdict: Approve, Reason: ReasonKubeletClient, Message: "certificate request of the kubelet of node " + node})
}

// ClientSpec is the spec of the CSR that a kubelet sends with a certificate request that [EvaluateContent] approves.
func ClientSpec(request []byte) (certificatesv1.CertificateSigningRequestSpec, error) {
	spec := certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName}
	parsed, err := Parse(&certificatesv1.CertificateSigningRequest{Spec: spec})
	if err != nil {
		return spec, err
	}
	spec.Usages = kubeletUsages(parsed.PublicKey, certificatesv1.UsageClientAuth)
	return spec, nil
}

// kubeletUsages are the usages that a kubelet requests for a key: key encipherment only with an RSA key (client-go util/certificate,
// DefaultKubeletClientGetUsages and DefaultKubeletServingGetUsages).
func kubeletUsages(key any, purpose certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	usages := []certificatesv1.KeyUsage{purpose, certificatesv1.UsageDigitalSignature}
	if _, ok := key.(*rsa.PublicKey); ok {
		usages = append(usages, certificatesv1.UsageKeyEncipherment)
	}
	return usages
}
