// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// class is the type of a call.
type class int

const (
	fromCache class = iota
	uncached        // an uncached read, or a review, which stores nothing
	writing
)

// call is a call of the operator.
type call struct {
	class class
	// what describes the call, without anything that differs between two runs of a story. id is what with a number.
	what, id string
	// kind and key are of the object that is read or written, and cache is the cache that answers a read.
	kind, cache string
	key         key
	// body is the content that is sent.
	body func() string
	// reconcile counts the calls of Reconcile.
	reconcile int

	// revision is the one at which a cache answers. before is that of a cache without the last change, which was made at
	// changed.
	revision, before int
	changed          time.Time
	// recent means that the last change is so new that a cache may lack it, and that the process has not seen it yet: a
	// cache never goes back.
	recent bool
	// at is the revision of the store at the beginning of the call, and next the next step of the story.
	at, next int
	// pending means that kube-controller-manager has something to do. Only undisturbed runs set it.
	pending bool
}

// fault is a failure of a call.
type fault string

const (
	crash       fault = "crash"        // the process ends at a read
	crashBefore fault = "crash-before" // the process ends before a write is sent
	crashAfter  fault = "crash-after"  // the process ends after a write was stored
	lost        fault = "lost"         // a write is stored and its answer is lost
	conflict    fault = "conflict"     // 409: a conflict
	tooMany     fault = "429"          // with Retry-After
	internal    fault = "500"          // with a text that repeats the content that was sent
	timeout     fault = "timeout"      // nothing was done
	stale       fault = "stale"        // the cache shows the state before the last change, once
	behind      fault = "behind"       // the same, for cacheLag
	unseen      fault = "unseen"       // the cache does not show this write, nor later ones, for cacheLag
	forbidden   fault = "403"          // the permission for such calls is removed, and restored after a while
	cutOff      fault = "cut-off"      // the network to the API server fails for a while
	ahead       fault = "ahead"        // people or a machine take their next step just before this call
	meanwhile   fault = "meanwhile"    // kube-controller-manager takes its next action just before this call
	paused      fault = "paused"       // the process is paused, another one takes over, and then this one continues its reconcile
	away        fault = "away"         // the same, and people or a machine take their next step before it continues
)

// cacheLag is how long a cache may lack what was stored.
const cacheLag = 2 * time.Second

// latency is how long a call of the API server takes.
const latency = 2 * time.Millisecond

// failuresOf are all faults that can affect a call.
func failuresOf(c *call) []fault {
	switch {
	case c.class == writing:
		return append(admissionFaults(c), crashBefore, crashAfter, lost, conflict, tooMany, internal, timeout, unseen, forbidden, cutOff, paused, away)
	case c.class == uncached && strings.HasPrefix(c.what, "review"): // the API server's authenticator and authorizer have caches too
		return []fault{crash, tooMany, internal, timeout, stale, forbidden, cutOff, paused, away}
	case c.class == uncached:
		return []fault{crash, tooMany, internal, timeout, forbidden, cutOff, paused, away}
	case c.recent:
		return []fault{stale, behind}
	default:
		return nil
	}
}

// faultsOf are these, and the actions of others just before the call.
func faultsOf(c *call) []fault {
	if c.pending {
		return append(failuresOf(c), ahead, meanwhile)
	}
	return append(failuresOf(c), ahead)
}

// crashed is the panic value of a call in which the process ends.
type crashed struct{}

// pointless is the panic value of a call before which nobody had anything to do: the run is the same as without the fault.
type pointless struct{}

// endless is the panic value after far too many calls.
type endless struct{}

func (crashed) Error() string   { return "the process ends" }
func (pointless) Error() string { return "there is nothing to do" }
func (endless) Error() string   { return "there are too many calls" }

// thrown unwraps the value with which a call panicked: singleflight wraps it in an error of its own.
func thrown(recovered any) any {
	if err, ok := recovered.(error); ok && errors.Unwrap(err) != nil {
		return errors.Unwrap(err)
	}
	return recovered
}

// call lets a call of the operator succeed or fail, and records it.
func (w *world) call(c *call, run func() error) error {
	if w.checking {
		return run()
	}
	w.counts[c.what]++
	c.id = fmt.Sprintf("%s#%d", c.what, w.counts[c.what])
	c.reconcile = w.thisReconcile.number
	op := w.op
	c.recent = c.class == fromCache && c.before >= op.shown[c.cache] && w.recent(c.changed)
	c.next, c.pending = w.next, w.recording && w.clusterAction() != nil
	f := w.faultFor(c)
	w.calls = append(w.calls, c)
	if minute := w.clock.Now().Truncate(time.Minute); !minute.Equal(w.minute) {
		w.minute, w.inMinute = minute, 0
	}
	w.Checked[invariants.Bounded]++
	if w.inMinute++; len(w.calls) > w.limit || w.inMinute > manyInAMinute {
		panic(endless{})
	}
	w.comesBefore(f, c)
	if c.class == fromCache && slices.Contains([]fault{ahead, meanwhile, paused, away}, f) { // an up-to-date cache shows what was just done
		c.revision = w.seen(c.kind)
	}
	c.at = w.revision
	if c.class != fromCache {
		w.clock.SetTime(w.clock.Now().Add(latency))
		w.op.hears()
	}
	if c.class == writing && f != cutOff { // forty calls of a history may be cut off, and each reconcile tries two writes
		w.countWrite(c)
	}
	if f == "" && w.isSpoiled(c) {
		f = spoiled
	}
	err := w.disturb(f, c, func() error {
		if err := w.refusal(c); err != nil {
			return err
		}
		err := run()
		if c.class == writing { // it answers what it has stored
			c.at = w.revision
		}
		return err
	})
	if c.class == fromCache {
		op.shown[c.cache] = max(op.shown[c.cache], c.revision)
	}
	w.trace = append(w.trace, traced{c, f, err})
	return err
}

// faultFor is the fault of a call; each fault of a plan happens once.
func (w *world) faultFor(c *call) fault {
	f, ok := w.plan[c.id]
	if !ok && w.random != nil {
		f = w.random(c)
	}
	if f != "" {
		w.happened = append(w.happened, at{c.id, f})
	}
	return f
}

func (w *world) disturb(f fault, c *call, run func() error) error {
	const unavailable = "the server is busy"
	switch f {
	case crash, crashBefore:
		panic(crashed{})
	case crashAfter:
		_ = run()
		panic(crashed{})
	case lost:
		if err := run(); err != nil {
			return err
		}
		return &url.Error{Op: "Post", URL: "https://127.0.0.1:6443/" + url.PathEscape(c.what), Err: io.ErrUnexpectedEOF}
	case conflict:
		return apierrors.NewConflict(resource(c.key), c.key.name, errors.New("the object has been modified"))
	case tooMany:
		return apierrors.NewTooManyRequests(unavailable, 1)
	case internal:
		text := "an admission webhook said"
		if c.body != nil {
			text += " of " + c.body()
		}
		return apierrors.NewInternalError(errors.New(text))
	case timeout:
		return &url.Error{Op: "Post", URL: "https://127.0.0.1:6443/" + url.PathEscape(c.what), Err: context.DeadlineExceeded}
	case stale:
		return w.withOldState(c, run)
	case behind:
		if !c.recent {
			return run()
		}
		w.freeze(c.kind, c.before)
		c.revision = w.seen(c.kind)
		return run()
	case unseen:
		w.freeze(c.kind, w.revision)
		return run()
	case stripped, spoiled, immutably:
		return w.withAdmission(f, run)
	case spoiling:
		return w.withAdmission(spoiled, run)
	default:
		return run()
	}
}

// recent reports whether a cache may lack a change of that time.
func (w *world) recent(at time.Time) bool {
	age := w.now().Sub(at)
	return age >= 0 && age <= cacheLag
}

// withOldState answers as of before the last change, whose event follows.
func (w *world) withOldState(c *call, run func() error) error {
	if c.class == uncached {
		w.lagging = true
		defer func() { w.lagging = false }()
		return run()
	}
	if !c.recent {
		return run()
	}
	c.revision = c.before
	w.op.wakeFor(w.changes[c.before]) // revisions begin at 1
	return run()
}

// at is a fault at a call.
type at struct {
	id    string
	fault fault
}

func (a at) String() string { return a.id + " " + string(a.fault) }

// parse reads the output of String.
func (a *at) parse(text string) error {
	i := strings.LastIndex(text, " ")
	if i < 0 {
		return fmt.Errorf("%q is not a call and a fault", text)
	}
	a.id, a.fault = text[:i], fault(text[i+1:])
	return nil
}

// traced is a line of the trace.
type traced struct {
	call  *call
	fault fault
	err   error
}

func (t traced) String() string {
	out := fmt.Sprintf("   reconcile %d: %s", t.call.reconcile, t.call.id)
	if t.fault != "" {
		out += " *** " + string(t.fault)
	}
	if t.err != nil {
		out += ": " + t.err.Error()
	}
	return out
}
