// SPDX-License-Identifier: Apache-2.0

// Package adversarial is a table of CSRs with one defect each, which an attacker who has a node's bootstrap token or certificate
// can send to get more than the certificate of that node. A second table has CSRs with harmless metadata.
//
// The table is data. It gives the verdict that the operator's documented rules require, and does not depend on the code that
// decides. The node's name must contain a lower-case letter and must not be other-node. The key can be ECDSA on P-256, P-384 or
// P-521, or RSA. If a defect needs a key of another type, the CSR is for a key that all cases share, not for that of the good CSR.
package adversarial

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"net"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
)

// Case is a request with one defect.
type Case struct {
	// Name is in kebab-case, unique, and works as part of an object's name (<= 40 characters).
	Name string
	// Why says in a sentence what an attacker would gain, or which mistake it is.
	Why string
	// Verdict and Reason are the expected ones ("Deny", "Wait", "Leave", and "Approve" for harmless cases).
	Verdict, Reason string
	// Spoil turns a good CSR for a node into the bad one. key is the key of the good CSR. SpoilMeta does the same with its
	// metadata. A case has one of the two; Apply calls it.
	Spoil     func(spec *certificatesv1.CertificateSigningRequestSpec, node string, key crypto.Signer)
	SpoilMeta func(meta *metav1.ObjectMeta, node string)
	// Requester marks a defect in fields that the API server writes itself (username, groups, uid, extra), so that it cannot be
	// sent.
	Requester bool
}

// Apply turns a good CSR for a node into that of the case. key is the key of the good CSR.
func (c Case) Apply(r *certificatesv1.CertificateSigningRequest, node string, key crypto.Signer) {
	if c.Spoil != nil {
		c.Spoil(&r.Spec, node, key)
	}
	if c.SpoilMeta != nil {
		c.SpoilMeta(&r.ObjectMeta, node)
	}
}

const (
	approve = "Approve"
	deny    = "Deny"
	wait    = "Wait"
	leave   = "Leave"
)

// The reasons of a verdict, in the order of the checks.
const (
	notOurs              = "NotOurs"
	wrongRequester       = "WrongRequester"
	wrongSigner          = "WrongSigner"
	wrongDuration        = "WrongDuration"
	tooLarge             = "TooLarge"
	malformed            = "Malformed"
	badSignature         = "BadSignature"
	wrongKey             = "WrongKey"
	wrongUsages          = "WrongUsages"
	wrongSubject         = "WrongSubject"
	noAddress            = "NoAddress"
	unexpectedAttributes = "UnexpectedAttributes"
	addressReserved      = "AddressReserved"
	addressElsewhere     = "AddressDeclaredElsewhere"
	addressNotDeclared   = "AddressNotDeclared"
)

// all sets the verdict and the reason of those cases that have none.
func all(verdict, reason string, cases []Case) []Case {
	for i := range cases {
		if cases[i].Verdict == "" {
			cases[i].Verdict = verdict
		}
		if cases[i].Reason == "" {
			cases[i].Reason = reason
		}
	}
	return cases
}

// ofRequester marks cases that cannot be sent.
func ofRequester(cases []Case) []Case {
	for i := range cases {
		cases[i].Requester = true
	}
	return cases
}

// GoodClient is what a stock kubelet sends with a bootstrap token, with username and groups as the API server writes them.
// It panics when the key cannot sign.
func GoodClient(node, tokenID string, key crypto.Signer) certificatesv1.CertificateSigningRequestSpec {
	return certificatesv1.CertificateSigningRequestSpec{
		Request:    kubeletRequest(node, key, nil, nil),
		SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages:     usagesFor(key, certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth),
		Username:   "system:bootstrap:" + tokenID,
		Groups:     []string{"system:bootstrappers", "system:bootstrappers:nodebootstrap", "system:authenticated"},
	}
}

// GoodServing is what a stock kubelet sends with its client certificate, with username, groups and extra as the API server
// writes them. It panics when the key cannot sign.
func GoodServing(node string, key crypto.Signer, dnsNames []string, ips []net.IP) certificatesv1.CertificateSigningRequestSpec {
	certificate := sha256.Sum256([]byte(node))
	return certificatesv1.CertificateSigningRequestSpec{
		Request:    kubeletRequest(node, key, dnsNames, ips),
		SignerName: certificatesv1.KubeletServingSignerName,
		Usages:     usagesFor(key, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth),
		Username:   "system:node:" + node,
		Groups:     []string{"system:nodes", "system:authenticated"},
		Extra: map[string]certificatesv1.ExtraValue{
			"authentication.kubernetes.io/credential-id": {"X509SHA256=" + hex.EncodeToString(certificate[:])},
		},
	}
}

// kubeletRequest calls the function that a kubelet calls.
func kubeletRequest(node string, key crypto.Signer, dnsNames []string, ips []net.IP) []byte {
	subject := &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}
	return must(certutil.MakeCSR(key, subject, dnsNames, ips))
}

// usagesFor has the order of client-go's util/certificate, which puts key encipherment second, and only for RSA keys.
func usagesFor(key crypto.Signer, usages ...certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	if _, ok := key.Public().(*rsa.PublicKey); ok {
		return slices.Insert(usages, 1, certificatesv1.UsageKeyEncipherment)
	}
	return usages
}

// Client are the defects of requests for a client certificate, relative to GoodClient.
func Client() []Case {
	return slices.Concat(
		clientRequesters(),
		clientMeta(),
		objectMeta(""),
		clientUsages(),
		encodings(),
		structures(),
		signatures(),
		keys(),
		commonNames(),
		subjects(),
		clientExtensions(),
		clientAttributes(),
	)
}

// Serving are the defects of requests for a serving certificate, relative to
// GoodServing(node, key, []string{node, node + ".example.com"}, {192.0.2.7, 2001:db8::7}). It is assumed that
//   - the node's NodeBootstrap declares the addresses node, node.example.com, 192.0.2.7, 2001:db8::7 and 198.51.100.0/24;
//   - another one, other-node, declares other-node, other-node.example.com and 192.0.2.8;
//   - the kubernetes Service has the address 10.0.0.1, and the URL of the API server the host api.example.com.
func Serving() []Case {
	return slices.Concat(
		servingRequesters(),
		servingMeta(),
		objectMeta("serving-"),
		servingLikeClient(),
		servingWithoutAddress(),
		servingExtensions(),
		servingReserved(),
		servingElsewhere(),
		servingUndeclaredNames(),
		servingUndeclaredIPs(),
	)
}
