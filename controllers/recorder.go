// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
)

// The rate of Normal events, and their burst. Each event is a write, and the credential of a node causes three.
const (
	normalEventsPerSecond = 1
	normalEventsAtOnce    = 50
)

// rateLimitedRecorder drops Normal events above a rate. They help people who watch a few nodes join; conditions and
// status.certificates report the same, and stay. Warnings are always emitted.
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
