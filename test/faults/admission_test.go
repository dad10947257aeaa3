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

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// Admission changes a write: a policy or a webhook makes the API server store something else.
const (
	stripped  fault = "stripped"  // without labels, annotations and owners, once
	spoiled   fault = "spoiled"   // with other content, once
	spoiling  fault = "spoiling"  // the same, and each write of this kind for a while
	immutably fault = "immutably" // a Secret that cannot be updated, once
)

// admissionFaults are the ways in which admission can change a write.
func admissionFaults(c *call) []fault {
	verb, _, _ := strings.Cut(c.what, " ")
	switch {
	case verb == "delete": // nothing to change
		return nil
	case c.kind == "Secret" && verb == "create":
		return []fault{stripped, spoiled, spoiling, immutably}
	case c.kind == "Secret" || c.kind == "ClusterRoleBinding":
		return []fault{stripped, spoiled, spoiling}
	default:
		return []fault{spoiled, spoiling}
	}
}

// admit lets admission change an object that the operator writes.
func (w *world) admit(sent, have client.Object) bool {
	switch w.admission {
	case "":
		return false
	case stripped:
		sent.SetLabels(nil)
		sent.SetAnnotations(nil)
		sent.SetOwnerReferences(nil)
	case immutably:
		sent.(*corev1.Secret).Immutable = new(true)
	case spoiled:
		switch o := sent.(type) {
		case *corev1.Secret:
			for key := range o.Data {
				if key != "token-id" && key != "token-secret" && key != "expiration" {
					o.Data[key] = []byte("spoiled")
				}
			}
		case *rbacv1.ClusterRoleBinding:
			o.Subjects = append(o.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "somebody"})
		case *v1alpha1.NodeBootstrap:
			o.Status = *have.(*v1alpha1.NodeBootstrap).Status.DeepCopy()
		case *certificatesv1.CertificateSigningRequest:
			o.Status.Conditions = have.(*certificatesv1.CertificateSigningRequest).DeepCopy().Status.Conditions
		}
	}
	return w.admission != immutably
}

// withAdmission performs a write that admission changes.
func (w *world) withAdmission(f fault, run func() error) error {
	w.admission, w.admitted = f, w.clock.Now()
	defer func() { w.admission = "" }()
	return run()
}

// isSpoiled reports whether each write of a kind is spoiled at this time.
func (w *world) isSpoiled(c *call) bool {
	return c.class == writing && w.clock.Now().Before(w.spoiledUntil[c.right()])
}

// dryRun answers a creation in a dry run.
func (w *world) dryRun(o client.Object) error {
	k := keyOf(o)
	if w.latest(k) != nil {
		return apierrors.NewAlreadyExists(resource(k), k.name)
	}
	created := overTheWire(o)
	w.admit(created, nil)
	assign(o, created)
	return nil
}

// manyWrites is more writes of one object in a minute than anything justifies.
const manyWrites = 40

// countWrite counts a write of the operator. Invariant 7: whatever happens to an object, it is not written again and again.
func (w *world) countWrite(c *call) {
	if minute := w.clock.Now().Truncate(time.Minute); !minute.Equal(w.writesSince) {
		w.writesSince, w.writes = minute, map[key]int{}
	}
	if w.writes[c.key]++; w.writes[c.key] == manyWrites {
		w.violated(invariants.Bounded.Violated("%s is written %d times in a minute", c.key, manyWrites))
	}
}

// leadsElsewhere reports whether a fault is allowed to lead to another end state: a token that is useless, because its Secret is
// no longer the operator's or cannot be changed as needed, is replaced by the next one.
func (a at) leadsElsewhere() bool {
	return a.fault == immutably && strings.HasPrefix(a.id, "create Secret "+token.Namespace) ||
		a.fault == stripped && strings.HasPrefix(a.id, "update Secret "+token.Namespace)
}

// admissionDelays reports whether a fault can delay a write by a minute or so.
func admissionDelays(a at) bool {
	return a.fault == stripped || a.fault == spoiled || a.fault == spoiling || a.fault == immutably
}

// interfered reports whether a condition says that something interferes with the operator's writes.
func (w *world) interfered() bool {
	const settles = 2 * time.Minute // a status that was not stored says nothing
	if now := w.clock.Now(); now.Before(w.admitted.Add(settles)) {
		return true
	}
	for _, nb := range all[*v1alpha1.NodeBootstrap](w.store) {
		for _, c := range nb.Status.Conditions {
			if c.Reason == v1alpha1.ReasonAdmissionInterferes || c.Reason == v1alpha1.ReasonContested {
				return true
			}
		}
	}
	return false
}

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
