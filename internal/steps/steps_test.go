// SPDX-License-Identifier: Apache-2.0

package steps_test

import (
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
		"not Ready":                                {corev1.ConditionFalse, nodetest.Ago(time.Minute), nil},
		"unknown":                                  {corev1.ConditionUnknown, nodetest.Ago(time.Minute), nil},
		"Ready":                                    {corev1.ConditionTrue, nodetest.Ago(time.Minute), new(nodetest.Ago(time.Minute))},
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
