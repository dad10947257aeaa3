// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// maxCreatedTokens bounds the remembered ids. A forgotten one is logged as taken over.
const maxCreatedTokens = 10_000

// createdTokens are the ids of tokens that this process has logged as created and that no status names yet.
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

// take removes an id, and reports whether it was among them.
func (c *createdTokens) take(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.ids[id]
	delete(c.ids, id)
	return ok
}

// logCreated logs a token whose Secret was created.
func (r *Reconciler) logCreated(ctx context.Context, s *corev1.Secret, reason string) {
	id, expires := token.IDOfSecret(s.Name), token.Expires(s)
	r.created.add(id)
	log.FromContext(ctx).Info(status.RecordCreated, "tokenID", id, "expires", expires.UTC().Format(time.RFC3339), "reason", reason)
}

// logRevoked logs a token whose Secret was deleted. It skips a Secret that only a finalizer kept: its token no longer
// authenticated.
func (r *Reconciler) logRevoked(ctx context.Context, s *corev1.Secret, reason string) {
	id := token.IDOfSecret(s.Name)
	r.created.take(id)
	if s.DeletionTimestamp != nil {
		return
	}
	log.FromContext(ctx).Info(status.RecordRevoked, "tokenID", id, "reason", reason)
}

// csrFields returns the fields of each log line about a CSR. A CSR for a serving certificate has no token, and one that
// cannot be parsed has no key.
func csrFields(r *certificatesv1.CertificateSigningRequest) []any {
	key, _ := csr.Fingerprint(r)
	return []any{"csr", r.Name, "signer", r.Spec.SignerName, "tokenID", token.IDOfUser(r.Spec.Username), "keyFingerprint", key}
}

// logStatus logs the alarms and the token that a stored status reports and the previous one does not.
func (r *Reconciler) logStatus(ctx context.Context, old, new *v1alpha1.NodeBootstrapStatus) {
	for _, a := range status.RaisedAlarms(old, new) {
		log.FromContext(ctx).Info(status.RecordAlarm, "condition", a.Condition, "reason", a.Reason, "csr", a.Evidence.Name, "tokenID", a.Evidence.TokenID,
			"keyFingerprint", a.Evidence.KeyFingerprint, "message", a.Message)
	}
	if id := status.TakenOver(old, new); id != "" && !r.created.take(id) {
		log.FromContext(ctx).Info(status.RecordTakenOver, "tokenID", id, "expires", new.Token.ExpirationTime.UTC().Format(time.RFC3339))
	}
}
