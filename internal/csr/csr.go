// SPDX-License-Identifier: Apache-2.0

// Package csr gives the verdict on a CertificateSigningRequest that was sent with a node's bootstrap token.
//
// It is pure. What a stock kubelet sends is approved, byte for byte in its subject; whatever is not recognised is not.
// The rules are upstream's (pkg/controller/certificates/approver/sarapprove.go, pkg/apis/certificates/helpers.go), with
// the one that upstream has not: the name is the one that the token is for.
package csr

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Verdict is what shall be done with a request.
type Verdict int

const (
	// Leave means: the request is not ours to decide.
	Leave Verdict = iota
	// Approve means: it is what the kubelet of the token's node sends.
	Approve
	// Deny means: it was sent with the node's token and has a defect that no waiting mends.
	Deny
)

// The reasons of a verdict.
const (
	// ReasonKubeletClient surfaces when a request is approved.
	ReasonKubeletClient = "KubeletClientOfThisNode"
	// ReasonNotOurs surfaces when the request was not sent with the token.
	ReasonNotOurs = "NotOurs"
	// ReasonWrongRequester surfaces when the requester has groups, a uid or extra data that a bootstrap token has not.
	ReasonWrongRequester = "WrongRequester"
	// ReasonWrongSigner surfaces when another signer than that of kubelet client certificates is asked.
	ReasonWrongSigner = "WrongSigner"
	// ReasonWrongUsages surfaces when the usages are not those of a kubelet client certificate for its kind of key.
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
	// ReasonWrongSubject surfaces when the subject is not the one of the token's node: as a rule another node's name.
	ReasonWrongSubject = "WrongSubject"
	// ReasonUnexpectedAttributes surfaces when the request asks for names or extensions.
	ReasonUnexpectedAttributes = "UnexpectedAttributes"
	// ReasonSecondKey surfaces when another key was approved with the same token.
	ReasonSecondKey = "SecondKey"
)

// Request is a request to decide on, with what is known of the token that sent it.
type Request struct {
	// CSR is the request as it was read.
	CSR *certificatesv1.CertificateSigningRequest
	// NodeName is the node that the token is for.
	NodeName string
	// TokenID is the id of the token.
	TokenID string
	// TokenGroup is the group that the token's user must be in, besides those that every bootstrap token is in.
	TokenGroup string
	// MayHave are further groups that it may be in.
	MayHave []string
	// ClaimedKey is the fingerprint of the key that was approved with the token before; empty for none.
	ClaimedKey string
}

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

// Evaluate is the verdict on a request.
func Evaluate(r Request) Result {
	e := &evaluation{Request: r}
	for _, check := range checks {
		if finding := check(e); finding != nil {
			finding.KeyFingerprint = e.fingerprint()
			return *finding
		}
	}
	return Result{
		Verdict:        Approve,
		Reason:         ReasonKubeletClient,
		Message:        fmt.Sprintf("client certificate of the kubelet of node %s, asked for with its own bootstrap token %s", r.NodeName, r.TokenID),
		KeyFingerprint: e.fingerprint(),
	}
}

// evaluation is a request in the course of its checks: parsed is set by the check that parses it.
type evaluation struct {
	Request
	parsed *x509.CertificateRequest
}

func (e *evaluation) fingerprint() string {
	if e.parsed == nil {
		return ""
	}
	return fingerprint(e.parsed)
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
