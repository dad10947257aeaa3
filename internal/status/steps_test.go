// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// joining was published an hour ago, and its CSR was sent, approved and issued five, four and four minutes ago. Its Node was created three
// minutes ago; its Lease is fresh.
func joining(edits ...func(*lifecycle.Facts)) *lifecycle.Facts {
	f := nodetest.Awaited(1, nodetest.Young)
	request := nodetest.Request("csr-a", 1, 5*time.Minute, nodetest.Approved(4*time.Minute))
	request.Status.Certificate = nodetest.Certificate(nodetest.Now, nodetest.Now.Add(365*24*time.Hour))
	request.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: "status", Time: new(nodetest.Ago(4 * time.Minute))}}
	nodetest.With(request)(f)
	f.Node, f.NodeReported, f.LeaseRenewed = nodetest.NodeMade(3*time.Minute), true, nodetest.Now
	for _, edit := range edits {
		edit(f)
	}
	return f
}

func readySince(age time.Duration, ready corev1.ConditionStatus) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		f.NodeConditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: nodetest.Ago(age)}}
	}
}

// minutesAgo are the steps of a join in minutes before now; those that are not known are absent.
func minutesAgo(t *v1alpha1.JoinTimes) map[string]int {
	out := map[string]int{}
	for _, s := range steps.List(t) {
		if s.Time != nil {
			out[s.Name] = int(nodetest.Now.Sub(s.Time.Time).Minutes())
		}
	}
	return out
}

func TestStepsOfAJoin(t *testing.T) {
	for name, tt := range map[string]struct {
		f    *lifecycle.Facts
		want map[string]int
	}{
		"Ready when it joins": {joining(readySince(2*time.Minute, corev1.ConditionTrue)),
			map[string]int{steps.Published: 60, steps.Requested: 5, steps.Approved: 4, steps.Issued: 4, steps.Registered: 3, steps.Ready: 2}},
		"not Ready when it joins": {joining(readySince(2*time.Minute, corev1.ConditionFalse)),
			map[string]int{steps.Published: 60, steps.Requested: 5, steps.Approved: 4, steps.Issued: 4, steps.Registered: 3}},
		"its CSR was deleted": {joining(func(f *lifecycle.Facts) {
			f.Requests, f.NodeBootstrap.Status.FirstApprovalTime, f.NodeBootstrap.Status.JoinProofTime = nil, new(nodetest.Ago(4*time.Minute)), new(nodetest.Ago(4*time.Minute))
		}), map[string]int{steps.Published: 60, steps.Approved: 4, steps.Registered: 3}},
		"its Node is from before the approval": {joining(readySince(2*time.Minute, corev1.ConditionTrue), func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(time.Hour) }),
			map[string]int{steps.Published: 60, steps.Requested: 5, steps.Approved: 4, steps.Issued: 4}},
		"it has joined in another way": {joining(func(f *lifecycle.Facts) { f.Requests = nil }), map[string]int{}},
		"with a serving certificate already": {joining(nodetest.Declares(), nodetest.Serves(nodetest.ServingRequest("s-2", time.Minute, nodetest.Approved(time.Minute)),
			nodetest.ServingRequest("s-1", 2*time.Minute, nodetest.Approved(2*time.Minute)), nodetest.ServingRequest("s-0", 2*time.Hour, nodetest.Approved(50*time.Minute)))),
			map[string]int{steps.Published: 60, steps.Requested: 5, steps.Approved: 4, steps.Issued: 4, steps.Registered: 3, steps.Serving: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			got := reportOf(tt.f)
			if !meta.IsStatusConditionTrue(got.Conditions, v1alpha1.ConditionJoined) {
				t.Fatal("it has not joined")
			}
			if got := minutesAgo(got.Join); !maps.Equal(got, tt.want) {
				t.Errorf("the steps were done %v minutes ago, want %v", got, tt.want)
			}
		})
	}
}

// Steps that come after the join complete its times, and stay. Nothing is entered for a node that joined under an older operator.
func TestStepsAfterAJoin(t *testing.T) {
	f := joining(nodetest.Declares())
	f.NodeBootstrap.Status = *reportOf(f)
	f.TokenSecrets, f.Kubeconfig = nil, nil
	readySince(time.Minute, corev1.ConditionTrue)(f)
	nodetest.Serves(nodetest.ServingRequest("s-1", 2*time.Minute, nodetest.Approved(2*time.Minute)))(f)
	for range 2 {
		f.NodeBootstrap.Status = *reportOf(f)
		if got := minutesAgo(f.NodeBootstrap.Status.Join); got[steps.Ready] != 1 || got[steps.Serving] != 2 || got[steps.Published] != 60 {
			t.Errorf("the steps were done %v minutes ago", got)
		}
		readySince(0, corev1.ConditionTrue)(f) // it was not Ready for a moment
		nodetest.Serves(nodetest.ServingRequest("s-2", 0, nodetest.Approved(0)))(f)
	}
	old := nodetest.JoinedBefore()
	readySince(time.Minute, corev1.ConditionTrue)(old)
	if got := reportOf(old); got.Join != nil || got.ClientCertificate != nil {
		t.Errorf("a node that joined under an older operator: %+v, %+v", got.Join, got.ClientCertificate)
	}
}

// A new wait begins without the times and the certificate of the last join.
func TestStepsEndWithTheWait(t *testing.T) {
	f := joining(readySince(time.Minute, corev1.ConditionTrue))
	f.NodeBootstrap.Status = *reportOf(f)
	if s := f.NodeBootstrap.Status; s.Join == nil || s.ClientCertificate == nil || !s.ClientCertificate.ExpirationTime.Time.Equal(nodetest.Now.Add(365*24*time.Hour)) {
		t.Fatalf("after the join: %+v, %+v", s.Join, s.ClientCertificate)
	}
	f.Node = nil
	if got := reportOf(f); got.Join != nil || got.ClientCertificate != nil {
		t.Errorf("while the node is awaited again: %+v, %+v", got.Join, got.ClientCertificate)
	}
}

func TestClientCertificateExpiring(t *testing.T) {
	f := nodetest.JoinedBefore()
	f.NodeBootstrap.Status.ClientCertificate = &v1alpha1.ClientCertificate{StartTime: nodetest.Ago(340 * 24 * time.Hour), ExpirationTime: nodetest.Ago(-25 * 24 * time.Hour)}
	f.LeaseRenewed = nodetest.Now.Add(-50 * 24 * time.Hour)
	before := f.NodeBootstrap.Status.DeepCopy()
	f.NodeBootstrap.Status = *reportOf(f)
	c := meta.FindStatusCondition(f.NodeBootstrap.Status.Conditions, v1alpha1.ConditionClientCertificateExpiring)
	if c == nil || c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonNodeNotRunning {
		t.Fatalf("the condition is %+v", c)
	}
	for _, want := range []string{"2026-01-13T05:06:07Z", "2026-03-29T05:06:07Z", "kubectl nodebootstrap reissue worker-1"} {
		if !strings.Contains(c.Message, want) {
			t.Errorf("the message lacks %s: %s", want, c.Message)
		}
	}
	events := status.Events(before, &f.NodeBootstrap.Status)
	if len(events) != 1 || events[0].Type != corev1.EventTypeWarning || events[0].Reason != v1alpha1.ReasonNodeNotRunning {
		t.Errorf("the events are %+v", events)
	}
	f.LeaseRenewed = nodetest.Now
	if got := reportOf(f); meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionClientCertificateExpiring) != nil {
		t.Error("the condition stays although the node runs")
	}
}
