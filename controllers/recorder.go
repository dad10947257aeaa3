// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
)

// Normal events in a second, and at once. Each is a write, and a node's credential takes three.
const (
	normalEventsPerSecond = 1
	normalEventsAtOnce    = 50
)

// rateLimitedRecorder leaves Normal events out when there are very many. They are for whoever watches a few nodes join: conditions and
// status.certificates say the same, and stay. Warnings are always emitted.
type rateLimitedRecorder struct {
	events.EventRecorder
	normal flowcontrol.PassiveRateLimiter
}

func newRateLimitedRecorder(r events.EventRecorder) *rateLimitedRecorder {
	return &rateLimitedRecorder{r, flowcontrol.NewTokenBucketPassiveRateLimiter(normalEventsPerSecond, normalEventsAtOnce)}
}

// Eventf implements events.EventRecorder.
func (r *rateLimitedRecorder) Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any) {
	if eventType != corev1.EventTypeNormal || r.normal.TryAccept() {
		r.EventRecorder.Eventf(regarding, related, eventType, reason, action, note, args...)
	}
}
