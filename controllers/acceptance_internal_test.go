// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// Each token has a grace of its own: one that was not known for a moment long ago says nothing about the next.
func TestEachTokenHasItsGrace(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var a tokenAcceptance
	for _, step := range []struct {
		id       string
		accepted bool
		after    time.Duration
		want     bootstrap.Acceptance
	}{
		{"aaaaaa", false, 0, bootstrap.AcceptanceUnknown},
		{"aaaaaa", false, 4 * time.Second, bootstrap.AcceptanceUnknown},
		{"aaaaaa", false, 5 * time.Second, bootstrap.Rejected},
		{"bbbbbb", false, 16 * time.Hour, bootstrap.AcceptanceUnknown},
		{"bbbbbb", true, 17 * time.Hour, bootstrap.Accepted},
		{"aaaaaa", false, 18 * time.Hour, bootstrap.AcceptanceUnknown},
	} {
		if got := a.note(step.id, step.accepted, now.Add(step.after)); got != step.want {
			t.Errorf("%s after %s: got %d, want %d", step.id, step.after, got, step.want)
		}
	}
	if !a.known(now.Add(17*time.Hour+time.Minute)) || a.known(now.Add(18*time.Hour)) {
		t.Error("an acceptance holds for ten minutes for all tokens")
	}
}
