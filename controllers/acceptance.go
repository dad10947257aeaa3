// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

const (
	// acceptanceGrace is how long after its creation a token may be unknown to the API server, whose authenticator reads
	// tokens from an informer.
	acceptanceGrace = 5 * time.Second
	// acceptanceLasts is for how long an API server that has accepted one token is taken to accept others: it either has
	// --enable-bootstrap-token-auth or has not.
	acceptanceLasts = 10 * time.Minute
	// rejectedRetry is how often a token that was not accepted is shown to the API server again.
	rejectedRetry = 30 * time.Second
)

// tokenAcceptance knows whether the API server accepts bootstrap tokens, so that not every token has to be reviewed.
type tokenAcceptance struct {
	mu         sync.Mutex
	acceptedAt time.Time
}

// review tells whether the API server accepts a token. The token travels to the API server alone, in a TokenReview.
func (a *tokenAcceptance) review(ctx context.Context, c client.Client, t *bootstrap.Token, now time.Time) (bool, error) {
	a.mu.Lock()
	known := now.Sub(a.acceptedAt) < acceptanceLasts
	a.mu.Unlock()
	if known {
		return true, nil
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
		Token: bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret),
	}}
	if err := c.Create(ctx, review); err != nil {
		return false, fmt.Errorf("asking the API server whether it accepts the token %s: %w", t.ID, err)
	}
	if review.Status.Authenticated {
		a.mu.Lock()
		a.acceptedAt = now
		a.mu.Unlock()
	}
	return review.Status.Authenticated, nil
}
