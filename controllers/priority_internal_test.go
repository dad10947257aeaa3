// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// changed is an event: a creation without an old object, a deletion without a new one.
type changed struct {
	old, new client.Object
	atStart  bool
}

func (c changed) tell(ctx context.Context, h handler.EventHandler, q queue) {
	switch {
	case c.old == nil && c.new == nil:
		h.Generic(ctx, event.GenericEvent{Object: &corev1.ConfigMap{}}, q)
	case c.old == nil:
		h.Create(ctx, event.CreateEvent{Object: c.new, IsInInitialList: c.atStart}, q)
	case c.new == nil:
		h.Delete(ctx, event.DeleteEvent{Object: c.old}, q)
	default:
		h.Update(ctx, event.UpdateEvent{ObjectOld: c.old, ObjectNew: c.new}, q)
	}
}

func TestLeisurely(t *testing.T) {
	denied := &certificatesv1.CertificateSigningRequest{Status: certificatesv1.CertificateSigningRequestStatus{
		Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}},
	}}
	waits := &certificatesv1.CertificateSigningRequest{}
	annotatedRequest := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "2"}}
	wanted := func(edit func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker", UID: "a", Generation: 1, ResourceVersion: "1"}}
		if edit != nil {
			nb.ResourceVersion = "2"
			edit(nb)
		}
		return nb
	}
	annotated := wanted(func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "now"}
	})
	worker := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return requestsFor("worker") })
	requests, secrets, wishes, all := leisurely{worker, awaitsVerdict}, leisurely{worker, isGone}, leisurely{&handler.EnqueueRequestForObject{}, isWanted}, leisurely{worker, nil}
	for name, tt := range map[string]struct {
		h    leisurely
		e    changed
		want int
	}{
		"a request is sent":                {requests, changed{new: waits}, 0},
		"a verdict is stored":              {requests, changed{old: waits, new: denied}, handler.LowPriority},
		"somebody annotates one":           {requests, changed{old: waits, new: annotatedRequest}, 0},
		"a request is deleted":             {requests, changed{old: waits}, handler.LowPriority},
		"it was there at start":            {requests, changed{new: denied, atStart: true}, handler.LowPriority},
		"a token is made":                  {secrets, changed{new: &corev1.Secret{}}, handler.LowPriority},
		"somebody deletes it":              {secrets, changed{old: &corev1.Secret{}}, 0},
		"a node is wanted":                 {wishes, changed{new: wanted(nil)}, 0},
		"it was wanted before the start":   {wishes, changed{new: wanted(nil), atStart: true}, handler.LowPriority},
		"its status is stored":             {wishes, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.Status.LastTokenID = "abcdef" })}, handler.LowPriority},
		"its spec is edited":               {wishes, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.Generation = 2 })}, 0},
		"a reissue is asked for":           {wishes, changed{old: wanted(nil), new: annotated}, 0},
		"it is being deleted":              {wishes, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.DeletionTimestamp = new(metav1.Now()) })}, 0},
		"it is replaced":                   {wishes, changed{old: wanted(nil), new: wanted(func(nb *v1alpha1.NodeBootstrap) { nb.UID = "b" })}, 0},
		"nobody wants it":                  {wishes, changed{old: wanted(nil)}, 0},
		"something changes that is shared": {all, changed{new: &corev1.ConfigMap{}}, handler.LowPriority},
		"something else":                   {all, changed{}, handler.LowPriority},
	} {
		t.Run(name, func(t *testing.T) {
			q := priorityqueue.New[reconcile.Request](t.Name())
			t.Cleanup(q.ShutDown)
			tt.e.tell(t.Context(), tt.h, q)
			if r, got, _ := q.GetWithPriority(); got != tt.want || r.Name != "worker" {
				t.Errorf("%s is queued with priority %d, want %d", r, got, tt.want)
			}
		})
	}
}

func TestDecidedRequests(t *testing.T) {
	request := func(uid, version string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), ResourceVersion: version}}
	}
	var d decidedRequests
	d.add(request("a", "1"))
	for name, tt := range map[string]struct {
		r    *certificatesv1.CertificateSigningRequest
		want bool
	}{
		"the same":       {request("a", "1"), true},
		"a later one":    {request("a", "2"), false},
		"another's":      {request("b", "1"), false},
		"another, later": {request("b", "2"), false},
	} {
		if got := d.has(tt.r); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
