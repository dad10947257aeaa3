// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// The oracle is a second opinion on every verdict. It was written only from the rules, with another technique (it reads the DER by hand,
// and compares addresses as numbers). It is intentionally slow and plain: one function per rule, no cleverness. It returns nil if the CSR
// may be approved, otherwise the first rule that is broken.

// errX are the oracle's objections to a CSR, one for each rule.
var (
	errUsername   = errors.New("the user is another one")
	errUID        = errors.New("the user has a uid")
	errExtra      = errors.New("the user has extra data")
	errGroups     = errors.New("the user's groups are others")
	errOlder      = errors.New("the request is older than the token")
	errExpired    = errors.New("the token has expired")
	errSigner     = errors.New("the signer is another one")
	errDuration   = errors.New("the certificate would live too long")
	errSize       = errors.New("the request is too large")
	errPEM        = errors.New("the PEM is not canonical")
	errDER        = errors.New("the DER is not strict")
	errVersion    = errors.New("the version is not 0")
	errSubject    = errors.New("the subject is another one")
	errAttributes = errors.New("the attributes are others")
	errKey        = errors.New("the key is of another kind")
	errSignature  = errors.New("the signature is not valid")
	errUsages     = errors.New("the usages are others")
	errPinned     = errors.New("another key is pinned")
	errClaimed    = errors.New("another key was approved before")
	errOtherNode  = errors.New("the key is another node's")
	errMetadata   = errors.New("the metadata is more than a kubelet sends")
	errUndeclared = errors.New("no addresses are declared")
	errNoAddress  = errors.New("no address is asked for")
	errReserved   = errors.New("an address is reserved")
	errElsewhere  = errors.New("an address is another node's")
	errAddress    = errors.New("an address is not declared")
)

// oracleClient is the second opinion on Evaluate.
func oracleClient(r csr.Request) error {
	spec := r.CSR.Spec
	content, contentErr := readRequest(spec.Request)
	return first(
		func() error { return oracleUsername(spec, "system:bootstrap:"+r.TokenID) },
		func() error { return oracleNotOlder(r.CSR.CreationTimestamp.Time, r.TokenCreated) },
		func() error { return oracleNotExpired(r.Now, r.TokenExpires) },
		func() error { return oracleClientGroups(spec.Groups, r.TokenGroup, r.MayHave) },
		func() error { return oracleNoUID(spec) },
		func() error { return oracleNoExtra(spec) },
		func() error { return oracleSigner(spec, "kubernetes.io/kube-apiserver-client-kubelet") },
		func() error { return oracleMetadata(r.CSR.ObjectMeta) },
		func() error { return oracleDuration(spec) },
		func() error { return contentErr },
		func() error { return oracleSubject(content.subject, r.NodeName) },
		func() error { return oracleNoAttributes(content.attributes) },
		func() error { return oracleUsages(spec.Usages, "client auth", content.isRSA) },
		func() error { return oraclePinned(content.spki, r) },
		func() error { return oracleClaimed(content.spki, r) },
		func() error { return oracleOtherNode(r.OtherNode) },
	)
}

// oracleServing is the second opinion on EvaluateServing.
func oracleServing(r csr.ServingRequest) error {
	spec := r.CSR.Spec
	content, contentErr := readRequest(spec.Request)
	var names []generalName
	return first(
		func() error { return oracleUsername(spec, "system:node:"+r.NodeName) },
		func() error { return oracleServingGroups(spec.Groups) },
		func() error { return oracleNoUID(spec) },
		func() error { return oracleOnlyCredentialID(spec) },
		func() error { return oracleSigner(spec, "kubernetes.io/kubelet-serving") },
		func() error { return oracleSomeDeclared(r.Declared) },
		func() error { return oracleMetadata(r.CSR.ObjectMeta) },
		func() error { return oracleDuration(spec) },
		func() error { return contentErr },
		func() error { return oracleSubject(content.subject, r.NodeName) },
		func() (err error) { names, err = readAlternativeNames(content.attributes); return err },
		func() error { return oracleUsages(spec.Usages, "server auth", content.isRSA) },
		func() error { return oracleAddresses(names, r) },
	)
}

// first is the finding of the first broken rule.
func first(rules ...func() error) error {
	for _, rule := range rules {
		if err := rule(); err != nil {
			return err
		}
	}
	return nil
}

// Rule: the user is the one of the token, or of the node.
func oracleUsername(spec certificatesv1.CertificateSigningRequestSpec, want string) error {
	if spec.Username != want {
		return errUsername
	}
	return nil
}

// Rule: the CSR was created at most 10 seconds before the token.
func oracleNotOlder(created, token time.Time) error {
	if token.Sub(created) > 10*time.Second {
		return errOlder
	}
	return nil
}

// Rule: the token has not expired.
func oracleNotExpired(now, expires time.Time) error {
	if now.Before(expires) {
		return nil
	}
	return errExpired
}

// Rule: the groups, as a set, are those of every bootstrap token and that of this one, and possibly the allowed further ones.
func oracleClientGroups(groups []string, tokenGroup string, mayHave []string) error {
	missing := map[string]bool{"system:bootstrappers": true, "system:authenticated": true, tokenGroup: true}
	allowed := maps.Clone(missing)
	for _, group := range mayHave {
		allowed[group] = true
	}
	for _, group := range groups {
		if !allowed[group] {
			return fmt.Errorf("%w: %q is one too many", errGroups, group)
		}
		delete(missing, group)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %v are missing", errGroups, missing)
	}
	return nil
}

// Rule: the groups are exactly those of a node, each of them once, in any order.
func oracleServingGroups(groups []string) error {
	if !slices.Equal(slices.Sorted(slices.Values(groups)), []string{"system:authenticated", "system:nodes"}) {
		return errGroups
	}
	return nil
}

// Rule: neither a bootstrap token's user nor a node has a uid.
func oracleNoUID(spec certificatesv1.CertificateSigningRequestSpec) error {
	if spec.UID != "" {
		return errUID
	}
	return nil
}

// Rule: a bootstrap token's user has no extra data.
func oracleNoExtra(spec certificatesv1.CertificateSigningRequestSpec) error {
	if len(spec.Extra) != 0 {
		return errExtra
	}
	return nil
}

// Rule: a node's user has no extra data except for the name of its certificate.
func oracleOnlyCredentialID(spec certificatesv1.CertificateSigningRequestSpec) error {
	for key := range spec.Extra {
		if key != "authentication.kubernetes.io/credential-id" {
			return errExtra
		}
	}
	return nil
}

// Rule: the signer is the one for this kind of certificate.
func oracleSigner(spec certificatesv1.CertificateSigningRequestSpec, want string) error {
	if spec.SignerName != want {
		return errSigner
	}
	return nil
}

// Rule: the certificate lives for the signer's default time, or for no more than a leap year.
func oracleDuration(spec certificatesv1.CertificateSigningRequestSpec) error {
	if spec.ExpirationSeconds != nil && *spec.ExpirationSeconds > 366*86400 {
		return errDuration
	}
	return nil
}

// Rule: the usages are those that a kubelet requests with this type of key, each of them once, in any order.
func oracleUsages(usages []certificatesv1.KeyUsage, purpose string, isRSA bool) error {
	want := []string{purpose, "digital signature"}
	if isRSA {
		want = append(want, "key encipherment")
	}
	var got []string
	for _, usage := range usages {
		got = append(got, string(usage))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return errUsages
	}
	return nil
}

// Rule: the key is the pinned one, if one is pinned.
func oraclePinned(spki []byte, r csr.Request) error {
	if r.PinnedKey != "" && r.PinnedKey != oracleFingerprint(spki) {
		return errPinned
	}
	return nil
}

// Rule: without a pinned key, the key is one of those that were approved with the token before, if any were, or it may replace them: replacements are left, no
// key is used, and it was not sent before the last one was approved.
func oracleClaimed(spki []byte, r csr.Request) error {
	known := slices.Contains(r.ClaimedKeys, oracleFingerprint(spki))
	mayReplace := len(r.ClaimedKeys) < 1+r.Replacements && !r.ClaimUsed && !r.CSR.CreationTimestamp.Time.Before(r.ClaimedAt)
	if r.PinnedKey == "" && len(r.ClaimedKeys) > 0 && !known && !mayReplace {
		return errClaimed
	}
	return nil
}

// Rule: the key is claimed for no other node.
func oracleOtherNode(other string) error {
	if other != "" {
		return errOtherNode
	}
	return nil
}

// Rule: no finalizer delays the CSR's deletion, and nobody owns it. Any other metadata is allowed.
func oracleMetadata(metadata metav1.ObjectMeta) error {
	for _, finalizer := range metadata.Finalizers {
		return fmt.Errorf("%w: the finalizer %q", errMetadata, finalizer)
	}
	for _, owner := range metadata.OwnerReferences {
		return fmt.Errorf("%w: the owner %q", errMetadata, owner.Name)
	}
	return nil
}

// oracleFingerprint is the fingerprint of a key, given its DER SubjectPublicKeyInfo.
func oracleFingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return "SHA256:" + hex.EncodeToString(sum[:])
}

// Rule: the subject is, byte for byte, O=system:nodes and CN=system:node:<node>, in that order, both as PrintableString. Other characters
// need a UTF8String, as Go encodes it; the name of a Node never needs it.
func oracleSubject(subject []byte, node string) error {
	organization := relativeName([]byte{0x55, 0x04, 0x0a}, "system:nodes") // 2.5.4.10
	common := relativeName([]byte{0x55, 0x04, 0x03}, "system:node:"+node)  // 2.5.4.3
	if !utf8.ValidString(node) || !bytes.Equal(subject, write(tagSequence, organization, common)) {
		return errSubject
	}
	return nil
}

// relativeName is the DER of a RelativeDistinguishedName with one value.
func relativeName(oid []byte, text string) []byte {
	tag := byte(tagPrintableString)
	for _, c := range []byte(text) {
		if !isPrintableStringByte(c) {
			tag = tagUTF8String
		}
	}
	return write(tagSet, write(tagSequence, write(tagOID, oid), write(tag, []byte(text))))
}

// isPrintableStringByte reports whether a character is in X.680's PrintableString.
func isPrintableStringByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	default:
		return bytes.IndexByte([]byte(" '()+,-./:=?"), c) >= 0
	}
}

// Rule: a request for a client certificate has an empty set of attributes.
func oracleNoAttributes(attributes []byte) error {
	if len(attributes) != 0 {
		return errAttributes
	}
	return nil
}
