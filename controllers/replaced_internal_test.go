// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"strconv"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestReplacedVersions(t *testing.T) {
	request := func(uid, version string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), ResourceVersion: version}}
	}
	var r replacedVersions
	begin := time.Unix(1, 0)
	r.add(versionOf(request("a", "1")), begin)
	r.add(versionOf(request("a", "2")), begin)
	for name, tt := range map[string]struct {
		o     *certificatesv1.CertificateSigningRequest
		after time.Duration
		want  bool
	}{
		"the last":              {request("a", "2"), 0, true},
		"the one before":        {request("a", "1"), 0, true},
		"one that came after":   {request("a", "3"), 0, false},
		"another's":             {request("b", "1"), 0, false},
		"a moment later":        {request("a", "2"), time.Second, true},
		"when the cache stands": {request("a", "2"), replacedLag, false},
		"by a clock set back":   {request("a", "2"), -time.Hour, false},
	} {
		if got := r.has(tt.o, begin.Add(tt.after)); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for i := range 2 * maxReplaced {
		r.add(objectVersion{resourceVersion: strconv.Itoa(i)}, begin)
	}
	if len(r.at) > maxReplaced {
		t.Errorf("%d are remembered", len(r.at))
	}
}

// What the cache shows of a NodeBootstrap for a moment after the operator's own write would end in a conflict. A cache that goes
// on showing it holds nothing up.
func TestReplacedVersionIsNotActedOn(t *testing.T) {
	scheme, err := NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1", UID: "the-uid"}}
	build := indexing{fake.NewClientBuilder().WithScheme(scheme).WithObjects(nb).WithStatusSubresource(nb)}
	if err := AddIndexes(t.Context(), build); err != nil {
		t.Fatal(err)
	}
	writes := 0
	c := build.WithInterceptorFuncs(interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, subresource string, o client.Object, opts ...client.SubResourceUpdateOption) error {
			writes++
			return c.SubResource(subresource).Update(ctx, o, opts...)
		},
	}).Build()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(nb), nb); err != nil {
		t.Fatal(err)
	}
	clock := clocktesting.NewFakePassiveClock(time.Unix(1, 0))
	r := &NodeReconciler{Writes: &WriteLimits{}, Client: c, Live: c, Discovery: &Discovery{Reader: c}, Approvers: NewApprovers(c, clock), Clock: clock, Recorder: noEvents{}}
	r.replaced.add(versionOf(nb), clock.Now())
	for _, tt := range []struct {
		name   string
		after  time.Duration
		again  time.Duration
		writes int
	}{
		{"just replaced", 0, conflictRetry, 0},
		{"the cache stands still", replacedLag, bindingsRetry, 1}, // there are no bindings
	} {
		clock.SetTime(time.Unix(1, 0).Add(tt.after))
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(nb)})
		if err != nil || result.RequeueAfter != tt.again || writes != tt.writes {
			t.Errorf("%s: %d writes, to be called again after %s, error %v", tt.name, writes, result.RequeueAfter, err)
		}
	}
}
