// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// rules is the state that the checks of the invariants need.
type rules struct {
	*invariants.Checker
	thisReconcile reconcileCall // the current one

	violations []string
}

// reconcileCall is one call of Reconcile, with where it began.
type reconcileCall struct{ number, firstCall, firstRevision, firstFault int }

func (w *world) newRules() rules {
	c := invariants.New(stored{w.store}, namespace, time.Second, w.violated)
	c.Reuse = true
	return rules{Checker: c}
}

// violated records a violation.
func (w *world) violated(text string) {
	if slices.Contains(w.violations, text) {
		return
	}
	w.violations = append(w.violations, text)
	w.trace = append(w.trace, note("!!! "+text))
}

// stored is a store as the invariants see it.
type stored struct{ *store }

func (s stored) At(k invariants.Key, revision int64) client.Object {
	if v := s.at(key{k.Kind, k.Namespace, k.Name}, int(revision)); v != nil {
		return v.object
	}
	return nil
}

func (s stored) Since(k invariants.Key, revision int64) []client.Object {
	var out []client.Object
	for _, v := range s.since(key{k.Kind, k.Namespace, k.Name}, int(revision)) {
		out = append(out, v.object)
	}
	return out
}

func (s stored) Keys(kind string) []invariants.Key {
	out := make([]invariants.Key, len(s.kinds[kind]))
	for i, k := range s.kinds[kind] {
		out[i] = k.public()
	}
	return out
}

func (k key) public() invariants.Key {
	return invariants.Key{Kind: k.kind, Namespace: k.namespace, Name: k.name}
}

// callsOfReconcile are those of the current reconcile. Between those of a process that was paused there are calls of others.
func (w *world) callsOfReconcile() []*call {
	return slices.DeleteFunc(slices.Clone(w.calls[w.thisReconcile.firstCall:]), func(c *call) bool { return c.reconcile != w.thisReconcile.number })
}

// readRevision is the revision at which the current reconcile made the call so many before the last one.
func (w *world) readRevision(ahead int) int64 {
	calls := w.callsOfReconcile()
	if len(calls) == 0 {
		return int64(w.thisReconcile.firstRevision)
	}
	return int64(calls[max(0, len(calls)-1-ahead)].at)
}

// isOf reports whether an object exists, with this UID.
func (v *version) isOf(uid types.UID) bool { return v != nil && v.object.GetUID() == uid }

// uncachedReads are how many reads directly before an approval check again what it relies on.
const uncachedReads = 2

// check checks a change against the invariants. It ignores the parts that admission has changed.
func (w *world) check(c change) {
	operators := c.new.author == operatorAuthor
	change := invariants.Write{
		Key: c.key.public(), Revision: int64(c.new.revision), At: w.now(), Before: cmp.Or(c.old, &version{}).object, After: c.new.object,
		Began: int64(w.thisReconcile.firstRevision),
		// The reconcile may not have seen changes since it began, and what it saw may have changed since.
		Seen: []int64{int64(w.thisReconcile.firstRevision), w.readRevision(1)},
	}
	w.Learn(change, operators)
	if !operators || w.admission != "" {
		return
	}
	switch o := c.new.object.(type) {
	case *certificatesv1.CertificateSigningRequest:
		change.Seen = []int64{w.readRevision(uncachedReads)} // it may be deleted between the last read and the approval, but no earlier
	case *corev1.Secret:
		change.Late = o.Namespace == namespace && w.sawOldSecrets() // until the cache has caught up, anything published is useless
		change.Knows = func(other *corev1.Secret, revision int64) bool { return w.knows(o, other, int(revision)) }
		change.Shows = w.showed
	}
	w.Check(change)
}

// knows reports whether the operator could know of a token when it created another one. A token of a former NodeBootstrap is
// deleted with it, and until then a cache may not show it, because it lags or because the label by which it selects was removed.
func (w *world) knows(made, other *corev1.Secret, revision int) bool {
	former := len(other.OwnerReferences) == 0 || len(made.OwnerReferences) == 0 || other.OwnerReferences[0].UID != made.OwnerReferences[0].UID
	hidden := former && (w.sawOldSecrets() || shown(w.latest(keyOf(other))).object == nil)
	return !hidden && w.at(keyOf(other), revision) != nil
}

func isApproved(v *version) bool {
	r, ok := objectOf(v).(*certificatesv1.CertificateSigningRequest)
	return ok && invariants.Decided(r, certificatesv1.CertificateApproved)
}

func objectOf(v *version) any {
	if v == nil {
		return nil
	}
	return v.object
}

// liveTokens are the live tokens that the operator created for a node.
func (w *world) liveTokens(node string) []*corev1.Secret {
	return w.LiveTokens(node, int64(w.revision), w.now())
}

// sawOldSecrets reports whether the current reconcile read Secrets from a stale cache.
func (w *world) sawOldSecrets() bool {
	return slices.ContainsFunc(w.callsOfReconcile(), func(c *call) bool { return c.kind == "Secret" && c.class == fromCache && c.revision < c.at })
}

// showed reports whether the cache showed a NodeBootstrap to the current reconcile, and not as being deleted.
func (w *world) showed(name string, uid types.UID) bool {
	k := key{kind: "NodeBootstrap", name: name}
	return slices.ContainsFunc(w.callsOfReconcile(), func(c *call) bool {
		v := w.at(k, c.revision)
		return c.gets(k) && v.isOf(uid) && v.object.GetDeletionTimestamp() == nil
	})
}

// gets reports whether a call reads an object from the cache.
func (c *call) gets(k key) bool { return c.class == fromCache && c.what == "get "+k.String() }

// checkDeletionSeen: a reconcile that sees that a NodeBootstrap is deleted leaves no token that its cache shows.
func (w *world) checkDeletionSeen(node string, again bool, err error) {
	calls := w.callsOfReconcile()
	k := key{kind: "NodeBootstrap", name: node}
	i := slices.IndexFunc(calls, func(c *call) bool { return c.gets(k) })
	if i < 0 || again || err != nil {
		return
	}
	if v := w.at(k, calls[i].revision); v != nil && v.object.GetDeletionTimestamp() == nil {
		return
	}
	for _, c := range calls {
		if c.class != fromCache || !strings.HasPrefix(c.what, "list Secret") {
			continue
		}
		w.Checked[invariants.LiveTokens]++
		for _, s := range w.liveTokens(node) {
			v := w.at(keyOf(s), c.revision)
			if !v.isOf(s.UID) {
				continue
			}
			if seen, ok := shown(v).object.(*corev1.Secret); ok && owned.Ours(seen, node) {
				w.violated(invariants.LiveTokens.Violated("%s is left by a reconcile that saw the deletion of its NodeBootstrap", s.Name))
			}
		}
	}
}

// reconcileEnds: after an error the status reports it, if it can be stored, and if the operator does not wait because others have undone its
// last writes of the status.
func (w *world) reconcileEnds(i item, err error) {
	faults := w.happened[min(w.thisReconcile.firstFault, len(w.happened)):]
	if i.controller != "node" || err == nil || len(faults) != 1 || strings.Contains(err.Error(), "storing the status") || strings.Contains(err.Error(), "the status of the NodeBootstrap") || faults[0].fault == cutOff {
		return // the status could not be stored either, or not yet
	}
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", i.name)
	written := slices.ContainsFunc(w.callsOfReconcile(), func(c *call) bool { return c.id == faults[0].id && c.class == writing })
	if nb == nil || !written || nb.DeletionTimestamp != nil || meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) || !w.reconcileSaw(nb) {
		return
	}
	for _, c := range nb.Status.Conditions {
		if strings.Contains(c.Message, "tried again") || c.Reason == v1alpha1.ReasonBindingsPending {
			return
		}
	}
	w.violated(invariants.SameEnd.Violated("the status does not report the error: %v", err))
}

// reconcileSaw reports whether the cache showed a NodeBootstrap to the reconcile, and not only an earlier one of its name.
func (w *world) reconcileSaw(nb *v1alpha1.NodeBootstrap) bool {
	return slices.ContainsFunc(w.callsOfReconcile(), func(c *call) bool { return c.gets(keyOf(nb)) && w.at(keyOf(nb), c.revision).isOf(nb.UID) })
}
