// SPDX-License-Identifier: Apache-2.0

// Package node reconciles one node: it connects the decisions of internal/lifecycle and internal/status with a cluster.
package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// acceptanceGrace is how long a new token can be unknown to the API server, whose authenticator reads tokens from an
	// informer. After that it counts as rejected.
	acceptanceGrace = 5 * time.Second
	// acceptanceTTL is how long the operator assumes that an API server that accepted one token accepts others: it depends on
	// the flag --enable-bootstrap-token-auth.
	acceptanceTTL = 10 * time.Minute
	// unknownRetry is the delay before a token that is not known yet is reviewed again.
	unknownRetry = time.Second
	// rejectedRetry is the interval at which a rejected token is reviewed again.
	rejectedRetry = 30 * time.Second
)

// tokenAcceptance remembers whether the API server accepts bootstrap tokens, so that not every token needs a review.
type tokenAcceptance struct {
	mu            sync.Mutex
	acceptedAt    time.Time
	rejectedSince map[string]time.Time // by token id
}

// review reports whether the API server accepts a token. The token is sent only to the API server, in a TokenReview.
func (a *tokenAcceptance) review(ctx context.Context, c client.Client, t *token.Token, now time.Time) (status.Acceptance, error) {
	if a.known(now) {
		return status.Accepted, nil
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
		Token: bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret.Reveal()),
	}}
	if err := c.Create(ctx, review); err != nil {
		return status.AcceptanceUnknown, fmt.Errorf("asking the API server whether it accepts the token %s: %w", t.ID, err)
	}
	return a.note(t.ID, review.Status.Authenticated, now), nil
}

func (a *tokenAcceptance) known(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return apiserver.Within(now.Sub(a.acceptedAt), acceptanceTTL)
}

func (a *tokenAcceptance) note(id string, accepted bool, now time.Time) status.Acceptance {
	a.mu.Lock()
	defer a.mu.Unlock()
	if accepted { // the API server accepts the other tokens, too
		a.acceptedAt, a.rejectedSince = now, nil
		return status.Accepted
	}
	if a.rejectedSince == nil {
		a.rejectedSince = map[string]time.Time{}
	}
	since, known := a.rejectedSince[id]
	if !known || since.After(now) { // the clock was set back: the grace period starts again
		since = now
		a.rejectedSince[id] = now
	}
	if now.Sub(since) < acceptanceGrace {
		return status.AcceptanceUnknown
	}
	return status.Rejected
}
