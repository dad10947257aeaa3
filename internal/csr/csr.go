// SPDX-License-Identifier: Apache-2.0

// Package csr gives the verdict on a CertificateSigningRequest: on one for a kubelet's client certificate that was sent with
// a node's bootstrap token ([Evaluate]), and on one for a kubelet's serving certificate that the node sent ([EvaluateServing]).
//
// It is pure. What a stock kubelet sends is approved, byte for byte in its subject; whatever is not recognised is not.
// The rules are upstream's (pkg/controller/certificates/approver/sarapprove.go, pkg/apis/certificates/helpers.go), with
// those that upstream has not: the name is the one that the token is for, and the addresses are the node's.
package csr

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Verdict is what shall be done with a request.
type Verdict int

const (
	// Leave means: the request is not ours to decide.
	Leave Verdict = iota
	// Approve means: it is what the kubelet of the node sends.
	Approve
	// Deny means: it is ours to decide and has a defect that no waiting fixes.
	Deny
	// Wait means: it is ours to decide and sound, and may not be approved as things stand. They may change.
	Wait
)

// The reasons of a verdict on any request.
const (
	// ReasonNotOurs surfaces when the request was not sent with the token, or not by the node, that it was looked at for.
	ReasonNotOurs = "NotOurs"
	// ReasonWrongUsages surfaces when the usages are not those of a kubelet's certificate for its kind of key.
	ReasonWrongUsages = "WrongUsages"
	// ReasonWrongDuration surfaces when a certificate is asked for that lives longer than a year.
	ReasonWrongDuration = "WrongDuration"
	// ReasonTooLarge surfaces when the request is larger than any that a kubelet sends.
	ReasonTooLarge = "TooLarge"
	// ReasonMalformed surfaces when the request is not exactly one PEM block with a certificate request in it.
	ReasonMalformed = "Malformed"
	// ReasonBadSignature surfaces when the request is not signed with its own key, or with an algorithm that is not sound.
	ReasonBadSignature = "BadSignature"
	// ReasonWrongKey surfaces when the key's algorithm or size is not on the list.
	ReasonWrongKey = "WrongKey"
	// ReasonWrongSubject surfaces when the subject is not the node's: usually another node's name.
	ReasonWrongSubject = "WrongSubject"
	// ReasonUnexpectedAttributes surfaces when the request asks for what a kubelet does not ask for, or has finalizers or owner
	// references.
	ReasonUnexpectedAttributes = "UnexpectedAttributes"
)

// Result is a verdict and why.
type Result struct {
	Verdict Verdict
	// Reason is one of the constants of this package.
	Reason string
	// Message says what was asked for, what was expected and what to do.
	Message string
	// KeyFingerprint is SHA256:<hex> of the DER SubjectPublicKeyInfo; empty when no key could be read.
	KeyFingerprint string
}

// evaluation is a request in the course of its checks.
type evaluation struct {
	csr *certificatesv1.CertificateSigningRequest
	// node is the one that the request shall be for.
	node string
	// client and serving say what else is known; one of them is nil.
	client  *Request
	serving *ServingRequest
	// parsed is set by the check that parses it.
	parsed *x509.CertificateRequest
}

// A check returns nil when it has nothing against the request.
type check func(*evaluation) *Result

// run is the verdict of the first check that has something against the request, else approved.
func (e *evaluation) run(checks []check, approved Result) Result {
	result := approved
	for _, check := range checks {
		if finding := check(e); finding != nil {
			result = *finding
			break
		}
	}
	if e.parsed != nil {
		result.KeyFingerprint = fingerprint(e.parsed)
	}
	return result
}

func fingerprint(parsed *x509.CertificateRequest) string {
	sum := sha256.Sum256(parsed.RawSubjectPublicKeyInfo)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

// Fingerprint is SHA256:<hex> of the DER SubjectPublicKeyInfo in a request. It fails on a request that cannot be parsed.
func Fingerprint(r *certificatesv1.CertificateSigningRequest) (string, error) {
	parsed, err := parse(r)
	if err != nil {
		return "", err
	}
	return fingerprint(parsed), nil
}

// Expires is when the certificate that was issued to a request expires. It fails on what is not a certificate in PEM.
func Expires(r *certificatesv1.CertificateSigningRequest) (time.Time, error) {
	block, _ := pem.Decode(r.Status.Certificate)
	if block == nil {
		return time.Time{}, fmt.Errorf("the certificate of the request %s is not PEM", r.Name)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("parsing the certificate of the request %s: %w", r.Name, err)
	}
	return certificate.NotAfter, nil
}

// MayDecide reports whether the operator may approve and deny requests for a signer: those of kubelets' certificates
// (controllers/rbac.go).
func MayDecide(signer string) bool {
	return signer == certificatesv1.KubeAPIServerClientKubeletSignerName || signer == certificatesv1.KubeletServingSignerName
}

// MaxLife is the longest life of a certificate that a request may ask for. To one that asks for none, kube-controller-manager
// gives its own --cluster-signing-duration, which is a year by default.
const MaxLife = maxDurationSeconds * time.Second

// RequestedNode is the node that a request names in its subject, right or wrong; empty when it names none. It says who may
// want to know of the request, and nothing about whether it is justified.
func RequestedNode(r *certificatesv1.CertificateSigningRequest) string {
	parsed, err := parse(r)
	if err != nil {
		return ""
	}
	node, ok := strings.CutPrefix(parsed.Subject.CommonName, nodeUserPrefix)
	if !ok {
		return ""
	}
	return node
}

// parse reads a request that was not checked.
func parse(r *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	if len(r.Spec.Request) > MaxRequestBytes {
		return nil, fmt.Errorf("the request %s has more than %d bytes", r.Name, MaxRequestBytes)
	}
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, fmt.Errorf("the request %s is not PEM", r.Name)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the request %s: %w", r.Name, err)
	}
	return parsed, nil
}
