// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Deleting a member's NodeBootstrap and applying it again with last year's annotation created a new live credential.
func TestOldReissueReopensNoMember(t *testing.T) {
	const name = "old-annotation"
	registers(t, name)
	renews(t, name, time.Time{})
	nb := cluster.NodeBootstrap(name)
	old := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: old}
	created := func() int { return len(logged.with(field("msg", "created a token"), field("node", name))) }
	before := created()
	cluster.Create(t, nb)
	got := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	if got.Status.LastHandledReissueAt != old || got.Status.LastTokenID != "" {
		t.Errorf("handled is %q, and the last token %q", got.Status.LastHandledReissueAt, got.Status.LastTokenID)
	}
	if created() > before {
		t.Error("a token was created")
	}
	// A new value requests a reissue as usual.
	reissue(t, name, time.Now().UTC().Format(time.RFC3339))
}

// The same without a member: the machine needs a credential, and the old value counts as handled with it.
func TestOldReissueOfAnAwaitedNode(t *testing.T) {
	const name = "old-annotation-awaited"
	nb := cluster.NodeBootstrap(name)
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "2020-01-01T00:00:00Z"}
	cluster.Create(t, nb)
	if got, _ := cluster.WaitAwaited(t, name); got.Status.LastHandledReissueAt != "2020-01-01T00:00:00Z" {
		t.Errorf("handled is %q", got.Status.LastHandledReissueAt)
	}
}
