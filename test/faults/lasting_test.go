// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"hash/fnv"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// longFaults are those that last.
var longFaults = []fault{spoiling, forbidden, cutOff, paused, away}

// some is all of the faults of a call, but only one of the long ones.
func some(c *call, all []fault) []fault {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(c.id))
	one := longFaults[hash.Sum32()%uint32(len(longFaults))]
	return slices.DeleteFunc(all, func(f fault) bool { return f != one && slices.Contains(longFaults, f) })
}

// aWhile is how long a permission, or the network, is missing.
const aWhile = 10 * time.Second

// comesBefore acts just before a call that is disturbed.
func (w *world) comesBefore(f fault, c *call) {
	before := w.revision
	switch f {
	case forbidden:
		if until := w.clock.Now().Add(aWhile); until.After(w.refused[c.right()]) {
			w.refused[c.right()] = until
		}
	case spoiling:
		w.spoiledUntil[c.right()] = w.clock.Now().Add(aWhile)
	case cutOff:
		w.cutOff()
	case paused, away:
		w.pause(f == away)
	case ahead:
		w.nextStep()
		w.expectsChange(before)
	case meanwhile:
		for w.clusterActs() {
		}
		w.expectsChange(before)
	}
}

// expectsChange abandons a run in which nobody had anything to do since a revision.
func (w *world) expectsChange(since int) {
	if w.revision == since && w.random == nil {
		panic(pointless{})
	}
}

// leaseLasts is how long another process waits before it takes over, and then works before a paused one continues.
const leaseLasts = 15 * time.Second

// pause lets another process take over and work until it has nothing to do. The old one then continues its reconcile, as a
// process does that has lost the leader's Lease without noticing.
func (w *world) pause(goesOn bool) {
	old := w.thisReconcile
	w.note("the process is paused, and another one takes over")
	w.startOperator()
	w.run(leaseLasts)
	if goesOn {
		before := w.revision
		w.nextStep()
		w.expectsChange(before)
		w.run(leaseLasts)
	}
	w.note("the old process continues with reconcile %d", old.number)
	w.thisReconcile = old
}

// right is the permission that the call needs.
func (c *call) right() string { return strings.Join(strings.Fields(c.what)[:2], " ") }

// cutOff cuts the network for a while: calls fail, and all caches stay as they are.
func (w *world) cutOff() {
	w.cutOffUntil = w.clock.Now().Add(aWhile)
	for kind := range w.kinds {
		w.freezeUntil(kind, w.revision, w.cutOffUntil)
	}
}

// refusal is why a call fails while a permission, or the network, is missing.
func (w *world) refusal(c *call) error {
	now := w.clock.Now()
	switch {
	case c.class == fromCache:
		return nil
	case now.Before(w.cutOffUntil):
		return &url.Error{Op: "Post", URL: "https://127.0.0.1:6443/" + url.PathEscape(c.what), Err: syscall.ECONNREFUSED}
	case now.Before(w.refused[c.right()]):
		return apierrors.NewForbidden(resource(c.key), c.key.name, errors.New("the operator may not "+c.right()))
	default:
		return nil
	}
}
