// SPDX-License-Identifier: Apache-2.0

// Package steps knows the steps of a join, and reads from the objects of a node when each was done. The operator's metrics and the plugin
// share it.
package steps

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The steps of a join, in their order, except that a node may serve before it is Ready.
const (
	// Published means: the node's credential is available.
	Published = "published"
	// Requested means: the machine has sent the CSR to which its certificate is issued.
	Requested = "requested"
	// Approved means: that CSR is approved.
	Approved = "approved"
	// Issued means: it has its certificate.
	Issued = "issued"
	// Registered means: the Node exists.
	Registered = "registered"
	// Ready means: the Node is Ready.
	Ready = "ready"
	// Serving means: a serving certificate of the node is approved.
	Serving = "serving"
)

// A Step is when a step was done.
type Step struct {
	// Name is one of the constants.
	Name string
	// After is the step that must be done before this one can begin; empty for the first one.
	After string
	// Time is nil if it is not known, or not yet.
	Time *metav1.Time
}

// List is all steps of a join in their order. It accepts nil.
func List(t *v1alpha1.JoinTimes) []Step {
	if t == nil {
		t = &v1alpha1.JoinTimes{}
	}
	return []Step{
		{Published, "", t.PublishedTime},
		{Requested, Published, t.RequestedTime},
		{Approved, Requested, t.ApprovedTime},
		{Issued, Approved, t.IssuedTime},
		{Registered, Issued, t.RegisteredTime},
		{Ready, Registered, t.ReadyTime},
		{Serving, Registered, t.ServingTime},
	}
}

// Time is when a step was done; nil if that is not known.
func Time(t *v1alpha1.JoinTimes, name string) *metav1.Time {
	for _, s := range List(t) {
		if s.Name == name {
			return s.Time
		}
	}
	return nil
}

// PublishedAt is since when the credential of an awaited node is available; nil if it is not.
func PublishedAt(s *v1alpha1.NodeBootstrapStatus) *metav1.Time {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionCredentialsAvailable)
	if c == nil || c.Status != metav1.ConditionTrue {
		return nil
	}
	return &c.LastTransitionTime
}

// Request is the one of a node's CSRs for client certificates that shows how far the current wait is: the newest that has its certificate,
// otherwise the newest that is approved, otherwise the newest without a verdict. It is nil if there is none.
func Request(s *v1alpha1.NodeBootstrapStatus, all []*certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	var best *certificatesv1.CertificateSigningRequest
	progress := 0
	for _, r := range csr.NewestFirst(all) {
		at, approved := csr.ApprovedAt(r)
		if !approved {
			at = r.CreationTimestamp
		}
		got := 0
		switch {
		case !decisions.InCurrentWait(s, token.IDOfUser(r.Spec.Username), at):
		case approved && csr.Issued(r):
			got = 3
		case approved && csr.Condition(r, certificatesv1.CertificateFailed) == nil:
			got = 2
		case csr.Undecided(r):
			got = 1
		}
		if got > progress {
			best, progress = r, got
		}
	}
	return best
}

// OfRequest enters the steps that a node's CSR shows. It accepts nil.
func OfRequest(t *v1alpha1.JoinTimes, r *certificatesv1.CertificateSigningRequest) {
	if r == nil {
		return
	}
	t.RequestedTime = &r.CreationTimestamp
	if at, approved := csr.ApprovedAt(r); approved {
		t.ApprovedTime = &at
	}
	t.IssuedTime = csr.IssuedAt(r)
}

// OfNode enters when the Node was created, and since when it is Ready, as it was read at a time. The node's own clock has written the
// latter: it is moved between the creation and now.
func OfNode(t *v1alpha1.JoinTimes, created metav1.Time, conditions []corev1.NodeCondition, now time.Time) {
	t.RegisteredTime = &created
	for _, c := range conditions {
		if c.Type != corev1.NodeReady || c.Status != corev1.ConditionTrue {
			continue
		}
		ready := metav1.NewTime(now.Truncate(time.Second))
		if c.LastTransitionTime.Before(&ready) {
			ready = c.LastTransitionTime
		}
		if ready.Before(&created) {
			ready = created
		}
		t.ReadyTime = &ready
	}
}

// End is how long after a Node's registration the steps that come after it are awaited. A Node that is not Ready by then is no longer joining.
const End = 24 * time.Hour

// A Wait is a step that a node waits for.
type Wait struct {
	// Step is one of the constants.
	Step string
	// Since is when the step before it was done.
	Since time.Time
}

// Waits are the steps that a node waits for at a time, as far as the status shows: for its registration since the approval of a CSR, and since
// then for being Ready and serving. A machine that has not sent a CSR yet waits for nothing.
func Waits(nb *v1alpha1.NodeBootstrap, now time.Time) []Wait {
	s := &nb.Status
	if s.AwaitingSince != nil {
		if s.FirstApprovalTime != nil {
			return []Wait{{Registered, s.FirstApprovalTime.Time}}
		}
		return nil
	}
	if s.Join == nil || s.Join.RegisteredTime == nil || !now.Before(s.Join.RegisteredTime.Add(End)) {
		return nil
	}
	var out []Wait
	if s.Join.ReadyTime == nil {
		out = append(out, Wait{Ready, s.Join.RegisteredTime.Time})
	}
	if s.Join.ServingTime == nil && len(nb.Spec.ServingCertificate.Addresses) > 0 {
		out = append(out, Wait{Serving, s.Join.RegisteredTime.Time})
	}
	return out
}
