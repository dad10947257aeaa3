// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Decided reports whether a CSR has a condition.
func Decided(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

// Pending reports whether a CSR can still get a certificate.
func Pending(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) == 0 && (len(r.Status.Conditions) == 0 || Decided(r, certificatesv1.CertificateApproved))
}

// checkRequest: no certificate is approved for a name to which the token is not bound, and one key for a token, plus
// spec.clientCertificate.replacementKeys; while a key is pinned, that key and no other.
func (c *Checker) checkRequest(w Write, r *certificatesv1.CertificateSigningRequest) {
	before, _ := w.Before.(*certificatesv1.CertificateSigningRequest)
	if len(r.Status.Certificate) > 0 && (before == nil || len(before.Status.Certificate) == 0) {
		c.checkCertificate(r)
	}
	if !Decided(r, certificatesv1.CertificateApproved) || before != nil && Decided(before, certificatesv1.CertificateApproved) {
		return
	}
	c.Checked[Approvals]++
	if r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		c.checkServing(w, r)
		return
	}
	id := token.IDOfUser(r.Spec.Username)
	t := c.tokens[id]
	asked, err := parse(r)
	fingerprint, unreadable := csr.Fingerprint(r)
	switch {
	case t == nil:
		c.violated(Approvals, "%s was sent with a token that the operator did not create", r.Name)
		return
	case errors.Join(err, unreadable) != nil:
		c.violated(Approvals, "%s cannot be read: %v", r.Name, errors.Join(err, unreadable))
		return
	case r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName:
		c.violated(Approvals, "%s has the signer %s", r.Name, r.Spec.SignerName)
	case asked.Subject.String() != "CN=system:node:"+t.node+",O=system:nodes":
		c.violated(Approvals, "%s names %s with the token of %s", r.Name, asked.Subject, t.node)
	case len(r.Finalizers) > 0 || len(r.OwnerReferences) > 0:
		c.violated(Approvals, "%s is approved, which could not be revoked", r.Name)
	}
	c.keys[id], c.nodesOf[fingerprint] = with(c.keys[id], fingerprint), with(c.nodesOf[fingerprint], t.node)
	pinned, other := c.pinned(w, t.node, fingerprint)
	switch n := len(c.keys[id]); {
	case pinned:
	case other != "":
		c.violated(Approvals, "%s has the key %s, and %s is pinned", r.Name, fingerprint, other)
	case n > 1+c.replacementKeys(t.node):
		c.violated(Approvals, "key %d is approved with the token %s", n, id)
	}
	if nodes := c.nodesOf[fingerprint]; len(nodes) > 1 { // in these tests nobody deletes the NodeBootstrap that claims a key to free it
		c.violated(Approvals, "one key is approved for %q", nodes)
	}
	if against := c.noneSeen(w, func(revision int64) string { return c.againstApproval(w, t, id, revision, pinned) }); against != "" && !w.Late {
		c.violated(Approvals, "%s is approved %s", r.Name, against)
	}
	if !pinned && !c.claimed(w, t, r, fingerprint) {
		c.violated(Approvals, "the status of %s does not have the approval of %s before it is given", t.node, r.Name)
	}
}

func with(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}

// noneSeen is the objection to a write at the last revision that its author has seen, if there is one at each; else empty.
func (c *Checker) noneSeen(w Write, against func(revision int64) string) string {
	reason := ""
	for _, revision := range w.Seen {
		if reason = against(revision); reason == "" {
			break
		}
	}
	return reason
}

// pinned reports whether a key was pinned at a revision that the author of a write has seen; else other is the key that was pinned at all of
// them, if one was.
func (c *Checker) pinned(w Write, node, key string) (pinned bool, other string) {
	unpinned := len(w.Seen) == 0
	for _, revision := range w.Seen {
		nb := c.nodeBootstrap(node, revision)
		switch {
		case nb == nil || nb.Spec.PinnedKey() == "":
			unpinned = true
		case nb.Spec.PinnedKey() == key:
			return true, ""
		default:
			other = nb.Spec.PinnedKey()
		}
	}
	if unpinned {
		other = ""
	}
	return false, other
}

// againstApproval is the missing prerequisite of an approval. A pinned key needs no live token.
func (c *Checker) againstApproval(w Write, t *createdToken, id string, revision int64, pinned bool) string {
	s := get[*corev1.Secret](c, TokenKey(id), revision)
	switch nb := c.nodeBootstrap(t.node, revision); {
	case !c.wanted(t, revision):
		return "for a NodeBootstrap that no longer exists"
	case !pinned && (s == nil || !Live(s, w.At)):
		return "for a token that no longer exists"
	case nb.Spec.ApprovalMode() != v1alpha1.ApprovalNode:
		return "with approval " + string(nb.Spec.ApprovalMode())
	case ReissueRequest(nb) != "" && ReissueRequest(nb) != nb.Status.LastHandledReissueAt:
		return "although a reissue is asked for"
	}
	return ""
}

// claimed reports whether the decision was in the status before it was applied.
func (c *Checker) claimed(w Write, t *createdToken, r *certificatesv1.CertificateSigningRequest, fingerprint string) bool {
	there := false
	for _, revision := range w.Seen {
		if !c.wanted(t, revision) { // deleted at the last moment, or else againstApproval reports it
			continue
		}
		there = true
		for _, t := range c.nodeBootstrap(t.node, revision).Status.Tokens {
			if t.ID == token.IDOfUser(r.Spec.Username) && slices.ContainsFunc(t.CSRs, func(d v1alpha1.DecidedCSR) bool {
				return d.UID == r.UID && d.Verdict == v1alpha1.VerdictApproved && d.KeyFingerprint == fingerprint
			}) {
				return true
			}
		}
	}
	return !there
}

// replacementKeys are the most that a NodeBootstrap of a node ever allowed.
func (c *Checker) replacementKeys(node string) int {
	most := 0
	for _, o := range c.Since(Key{Kind: "NodeBootstrap", Name: node}, 0) {
		if nb, ok := o.(*v1alpha1.NodeBootstrap); ok {
			most = max(most, nb.Spec.ReplacementKeys())
		}
	}
	return most
}

// checkServing checks that a serving certificate is for the node that requests it, and for declared addresses. No story declares
// a CIDR.
func (c *Checker) checkServing(w Write, r *certificatesv1.CertificateSigningRequest) {
	node := csr.RequestedNode(r)
	if r.Spec.Username != "system:node:"+node {
		c.violated(Approvals, "a serving certificate for %s is approved that %s requests", node, r.Spec.Username)
	}
	against := c.noneSeen(w, func(revision int64) string {
		nb := c.nodeBootstrap(node, revision)
		if nb == nil {
			return "without a NodeBootstrap"
		}
		for _, a := range csr.RequestedAddresses(r) {
			if !slices.Contains(nb.Spec.ServingCertificate.Addresses, a.Key()) {
				return "that names " + a.Key()
			}
		}
		return ""
	})
	if against != "" {
		c.violated(Approvals, "a serving certificate for %s is approved %s", node, against)
	}
}

// checkCertificate checks that a certificate is the requested one.
func (c *Checker) checkCertificate(r *certificatesv1.CertificateSigningRequest) {
	asked, err := parse(r)
	block, _ := pem.Decode(r.Status.Certificate)
	if err != nil || block == nil {
		c.violated(Approvals, "%s or its certificate cannot be read: %v", r.Name, err)
		return
	}
	issued, err := x509.ParseCertificate(block.Bytes)
	if err != nil || issued.Subject.String() != asked.Subject.String() || !slices.Equal(issued.RawSubjectPublicKeyInfo, asked.RawSubjectPublicKeyInfo) {
		c.violated(Approvals, "the certificate of %s was issued for another name or key than it requests: %v", r.Name, err)
	}
}

func parse(r *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
