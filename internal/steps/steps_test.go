// SPDX-License-Identifier: Apache-2.0

package steps_test

import (
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// Each step but the first one follows another one, and has a field of its own.
func TestList(t *testing.T) {
	at := func(n time.Duration) *metav1.Time { return new(nodetest.Ago(-n * time.Second)) }
	seen := map[string]bool{"": true}
	for i, s := range steps.List(&v1alpha1.JoinTimes{PublishedTime: at(0), RequestedTime: at(1), ApprovedTime: at(2), IssuedTime: at(3),
		RegisteredTime: at(4), ReadyTime: at(5), ServingTime: at(6)}) {
		if s.Time == nil || !s.Time.Equal(at(time.Duration(i))) {
			t.Errorf("%s was done at %v, want %v", s.Name, s.Time, at(time.Duration(i)))
		}
		if !seen[s.After] || seen[s.Name] {
			t.Errorf("%s comes after %q, of the steps %v", s.Name, s.After, seen)
		}
		seen[s.Name] = true
	}
	if got := steps.Time(&v1alpha1.JoinTimes{ReadyTime: at(5)}, steps.Ready); !got.Equal(at(5)) {
		t.Errorf("Ready at %v", got)
	}
	if len(steps.List(nil)) != len(seen)-1 {
		t.Error("nil has other steps")
	}
}

func TestPublishedAt(t *testing.T) {
	s := nodetest.StatusOf(1, time.Hour)
	if got := steps.PublishedAt(&s); got == nil || !got.Time.Equal(nodetest.Ago(time.Hour).Time) {
		t.Errorf("an available credential is published at %v", got)
	}
	s.Conditions[0].Status = metav1.ConditionFalse
	if got := steps.PublishedAt(&s); got != nil {
		t.Errorf("a credential that is not available is published at %v", got)
	}
}

func TestOfRequest(t *testing.T) {
	stored := func(fields string, ago time.Duration) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) {
			at := nodetest.Ago(ago)
			r.ManagedFields = append(r.ManagedFields, metav1.ManagedFieldsEntry{Subresource: "status", Time: &at, FieldsV1: metav1.NewFieldsV1(fields)})
		}
	}
	r := nodetest.Request("csr-a", 1, 3*time.Minute)
	var got v1alpha1.JoinTimes
	if steps.OfRequest(&got, r); !got.RequestedTime.Equal(new(nodetest.Ago(3*time.Minute))) || got.ApprovedTime != nil || got.IssuedTime != nil {
		t.Errorf("a pending CSR gives %+v", got)
	}
	for _, edit := range []func(*certificatesv1.CertificateSigningRequest){
		nodetest.Approved(2 * time.Minute), nodetest.WithCertificate, stored(`{"f:status":{"f:conditions":{}}}`, 2*time.Minute),
		stored(`{"f:status":{"f:certificate":{}}}`, time.Minute),
	} {
		edit(r)
	}
	for range 2 { // what the cache keeps gives the same
		if steps.OfRequest(&got, r); !got.ApprovedTime.Equal(new(nodetest.Ago(2*time.Minute))) || !got.IssuedTime.Equal(new(nodetest.Ago(time.Minute))) {
			t.Errorf("an issued CSR gives %+v", got)
		}
		csr.KeepIssuedAt(r)
	}
}

func TestOfNode(t *testing.T) {
	created := nodetest.Ago(time.Hour)
	for name, tt := range map[string]struct {
		status corev1.ConditionStatus
		since  metav1.Time
		want   *metav1.Time
	}{
		"not Ready": {corev1.ConditionFalse, nodetest.Ago(time.Minute), nil},
		"unknown":   {corev1.ConditionUnknown, nodetest.Ago(time.Minute), nil},
		"Ready":     {corev1.ConditionTrue, nodetest.Ago(time.Minute), new(nodetest.Ago(time.Minute))},
		"by a slow clock, before its Node existed": {corev1.ConditionTrue, nodetest.Ago(2 * time.Hour), &created},
		"by a fast clock, in the future":           {corev1.ConditionTrue, nodetest.Ago(-time.Hour), new(nodetest.Ago(0))},
	} {
		t.Run(name, func(t *testing.T) {
			var got v1alpha1.JoinTimes
			steps.OfNode(&got, created, []corev1.NodeCondition{
				{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, LastTransitionTime: nodetest.Ago(time.Second)},
				{Type: corev1.NodeReady, Status: tt.status, LastTransitionTime: tt.since},
			}, nodetest.Now)
			if !got.RegisteredTime.Equal(&created) || !got.ReadyTime.Equal(tt.want) {
				t.Errorf("registered %v, Ready %v, want %v", got.RegisteredTime, got.ReadyTime, tt.want)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	issued := []func(*certificatesv1.CertificateSigningRequest){nodetest.Approved(time.Minute), nodetest.WithCertificate}
	denied := nodetest.Decided(certificatesv1.CertificateDenied, time.Minute)
	before := append(issued, func(r *certificatesv1.CertificateSigningRequest) { // with a token of an earlier wait
		r.Spec.Username = "system:bootstrap:" + nodetest.NthID(7)
		r.Status.Conditions[0].LastUpdateTime = nodetest.Ago(2 * time.Hour)
	})
	for name, tt := range map[string]struct {
		requests []*certificatesv1.CertificateSigningRequest
		want     string
	}{
		"none":                                  {nil, ""},
		"denied":                                {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, 0, denied)}, ""},
		"from before the wait":                  {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, 0, before...)}, ""},
		"pending, before a denied one":          {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, time.Minute), nodetest.Request("b", 1, 0, denied)}, "a"},
		"approved, before a pending one":        {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, time.Minute, nodetest.Approved(0)), nodetest.Request("b", 1, 0)}, "a"},
		"issued, before an approved one":        {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, time.Minute, issued...), nodetest.Request("b", 1, 0, nodetest.Approved(0))}, "a"},
		"the newest of several that are issued": {[]*certificatesv1.CertificateSigningRequest{nodetest.Request("a", 1, time.Minute, issued...), nodetest.Request("b", 1, 0, issued...)}, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nodetest.StatusOf(1, time.Hour)
			s.Tokens = []v1alpha1.LiveToken{{ID: nodetest.NthID(1)}}
			got := steps.Request(&s, tt.requests)
			if (got == nil) != (tt.want == "") || got != nil && got.Name != tt.want {
				t.Errorf("got %v, want %q", got, tt.want)
			}
		})
	}
	var times v1alpha1.JoinTimes
	if steps.OfRequest(&times, nil); times.RequestedTime != nil {
		t.Error("no CSR shows a step")
	}
}

func TestWaits(t *testing.T) {
	registered := nodetest.Ago(time.Hour)
	awaited, serving := nodetest.NodeBootstrap(), nodetest.NodeBootstrap()
	awaited.Status = nodetest.StatusOf(1, time.Hour)
	approved := awaited.DeepCopy()
	approved.Status.FirstApprovalTime = new(nodetest.Ago(time.Minute))
	serving.Spec.ServingCertificate.Addresses = []string{nodetest.NodeName}
	serving.Status.Join = &v1alpha1.JoinTimes{RegisteredTime: &registered}
	joined := serving.DeepCopy()
	joined.Spec.ServingCertificate.Addresses = nil
	ready := serving.DeepCopy()
	ready.Status.Join.ReadyTime = &registered
	unknown := joined.DeepCopy()
	unknown.Status.Join.RegisteredTime = nil
	member := joined.DeepCopy()
	member.Status.Join = nil
	for name, tt := range map[string]struct {
		nb   *v1alpha1.NodeBootstrap
		now  time.Time
		want []steps.Wait
	}{
		"no CSR":                       {awaited, nodetest.Now, nil},
		"approved":                     {approved, nodetest.Now, []steps.Wait{{Step: steps.Registered, Since: nodetest.Ago(time.Minute).Time}}},
		"joined":                       {joined, nodetest.Now, []steps.Wait{{Step: steps.Ready, Since: registered.Time}}},
		"joined, with addresses":       {serving, nodetest.Now, []steps.Wait{{Step: steps.Ready, Since: registered.Time}, {Step: steps.Serving, Since: registered.Time}}},
		"Ready, with addresses":        {ready, nodetest.Now, []steps.Wait{{Step: steps.Serving, Since: registered.Time}}},
		"a day after its registration": {serving, registered.Add(steps.End), nil},
		"its Node is older":            {unknown, nodetest.Now, nil},
		"joined under an old operator": {member, nodetest.Now, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := steps.Waits(tt.nb, tt.now); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
