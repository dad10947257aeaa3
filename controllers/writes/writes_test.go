// SPDX-License-Identifier: Apache-2.0

package writes

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Another client undoes each write: after a burst only one write in each interval is allowed, and that is reported until it
// stops.
func TestWriteLimitsBound(t *testing.T) {
	var l Limits
	now := time.Now()
	harm := drift.Difference{Needed: []string{"data"}}
	n := 0
	for l.Wait("a", now) == 0 {
		n++
		l.Wrote("a", Write{Object: "Secret a", Restored: harm}, now)
		l.Wrote("b", Write{Object: "Secret b"}, now)
	}
	if n != objectBurst {
		t.Errorf("%d writes in a row", n)
	}
	if wait := l.Wait("a", now); wait <= 0 || wait > ObjectInterval {
		t.Errorf("the next one in %s", wait)
	}
	if i := l.Interference("a", now); i == nil || i.ByAdmission || i.Object != "Secret a" || i.Harmless() {
		t.Errorf("it is reported as %+v", i)
	}
	for range 5 {
		now = now.Add(ObjectInterval)
		if l.Interference("a", now) != nil {
			t.Error("it is reported although the object was left alone for an interval")
		}
		if wait := l.Wait("a", now); wait > 0 {
			t.Errorf("after an interval the next write must wait for %s", wait)
		}
		if l.Wrote("a", Write{Object: "Secret a", Restored: harm}, now); l.Wait("a", now) == 0 {
			t.Error("two writes in an interval")
		}
	}
}

// A write that admission control changes is retried only after an interval. After a write that it does not change, nothing
// waits.
func TestWriteLimitsAdmission(t *testing.T) {
	var l Limits
	now := time.Now()
	spoiled := drift.Difference{Needed: []string{"data"}}
	if i := l.Wrote("a", Write{Object: "Secret a", Answer: spoiled}, now); i == nil || !i.ByAdmission {
		t.Fatalf("got %+v", i)
	}
	if wait := l.Wait("a", now); wait <= 0 || wait > ObjectInterval {
		t.Errorf("the next one in %s", wait)
	}
	if i := l.Interference("a", now.Add(24*time.Hour)); i == nil || !i.ByAdmission {
		t.Errorf("after a day it is reported as %+v", i)
	}
	if i := l.Wrote("a", Write{Object: "Secret a"}, now.Add(ObjectInterval)); i != nil || l.Interference("a", now) != nil || l.Wait("a", now.Add(ObjectInterval)) > 0 {
		t.Error("it is reported although the last response was correct, or the next write waits")
	}
	var digest drift.Digest32
	if l.WroteStatus("s", spoiled, digest, true, now); l.Wait("s", now) > 0 {
		t.Error("the status that reports it waits")
	}
	if l.WroteStatus("s", spoiled, digest, true, now); l.Wait("s", now) <= 0 {
		t.Error("a status that is not stored is sent again at once")
	}
}

// A harmless difference is left alone for a while, but not others.
func TestWriteLimitsTolerate(t *testing.T) {
	var l Limits
	now := time.Now()
	label, both := drift.Difference{Other: []string{"label"}}, drift.Difference{Other: []string{"label", "annotation"}}
	if l.Tolerates("a", label, now) {
		t.Error("it is tolerated before the first attempt")
	}
	l.Wrote("a", Write{Object: "Secret a", Restored: label, Answer: label}, now)
	harm := drift.Difference{Needed: []string{"data"}, Other: label.Other}
	for what, got := range map[string]bool{
		"the same": l.Tolerates("a", label, now), "not later": !l.Tolerates("a", label, now.Add(toleranceInterval)),
		"not more": !l.Tolerates("a", both, now), "not harm": !l.Tolerates("a", harm, now), "and no wait": l.Wait("a", now) == 0,
	} {
		if !got {
			t.Error(what)
		}
	}
}

// Objects that were not written for a while are forgotten.
func TestWriteLimitsForget(t *testing.T) {
	var l Limits
	now := time.Now()
	for i := range 5000 {
		l.Wrote(fmt.Sprint(i), Write{}, now)
		now = now.Add(ObjectInterval)
	}
	if n := len(l.objects); n > 1100 {
		t.Errorf("%d are remembered", n)
	}
}

func TestOnlyHeld(t *testing.T) {
	short, long, other := &HeldError{Object: "a", Wait: time.Second}, &HeldError{Object: "b", Wait: time.Minute}, errors.New("other")
	for _, tt := range []struct {
		err  error
		want time.Duration
	}{
		{nil, 0}, {other, 0}, {short, time.Second}, {fmt.Errorf("x: %w", long), time.Minute}, {errors.Join(long, short), time.Second},
		{errors.Join(short, other), 0}, {fmt.Errorf("x: %w", errors.Join(errors.Join(nil, long), nil)), time.Minute},
		{token.RedactError(fmt.Errorf("part: %w", short), &token.Token{Secret: token.NewSecretPart("part")}), time.Second},
	} {
		if wait, held := OnlyHeld(tt.err); wait != tt.want || held != (tt.want > 0) {
			t.Errorf("%v: %s, %v", tt.err, wait, held)
		}
	}
}

// An object was read after a concurrent write of another one had forgotten it, which crashed the process.
func TestWriteLimitsOfManyObjectsAtATime(*testing.T) {
	var l Limits
	now := time.Now()
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 20_000 {
				key := fmt.Sprint(worker, "/", i)
				l.WroteStatus(key, drift.Difference{}, drift.Digest32{}, false, now)
				l.Wait(key, now)
				l.Undone(key, drift.Digest32{})
			}
		})
	}
	all.Wait()
}
