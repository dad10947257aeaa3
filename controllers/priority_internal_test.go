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
)

func TestLeisurely(t *testing.T) {
	denied := &certificatesv1.CertificateSigningRequest{Status: certificatesv1.CertificateSigningRequestStatus{
		Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}},
	}}
	waits := &certificatesv1.CertificateSigningRequest{}
	annotated := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "2"}}
	for name, tt := range map[string]struct {
		happens func(handler.EventHandler, queue)
		want    int
	}{
		"a request is sent": {func(h handler.EventHandler, q queue) { h.Create(t.Context(), event.CreateEvent{Object: waits}, q) }, 0},
		"a verdict is stored": {func(h handler.EventHandler, q queue) {
			h.Update(t.Context(), event.UpdateEvent{ObjectOld: waits, ObjectNew: denied}, q)
		}, handler.LowPriority},
		"somebody annotates one": {func(h handler.EventHandler, q queue) {
			h.Update(t.Context(), event.UpdateEvent{ObjectOld: waits, ObjectNew: annotated}, q)
		}, 0},
		"a request is deleted":  {func(h handler.EventHandler, q queue) { h.Delete(t.Context(), event.DeleteEvent{Object: waits}, q) }, handler.LowPriority},
		"it was there at start": {func(h handler.EventHandler, q queue) { h.Create(t.Context(), event.CreateEvent{Object: denied}, q) }, handler.LowPriority},
		"something else": {func(h handler.EventHandler, q queue) {
			h.Generic(t.Context(), event.GenericEvent{Object: &corev1.ConfigMap{}}, q)
		}, handler.LowPriority},
	} {
		t.Run(name, func(t *testing.T) {
			q := priorityqueue.New[reconcile.Request](t.Name())
			t.Cleanup(q.ShutDown)
			worker := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return requestsFor("worker") })
			tt.happens(leisurely{worker, awaitsVerdict}, q)
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
