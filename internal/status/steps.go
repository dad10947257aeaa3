// SPDX-License-Identifier: Apache-2.0

package status

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// steps enters when the steps of the join were done: most of them when the node joins, and later those that come after it.
func (r *report) steps() {
	switch {
	case r.old.AwaitingSince != nil:
		r.new.Join = r.joinTimes()
	case r.new.Join != nil:
		r.laterSteps(r.new.Join)
	}
}

// joinTimes are the steps of a join that this reconcile reports; nil if no certificate of the current wait is known, so that the node was
// a member already or joined in another way.
func (r *report) joinTimes() *v1alpha1.JoinTimes {
	t := &v1alpha1.JoinTimes{ApprovedTime: r.old.FirstApprovalTime}
	if request := r.f.JoinedWith(); request != nil {
		steps.OfRequest(t, request)
	}
	if t.ApprovedTime == nil || r.f.Node == nil {
		return nil
	}
	t.PublishedTime = steps.PublishedAt(r.old)
	if created := r.f.Node.CreationTimestamp; !created.Before(t.ApprovedTime) { // otherwise it was created in advance, or is from before a reissue
		t.RegisteredTime = &created
		r.laterSteps(t)
	}
	return t
}

// laterSteps enters the steps that can come after the join.
func (r *report) laterSteps(t *v1alpha1.JoinTimes) {
	if t.RegisteredTime == nil {
		return
	}
	if t.ReadyTime == nil {
		steps.OfNode(t, *t.RegisteredTime, r.f.NodeConditions, r.now)
	}
	if t.ServingTime == nil {
		t.ServingTime = r.firstServing(*t.RegisteredTime)
	}
}

// firstServing is when the first serving certificate since a time was approved; nil if none was.
func (r *report) firstServing(since metav1.Time) *metav1.Time {
	var first *metav1.Time
	for _, d := range r.new.Certificates {
		if decisions.OfServing(d) && d.Verdict == v1alpha1.VerdictApproved && !d.Time.Before(&since) && (first == nil || d.Time.Before(first)) {
			first = &d.Time
		}
	}
	return first
}
