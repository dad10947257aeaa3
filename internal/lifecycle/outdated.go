// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// A reissue annotation stays in Git. When a NodeBootstrap is deleted and applied again, last year's annotation, which was handled then,
// must not request another reissue.

// reissueOlder reports whether the NodeBootstrap has no reported status yet and its reissue annotation is a time before its creation.
func (f *Facts) reissueOlder() bool {
	nb := f.NodeBootstrap
	if meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionJoined) != nil || nb.Status.LastHandledReissueAt != "" { // every report has Joined
		return false
	}
	at, err := time.Parse(time.RFC3339, nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation])
	return err == nil && at.Before(nb.CreationTimestamp.Time)
}

// ReissueOutdated reports whether the reissue counts as handled: it is older than the NodeBootstrap, and the node is a member.
func (f *Facts) ReissueOutdated() bool {
	return f.Node != nil && f.reissueOlder() && f.kubeletWorks()
}
