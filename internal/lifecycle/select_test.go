// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

func TestLeaseRenewed(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	held := func(ago time.Duration, fields string) metav1.ManagedFieldsEntry {
		at := metav1.NewTime(now.Add(-ago))
		return metav1.ManagedFieldsEntry{Manager: "kubelet", Time: &at, FieldsV1: metav1.NewFieldsV1(fields)}
	}
	const renewTime, other = `{"f:spec":{"f:renewTime":{}}}`, `{"f:metadata":{"f:labels":{}}}`
	inAnHour := metav1.NewMicroTime(now.Add(time.Hour))
	tests := map[string]struct {
		renewTime *metav1.MicroTime
		managed   []metav1.ManagedFieldsEntry
		want      time.Time
	}{
		"a node with a fast clock":        {&inAnHour, []metav1.ManagedFieldsEntry{held(time.Minute, renewTime)}, now.Add(-time.Minute)},
		"another client labels the Lease": {&inAnHour, []metav1.ManagedFieldsEntry{held(time.Minute, renewTime), held(0, other)}, now.Add(-time.Minute)},
		"another kubelet had it first":    {&inAnHour, []metav1.ManagedFieldsEntry{held(time.Minute, renewTime), held(time.Hour, renewTime)}, now.Add(-time.Minute)},
		"no managed fields":               {&inAnHour, nil, inAnHour.Time},
		"an entry without fields":         {&inAnHour, []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}, inAnHour.Time},
		"never":                           {nil, []metav1.ManagedFieldsEntry{held(0, other)}, time.Time{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{ManagedFields: tt.managed}, Spec: coordinationv1.LeaseSpec{RenewTime: tt.renewTime}}
			if got := lifecycle.LeaseRenewed(l); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
