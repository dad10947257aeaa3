// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// The record is a line in the log for each thing that the operator did to grant an identity or to take one away. It outlives
// objects, events and the status (docs/security.md). A line is written when the API server has answered that it was done, so what
// failed has none, and none has a secret part.
const (
	recordCreated   = "created a token"
	recordTakenOver = "took over a token that an interrupted reconcile had created"
	recordRevoked   = "revoked a token"
	recordApproved  = "approved a CertificateSigningRequest"
	recordDenied    = "denied a CertificateSigningRequest"
	recordDeleted   = "deleted a CertificateSigningRequest"
	recordAlarm     = "raised an alarm"
)

// maxCreatedTokens bounds the ids that are remembered. One that is forgotten is recorded as taken over.
const maxCreatedTokens = 10_000

// createdTokens are the ids of tokens that this process has recorded as created and that no status names yet.
type createdTokens struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func (c *createdTokens) add(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil || len(c.ids) >= maxCreatedTokens {
		c.ids = map[string]struct{}{}
	}
	c.ids[id] = struct{}{}
}

// take reports whether an id is among them, and forgets it.
func (c *createdTokens) take(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.ids[id]
	delete(c.ids, id)
	return ok
}

// noteCreated records a token whose Secret was created.
func (r *NodeReconciler) noteCreated(ctx context.Context, p *bootstrap.Plan, s *corev1.Secret) {
	id, expires := bootstrap.TokenIDOfSecret(s.Name), bootstrap.TokenExpires(s)
	r.created.add(id)
	log.FromContext(ctx).Info(recordCreated, "tokenID", id, "expires", expires.UTC().Format(time.RFC3339), "reason", p.WhyCreated())
}

// noteRevoked records a token whose Secret was deleted. One that was being deleted already, because a finalizer keeps it, did not
// authenticate any more.
func (r *NodeReconciler) noteRevoked(ctx context.Context, s *corev1.Secret, reason string) {
	id := bootstrap.TokenIDOfSecret(s.Name)
	r.created.take(id)
	if s.DeletionTimestamp != nil {
		return
	}
	log.FromContext(ctx).Info(recordRevoked, "tokenID", id, "reason", reason)
}

// noteVerdict records a verdict that was stored.
func noteVerdict(ctx context.Context, d bootstrap.Decision) {
	what := recordDenied
	if d.Result.Verdict == csr.Approve {
		what = recordApproved
	}
	log.FromContext(ctx).Info(what, append(requestFields(d.Request), "reason", d.Result.Reason)...)
}

func noteDeleted(ctx context.Context, r *certificatesv1.CertificateSigningRequest, reason string) {
	log.FromContext(ctx).Info(recordDeleted, append(requestFields(r), "reason", reason)...)
}

// requestFields are those that every line about a request has. A serving certificate has no token, and what cannot be parsed no key.
func requestFields(r *certificatesv1.CertificateSigningRequest) []any {
	key, _ := csr.Fingerprint(r)
	return []any{"csr", r.Name, "signer", r.Spec.SignerName, "tokenID", bootstrap.TokenIDOfUser(r.Spec.Username), "keyFingerprint", key}
}

// noteStatus records what a status reports that was stored and the one before does not.
func (r *NodeReconciler) noteStatus(ctx context.Context, old, new *v1alpha1.NodeBootstrapStatus) {
	for _, a := range bootstrap.RaisedAlarms(old, new) {
		log.FromContext(ctx).Info(recordAlarm, "condition", a.Condition, "reason", a.Reason, "csr", a.Evidence.Name, "tokenID", a.Evidence.TokenID,
			"keyFingerprint", a.Evidence.KeyFingerprint, "message", a.Message)
	}
	if id := bootstrap.TakenOver(old, new); id != "" && !r.created.take(id) {
		log.FromContext(ctx).Info(recordTakenOver, "tokenID", id, "expires", new.Token.ExpirationTime.UTC().Format(time.RFC3339))
	}
}
