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

// Another client undoes each write: after some in a row there is one in each interval, and that is reported until it stops.
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
			t.Errorf("after an interval it is to wait for %s more", wait)
		}
		if l.Wrote("a", Write{Object: "Secret a", Restored: harm}, now); l.Wait("a", now) == 0 {
			t.Error("two writes in an interval")
		}
	}
}

// A write that admission control changes is not tried again for an interval. Once it lets one be, nothing has to wait.
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
		t.Error("it is reported although the last answer was right, or the next write waits")
	}
	var digest drift.Digest32
	if l.WroteStatus("s", spoiled, digest, true, now); l.Wait("s", now) > 0 {
		t.Error("the status that reports it waits")
	}
	if l.WroteStatus("s", spoiled, digest, true, now); l.Wait("s", now) <= 0 {
		t.Error("a status that is not stored is sent again at once")
	}
}

// What does no harm is left alone for a while, but not what else is different.
func TestWriteLimitsTolerate(t *testing.T) {
	var l Limits
	now := time.Now()
	label, both := drift.Difference{Other: []string{"label"}}, drift.Difference{Other: []string{"label", "annotation"}}
	if l.Tolerates("a", label, now) {
		t.Error("it is tolerated before it was tried")
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

// What has not been written for a while is forgotten.
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
		{token.HideText(short, "hidden"), time.Second},
	} {
		if wait, held := OnlyHeld(tt.err); wait != tt.want || held != (tt.want > 0) {
			t.Errorf("%v: %s, %v", tt.err, wait, held)
		}
	}
}

// What is forgotten while another object is written was read after that, which ended the process.
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
