// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// countingRecorder counts events by their type.
type countingRecorder map[string]int

func (r countingRecorder) Eventf(_, _ runtime.Object, eventType, _, _, _ string, _ ...any) {
	r[eventType]++
}

func TestRateLimitedRecorder(t *testing.T) {
	const many = 10 * normalEventsAtOnce
	counts := countingRecorder{}
	r := newRateLimitedRecorder(counts)
	for range many {
		r.Eventf(nil, nil, corev1.EventTypeNormal, "Published", "Reconciled", "")
		r.Eventf(nil, nil, corev1.EventTypeWarning, "TokenMisused", "Reported", "")
	}
	// The test can take a few seconds.
	if n := counts[corev1.EventTypeNormal]; n < normalEventsAtOnce || n > many/2 {
		t.Errorf("%d of %d normal events are emitted, want about %d", n, many, normalEventsAtOnce)
	}
	if n := counts[corev1.EventTypeWarning]; n != many {
		t.Errorf("%d of %d warnings are emitted", n, many)
	}
}
