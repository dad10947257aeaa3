// SPDX-License-Identifier: Apache-2.0

// Package writes bounds how often each object is written, and detects who changes it.
package writes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/drift"
)

// The bounds on the writes of one object: a burst, then one write in an interval.
const (
	objectBurst = 10
	// ObjectInterval is the time between two writes of an object, after the first ten.
	ObjectInterval = time.Minute
	// A status changes with each step of a node, and several times in a join.
	statusBurst, statusInterval = 20, 20 * time.Second
	// toleranceInterval is how long the operator leaves harmless fields alone that admission control reverts.
	toleranceInterval = time.Hour
)

// Limits bounds the writes of each object, and remembers what interferes with them. Without a bound, the operator and a client
// or admission policy that undoes each write would loop. The zero value is ready to use.
type Limits struct {
	mu      sync.Mutex
	objects map[string]*writes
	// sweepAt is the number of objects at which those without recent writes are forgotten.
	sweepAt int
}

// writes is the state of one object.
type writes struct {
	limiter *rate.Limiter
	last    Write
	// interference is how the response to the last write differed from what was sent; nil if it did not.
	interference *drift.Interference
	since        time.Time
	// failure is why the last write failed; nil if it was stored.
	failure error
}

// Wait returns how long the next write of an object must wait; zero if it can be sent now.
func (l *Limits) Wait(key string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	if w == nil || w.limiter.TokensAt(now) >= 1 {
		return 0
	}
	return time.Duration((1 - w.limiter.TokensAt(now)) / float64(w.limiter.Limit()) * float64(time.Second))
}

// of returns the state of an object, and creates it if necessary.
func (l *Limits) of(key string, burst int, interval time.Duration, now time.Time) *writes {
	w := l.objects[key]
	if w == nil {
		l.sweep(now)
		w = &writes{limiter: rate.NewLimiter(rate.Every(interval), burst)}
		l.objects[key] = w
	}
	return w
}

// sweep forgets the objects with a full burst left and no problem.
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

// Write is a write that the API server has stored.
type Write struct {
	// Object is the object's name in messages.
	Object string
	// Restored is the difference that the write restored, and Answer the one between the response and what was sent.
	Restored, Answer drift.Difference
	// spare is how many writes are left after the first one without effect: a status needs one more to report that.
	spare int
	// free is set if the write does not count towards the bound.
	free bool
	// digest is the digest of the stored status.
	digest drift.Digest32
}

// Wrote counts and remembers a write. A write without effect uses up the rest of the burst, so that the next one waits. Failed
// writes do not count: the queue's backoff bounds them.
func (l *Limits) Wrote(key string, last Write, now time.Time) *drift.Interference {
	return l.wroteWithin(key, objectBurst, ObjectInterval, last, now)
}

// WroteStatus is Wrote for the status of a NodeBootstrap, and remembers its digest. Writes that new facts cause need not count.
func (l *Limits) WroteStatus(key string, answer drift.Difference, digest drift.Digest32, counts bool, now time.Time) *drift.Interference {
	return l.wroteWithin(key, statusBurst, statusInterval, Write{Object: key, Answer: answer, spare: 1, free: !counts, digest: digest}, now)
}

// Undone reports whether another client or admission control changed a status since it was last stored, by its digest.
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
	if w.interference != nil && len(last.Answer.Needed) == 0 { // admission control no longer changes it: the next write need not wait
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

// Interference returns who changes an object after it is written: admission control, or another client if no write is left. It
// is nil if no needed field is affected.
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

// IsRight records that an object is correct, whoever wrote it: admission control no longer interferes.
func (l *Limits) IsRight(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.objects[key]; w != nil {
		w.interference = nil
	}
}

// Forget resets the state of objects that are no longer needed: when the operator itself deletes and recreates an object,
// nobody interferes.
func (l *Limits) Forget(keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		delete(l.objects, key)
	}
}

// Failed records that a write failed, so that others can report it. It does not count towards the bound.
func (l *Limits) Failed(key string, err error, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(key, objectBurst, ObjectInterval, now).failure = err
}

// Failure returns why the last write of an object failed; nil if it was stored.
func (l *Limits) Failure(key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.objects[key]; w != nil {
		return w.failure
	}
	return nil
}

// Tolerates reports whether a difference is left as it is: it is harmless, and admission control reverted the same fields
// recently.
func (l *Limits) Tolerates(key string, d drift.Difference, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.objects[key]
	return w != nil && w.interference != nil && len(d.Needed) == 0 && now.Before(w.since.Add(toleranceInterval)) &&
		!slices.ContainsFunc(d.Other, func(field string) bool { return !slices.Contains(w.interference.Difference.Other, field) })
}

// Create creates an object with a key in Limits, and returns it as stored. If admission control changed needed fields, changed
// says which. In that case the next Create starts with a dry run: if the dry run is changed too, nothing is stored, and no
// object is returned.
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
	stored := want.DeepCopyObject().(T) // the response is decoded into it
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

// HeldError means that a write was not sent because of its bound. Reconcile again after Wait.
type HeldError struct {
	Object string
	Wait   time.Duration
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("another client changes or creates the %s again and again: the operator waits before the next write", e.Object)
}

// OnlyHeld reports whether an error consists only of HeldErrors, and the shortest time to wait.
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

// ConflictRetry is the delay of a reconcile after a conflict.
const ConflictRetry = 200 * time.Millisecond

// BindingName is the name of a ClusterRoleBinding in Limits and messages.
func BindingName(name string) string { return "ClusterRoleBinding " + name }

// SecretName is the name of a Secret in messages.
func SecretName(s *corev1.Secret) string { return "Secret " + s.Namespace + "/" + s.Name }

// DeletionOf is the key in Limits of the deletions of an object.
func DeletionOf(object string) string { return "deletion of the " + object }

// StatusOf is the name of a NodeBootstrap's status in Limits and messages.
func StatusOf(name string) string { return "status of the NodeBootstrap " + name }
