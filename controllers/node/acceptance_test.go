// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// Each token has its own grace period: an earlier token that was unknown for a moment does not shorten the next one's.
func TestEachTokenHasItsGrace(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var a tokenAcceptance
	for _, step := range []struct {
		id       string
		accepted bool
		after    time.Duration
		want     status.Acceptance
	}{
		{"aaaaaa", false, 0, status.AcceptanceUnknown},
		{"aaaaaa", false, 4 * time.Second, status.AcceptanceUnknown},
		{"aaaaaa", false, 5 * time.Second, status.Rejected},
		{"bbbbbb", false, 16 * time.Hour, status.AcceptanceUnknown},
		{"bbbbbb", true, 17 * time.Hour, status.Accepted},
		{"aaaaaa", false, 18 * time.Hour, status.AcceptanceUnknown},
	} {
		if got := a.note(step.id, step.accepted, now.Add(step.after)); got != step.want {
			t.Errorf("%s after %s: got %d, want %d", step.id, step.after, got, step.want)
		}
	}
	if !a.known(now.Add(17*time.Hour+time.Minute)) || a.known(now.Add(18*time.Hour)) {
		t.Error("an acceptance is not valid for ten minutes for all tokens")
	}
}

// The API server's clock is set back by an hour. Until it caught up, tokens were accepted without a review, and a token that
// was not known yet was reviewed every second, since its grace period did not end.
func TestAcceptanceSurvivesAClockSetBack(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	back := now.Add(-time.Hour)
	var accepted tokenAcceptance
	accepted.note("aaaaaa", true, now)
	if accepted.known(back) {
		t.Error("a token is accepted without a review because of an acceptance in the future")
	}
	accepted.note("aaaaaa", true, back)
	if !accepted.known(back.Add(time.Minute)) {
		t.Error("an acceptance after the clock was set back is ignored")
	}
	var unknown tokenAcceptance
	unknown.note("bbbbbb", false, now)
	if got := unknown.note("bbbbbb", false, back); got != status.AcceptanceUnknown {
		t.Errorf("right after the clock was set back: got %d, want a new grace period", got)
	}
	if got := unknown.note("bbbbbb", false, back.Add(acceptanceGrace)); got != status.Rejected {
		t.Errorf("after the grace period: got %d; the token is reviewed every second", got)
	}
}
