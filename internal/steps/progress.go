// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Facts are the objects that show how far a node is.
type Facts struct {
	// NodeBootstrap is required.
	NodeBootstrap *v1alpha1.NodeBootstrap
	// Requests can be all CSRs of the cluster, or none if they are not known.
	Requests []certificatesv1.CertificateSigningRequest
	// Node is nil if it does not exist or is not known.
	Node *corev1.Node
}

// Progress is how far a node is.
type Progress struct {
	// Joined reports whether the node has joined and no reissue is pending.
	Joined bool
	// Steps are those of this node: serving is among them only if addresses are declared.
	Steps []Reached
	// Request is the CSR that shows how far the node is; nil if none was sent, or it is not known.
	Request *certificatesv1.CertificateSigningRequest
	// Since is since when the node waits for its current step.
	Since metav1.Time
}

// Reached is whether and when a node has done a step.
type Reached struct {
	Name string
	Done bool
	// Time is nil if it is not known.
	Time *metav1.Time
	// Took is the time since the step before; nil if one of the two times is not known.
	Took *time.Duration
}

// Current is the first step that is not done; nil if all are.
func (p *Progress) Current() *Reached {
	i := slices.IndexFunc(p.Steps, func(r Reached) bool { return !r.Done })
	if i < 0 {
		return nil
	}
	return &p.Steps[i]
}

// Has reports whether a step is done.
func (p *Progress) Has(name string) bool {
	return slices.ContainsFunc(p.Steps, func(r Reached) bool { return r.Name == name && r.Done })
}

// Of returns how far a node is, from what was read at a time.
func Of(f Facts, now time.Time) Progress {
	nb := f.NodeBootstrap
	p := Progress{Joined: IsMember(nb)}
	var times v1alpha1.JoinTimes
	done := map[string]bool{}
	switch {
	case PendingReissue(nb) != "": // the status is that of the wait before
	case p.Joined:
		if nb.Status.Join != nil {
			times = *nb.Status.Join.DeepCopy()
		}
		done[Registered] = true
		ofNode(&times, f.Node, now)
		ofServing(&times, nb)
	default:
		p.Request = Request(&nb.Status, sentBy(nb, f.Requests))
		times.PublishedTime = PublishedAt(&nb.Status)
		OfRequest(&times, p.Request)
		done[Issued] = p.Request != nil && len(p.Request.Status.Certificate) > 0
		ofRecord(&times, done, &nb.Status)
		if f.Node != nil && nb.Status.AwaitingSince != nil && !f.Node.CreationTimestamp.Before(nb.Status.AwaitingSince) {
			ofNode(&times, f.Node, now)
			ofServing(&times, nb)
		} else if f.Node != nil { // it can be the one of the machine before, and be Ready
			done[Registered] = done[Issued]
		}
	}
	p.list(nb, &times, done)
	return p
}

// PendingReissue is the requested reissue that the operator has not handled yet; empty if there is none.
func PendingReissue(nb *v1alpha1.NodeBootstrap) string {
	if want := token.Reissue(nb); want != token.NormalReissue(nb.Status.LastHandledReissueAt) {
		return want
	}
	return ""
}

// IsMember reports whether a node has joined and no reissue is pending. Its credential is deleted then.
func IsMember(nb *v1alpha1.NodeBootstrap) bool {
	return meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined) && PendingReissue(nb) == ""
}

// sentBy are the CSRs for client certificates that were sent with tokens of a node.
func sentBy(nb *v1alpha1.NodeBootstrap, all []certificatesv1.CertificateSigningRequest) []*certificatesv1.CertificateSigningRequest {
	var out []*certificatesv1.CertificateSigningRequest
	for i := range all {
		id := token.IDOfUser(all[i].Spec.Username)
		own := id != "" && (id == nb.Status.LastTokenID || nb.Status.Token != nil && id == nb.Status.Token.ID ||
			slices.ContainsFunc(nb.Status.Tokens, func(t v1alpha1.LiveToken) bool { return t.ID == id }) ||
			slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.TokenID == id }))
		if own && all[i].Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
			out = append(out, &all[i])
		}
	}
	return out
}

// ofRecord enters what the status records of CSRs that no longer exist, or that are not known.
func ofRecord(t *v1alpha1.JoinTimes, done map[string]bool, s *v1alpha1.NodeBootstrapStatus) {
	if s.JoinProofTime != nil {
		done[Issued] = true
	}
	if t.ApprovedTime == nil {
		t.ApprovedTime = s.FirstApprovalTime
	}
}

// ofNode enters what a Node shows and is not recorded.
func ofNode(t *v1alpha1.JoinTimes, node *corev1.Node, now time.Time) {
	if node == nil {
		return
	}
	var shown v1alpha1.JoinTimes
	OfNode(&shown, node.CreationTimestamp, node.Status.Conditions, now)
	if t.RegisteredTime == nil {
		t.RegisteredTime = shown.RegisteredTime
	}
	if t.ReadyTime == nil {
		t.ReadyTime = shown.ReadyTime
	}
}

func ofServing(t *v1alpha1.JoinTimes, nb *v1alpha1.NodeBootstrap) {
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionServingCertificateApproved)
	if t.ServingTime == nil && c != nil && c.Status == metav1.ConditionTrue {
		t.ServingTime = &c.LastTransitionTime
	}
}

// list enters the steps. What was done before a step that is done is done, too.
func (p *Progress) list(nb *v1alpha1.NodeBootstrap, times *v1alpha1.JoinTimes, done map[string]bool) {
	all := List(times)
	if len(nb.Spec.ServingCertificate.Addresses) == 0 {
		all = slices.DeleteFunc(all, func(s Step) bool { return s.Name == Serving })
	}
	for _, s := range slices.Backward(all) {
		done[s.Name] = done[s.Name] || s.Time != nil
		if done[s.Name] && s.After != "" {
			done[s.After] = true
		}
	}
	for _, s := range all {
		r := Reached{Name: s.Name, Done: done[s.Name], Time: s.Time}
		if before := Time(times, s.After); s.Time != nil && before != nil {
			took := max(s.Time.Sub(before.Time), 0)
			r.Took = &took
		}
		p.Steps = append(p.Steps, r)
	}
	if current := p.Current(); current != nil {
		p.Since = begin(nb)
		i := slices.IndexFunc(all, func(s Step) bool { return s.Name == current.Name })
		if before := lastBefore(all, all[i].After); before != nil && !before.Before(&p.Since) {
			p.Since = *before
		}
	}
}

// begin is when the wait for a node began.
func begin(nb *v1alpha1.NodeBootstrap) metav1.Time {
	if at, err := time.Parse(time.RFC3339, PendingReissue(nb)); err == nil {
		return metav1.NewTime(at)
	}
	if nb.Status.AwaitingSince != nil {
		return *nb.Status.AwaitingSince
	}
	return nb.CreationTimestamp
}

// lastBefore is when a step, or the last one before it whose time is known, was done.
func lastBefore(all []Step, name string) *metav1.Time {
	for name != "" {
		i := slices.IndexFunc(all, func(s Step) bool { return s.Name == name })
		if all[i].Time != nil {
			return all[i].Time
		}
		name = all[i].After
	}
	return nil
}

// Readiness returns whether a Node is Ready, and if it is not, why.
func Readiness(node *corev1.Node) (ready bool, why string) {
	for _, c := range node.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.Status == corev1.ConditionTrue:
			return true, ""
		case strings.Contains(c.Message, "NetworkPluginNotReady"):
			return false, c.Message + " (the node needs the cluster's network plugin, CNI)"
		default:
			return false, c.Reason + ": " + c.Message
		}
	}
	return false, "the kubelet has not reported yet"
}
