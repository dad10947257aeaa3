// SPDX-License-Identifier: Apache-2.0

// Package writes bounds how often each object is written, and notices who changes it.
package writes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/drift"
)

// How often one object is written, whatever others do to it: so many times in a row, then once in an interval.
const (
	objectBurst = 10
	// ObjectInterval is the time between two writes of an object, after the first ten.
	ObjectInterval = time.Minute
	// A status changes with each step of a node, and several times in a join.
	statusBurst, statusInterval = 20, 20 * time.Second
	// toleranceInterval is how long fields are left alone that admission control reverts and that do no harm.
	toleranceInterval = time.Hour
)

// Limits bounds the writes of each object, and remembers what interferes with them. Without a bound, a client or an admission
// policy that undoes each write would be answered by the next write at once. The zero value is ready.
type Limits struct {
	mu      sync.Mutex
	objects map[string]*writes
	// sweepAt is how many objects there are when those are forgotten that have not been written for a while.
	sweepAt int
}

// writes are those of one object.
type writes struct {
	limiter *rate.Limiter
	last    Write
	// interference is what the answer to the last write differed in; nil if in nothing.
	interference *drift.Interference
	since        time.Time
	// failure is why the last write failed; nil if it was stored.
	failure error
}

// Wait is how long to wait before an object is written; zero for not at all.
func (l *Limits) Wait(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	if w == nil || w.limiter.TokensAt(now) >= 1 {
		return 0
	}
	return time.Duration((1 - w.limiter.TokensAt(now)) / float64(w.limiter.Limit()) * float64(time.Second))
}

// of are the writes of an object, which may be the first.
func (l *Limits) of(key string, burst int, interval time.Duration, now time.Time) *writes {
	w := l.objects[key]
	if w == nil {
		l.sweep(now)
		w = &writes{limiter: rate.NewLimiter(rate.Every(interval), burst)}
		l.objects[key] = w
	}
	return w
}

// sweep forgets the objects that may be written as often as those that never were.
func (l *Limits) sweep(now time.Time) {
	if l.objects == nil {
		l.objects = map[string]*writes{}
	}
	if len(l.objects) < l.sweepAt {
		return
	}
	maps.DeleteFunc(l.objects, func(_ string, w *writes) bool {
		return w.interference == nil && w.failure == nil && w.limiter.TokensAt(now) >= float64(w.limiter.Burst())
	})
	const least = 1000
	l.sweepAt = max(least, 2*len(l.objects))
}

// A Write is one that the API server has stored.
type Write struct {
	// Object is what messages call the object.
	Object string
	// Restored is what it restored, and answer what the answer to it differed in.
	Restored, Answer drift.Difference
	// spare is how many writes are left when this one is the first that does not take effect: a status has to report that.
	spare int
	// free says that the write does not count.
	free bool
	// digest is that of the status as it was stored.
	digest drift.Digest32
}

// Wrote counts a write and notes what it was. One that did not take effect uses up all the writes that are left, so that the next one
// waits. A write that failed does not count: it is tried again by the backoff of the queue.
func (l *Limits) Wrote(key string, last Write, now time.Time) *drift.Interference {
	return l.wroteWithin(key, objectBurst, ObjectInterval, last, now)
}

// WroteStatus is wrote for the status of a NodeBootstrap, of which it remembers the digest. What new facts cause need not count.
func (l *Limits) WroteStatus(key string, answer drift.Difference, digest drift.Digest32, counts bool, now time.Time) *drift.Interference {
	return l.wroteWithin(key, statusBurst, statusInterval, Write{Object: key, Answer: answer, spare: 1, free: !counts, digest: digest}, now)
}

// Undone reports whether a status, by its digest, is not the one that was last stored: another client changed it, or admission control did.
func (l *Limits) Undone(key string, digest drift.Digest32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	return w != nil && (w.last.digest != digest || w.interference != nil && len(w.interference.Difference.Needed) > 0)
}

func (l *Limits) wroteWithin(key string, burst int, interval time.Duration, last Write, now time.Time) *drift.Interference {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.of(key, burst, interval, now)
	if w.interference != nil && len(last.Answer.Needed) == 0 { // admission control lets it be again: nothing has to wait any more
		w.limiter = rate.NewLimiter(rate.Every(interval), burst)
	}
	if w.interference != nil {
		last.spare = 0
	}
	if !last.free {
		w.limiter.AllowN(now, 1)
	}
	w.last, w.interference, w.failure = last, nil, nil
	if len(last.Answer.Fields()) == 0 {
		return nil
	}
	w.interference, w.since = &drift.Interference{Object: last.Object, Difference: last.Answer, ByAdmission: true}, now
	if len(last.Answer.Needed) > 0 {
		w.limiter.AllowN(now, max(0, int(w.limiter.TokensAt(now))-last.spare))
	}
	return w.interference
}

// Interference is what keeps an object from being as it is written: admission control, or another client when no write is left. It
// is nil when nothing that is needed is concerned.
func (l *Limits) Interference(key string, now time.Time) *drift.Interference {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	switch {
	case w == nil:
		return nil
	case w.interference != nil && len(w.interference.Difference.Needed) > 0:
		return w.interference
	case w.limiter.TokensAt(now) < 1:
		return &drift.Interference{Object: w.last.Object, Difference: w.last.Restored}
	default:
		return nil
	}
}

// IsRight notes that an object is as it should be, whoever wrote it: admission control does not interfere any more.
func (l *Limits) IsRight(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.objects[key]; w != nil {
		w.interference = nil
	}
}

// Forget begins again with an object that is no longer needed, or is again: nobody interferes when the operator itself deletes it and
// creates it again.
func (l *Limits) Forget(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		delete(l.objects, key)
	}
}

// Failed notes that a write failed, so that others can report it. It does not count.
func (l *Limits) Failed(key string, err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(key, objectBurst, ObjectInterval, now).failure = err
}

// Failure is why the last write of an object failed; nil if it was stored.
func (l *Limits) Failure(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.objects[key]; w != nil {
		return w.failure
	}
	return nil
}

// Tolerates reports whether a difference is left as it is: admission control has reverted the same fields lately, and they do no harm.
func (l *Limits) Tolerates(key string, d drift.Difference, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	return w != nil && w.interference != nil && len(d.Needed) == 0 && now.Before(w.since.Add(toleranceInterval)) &&
		!slices.ContainsFunc(d.Other, func(field string) bool { return !slices.Contains(w.interference.Difference.Other, field) })
}

// Create creates an object that Limits knows by a key, and returns it as the API server has stored it, with what admission control has
// changed so that the object is of no use; nil when nothing. From then on a dry run comes first, so that nothing is created in vain: when
// that one is changed, nothing is stored, and no object is returned.
func Create[T client.Object](ctx context.Context, c client.Client, l *Limits, key, object string, want T,
	difference func(stored, want T) drift.Difference, now time.Time) (created T, changed *drift.Interference, err error) {
	if i := l.Interference(key, now); i != nil && i.ByAdmission {
		tried := want.DeepCopyObject().(T)
		if err := c.Create(ctx, tried, client.DryRunAll); err != nil {
			return created, nil, err
		}
		if d := difference(tried, want); len(d.Needed) > 0 {
			return created, l.Wrote(key, Write{Object: object, Answer: d}, now), nil
		}
	}
	stored := want.DeepCopyObject().(T) // the answer is decoded into it
	if err := c.Create(ctx, stored); err != nil {
		return created, nil, err
	}
	l.Forget(DeletionOf(object))
	d := difference(stored, want)
	if i := l.Wrote(key, Write{Object: object, Answer: d}, now); len(d.Needed) > 0 {
		changed = i
	}
	return stored, changed, nil
}

// HeldError is why a write was not sent: too many were before. It wants another reconcile after a while.
type HeldError struct {
	Object string
	Wait   time.Duration
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another client changes or creates the %s again and again: the operator waits for a while before the next write", e.Object)
}

// OnlyHeld reports whether all that went wrong is that writes were held, and after how long to come back.
func OnlyHeld(err error) (time.Duration, bool) {
	switch e := err.(type) { //nolint:errorlint // each of several joined errors counts
	case nil:
		return 0, false
	case *HeldError:
		return e.Wait, true
	case interface{ Unwrap() []error }:
		var least time.Duration
		for _, err := range e.Unwrap() {
			wait, held := OnlyHeld(err)
			if !held {
				return 0, false
			}
			if least == 0 || wait < least {
				least = wait
			}
		}
		return least, true
	case interface{ Unwrap() error }:
		return OnlyHeld(e.Unwrap())
	default:
		return 0, false
	}
}

// ConflictRetry is how soon a reconcile is tried again after a conflict.
const ConflictRetry = 200 * time.Millisecond
