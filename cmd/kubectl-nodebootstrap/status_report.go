// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// nodeStatus is how far a node is, as status prints it.
type nodeStatus struct {
	Name   string `json:"name"`
	Joined bool   `json:"joined"`
	// NeedsAction reports whether action is required. Attention says why, or what else is wrong.
	NeedsAction bool     `json:"needsAction"`
	Attention   []string `json:"attention,omitempty"`
	// Step is the step that the node waits for; empty if all are done.
	Step       string       `json:"step,omitempty"`
	WaitingFor string       `json:"waitingFor,omitempty"`
	Since      *metav1.Time `json:"since,omitempty"`
	Ready      string       `json:"ready"`
	Reason     string       `json:"reason,omitempty"`
	Message    string       `json:"message,omitempty"`
	Steps      []stepStatus `json:"steps"`
	// Request is the CSR that shows how far the node is.
	Request    string                         `json:"request,omitempty"`
	Server     string                         `json:"server,omitempty"`
	Token      *v1alpha1.TokenStatus          `json:"token,omitempty"`
	Kubeconfig *v1alpha1.SecretReference      `json:"kubeconfigSecretRef,omitempty"`
	Reissue    string                         `json:"reissue,omitempty"`
	Conditions []metav1.Condition             `json:"conditions,omitempty"`
	Decisions  []v1alpha1.CertificateDecision `json:"certificates,omitempty"`
	Expires    *v1alpha1.ClientCertificate    `json:"clientCertificate,omitempty"`
	warnings   []warning
}

// stepStatus is a step of a node.
type stepStatus struct {
	Name    string       `json:"name"`
	Done    bool         `json:"done"`
	Time    *metav1.Time `json:"time,omitempty"`
	Seconds *float64     `json:"seconds,omitempty"`
}

// warning is something that a user should see in addition to what the node waits for.
type warning struct {
	label, text string
	// person reports whether action is required.
	person bool
}

// report returns the status of a node, from what was read at a time.
func report(f steps.Facts, nodesForbidden bool, now time.Time) nodeStatus {
	nb := f.NodeBootstrap
	p := steps.Of(f, now)
	s := nodeStatus{
		Name: nb.Name, Joined: p.Joined, Server: nb.Status.Server, Token: nb.Status.Token, Kubeconfig: nb.Status.KubeconfigSecretRef,
		Reissue: reissueText(nb), Conditions: nb.Status.Conditions, Decisions: nb.Status.Certificates, Expires: nb.Status.ClientCertificate,
		warnings: warningsOf(nb, f.Node, p.Joined),
	}
	s.Ready, s.Reason, s.Message = readyCondition(nb)
	if p.Request != nil {
		s.Request = p.Request.Name
	}
	for _, r := range p.Steps {
		step := stepStatus{Name: r.Name, Done: r.Done, Time: r.Time}
		if r.Took != nil {
			seconds := r.Took.Seconds()
			step.Seconds = &seconds
		}
		s.Steps = append(s.Steps, step)
	}
	if current := p.Current(); current != nil {
		var person bool
		s.Step, s.Since = current.Name, &p.Since
		s.WaitingFor, person = waitingFor(f, &p, nodesForbidden)
		s.NeedsAction = person
	}
	for _, w := range s.warnings {
		s.Attention = append(s.Attention, w.label+": "+w.text)
		s.NeedsAction = s.NeedsAction || w.person
	}
	return s
}

// waitingFor says what a node waits for, and whether that is a person.
func waitingFor(f steps.Facts, p *steps.Progress, nodesForbidden bool) (text string, person bool) {
	nb := f.NodeBootstrap
	_, reason, message := readyCondition(nb)
	name := "the request"
	if p.Request != nil {
		name = p.Request.Name
	}
	stalled := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionStalled)
	switch step := p.Current().Name; {
	case steps.PendingReissue(nb) != "":
		return "the operator, to handle the reissue: is it running?", false
	case isOutdated(nb):
		return "the operator, to handle the change of the spec: is it running?", false
	case stalled != nil && stalled.Status == metav1.ConditionTrue:
		return "action is required: " + stalled.Reason + ": " + stalled.Message, true
	case step == steps.Published && reason == "":
		return "the operator, which has not reported on it yet: is it running?", false
	case step == steps.Published:
		return "the operator: " + reason + ": " + message, false
	case step == steps.Requested && reason == v1alpha1.ReasonAwaitingApproval: // the user may not list CSRs
		return "a person: " + message, true
	case step == steps.Requested:
		return "the machine, to send a request: " + message, false
	case step == steps.Approved && nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual:
		return "a person: kubectl certificate approve " + name, true
	case step == steps.Approved && reason == v1alpha1.ReasonAwaitingApproval:
		return "a person, to approve " + name + ": " + message, true
	case step == steps.Approved:
		return "the operator, to decide on " + name, false
	case step == steps.Issued:
		return "the signer, kube-controller-manager, to issue the certificate for " + name, false
	case nodesForbidden:
		return "the node, which you may not get", false
	case step == steps.Registered:
		return "the kubelet, to register the Node", false
	case step == steps.Ready && f.Node != nil:
		_, why := steps.Readiness(f.Node)
		return cmp.Or(why, "the operator, to see that the node uses its certificate"), false
	case step == steps.Serving:
		return servingText(nb), false
	}
	return "the kubelet, to report that the node is Ready", false
}

func servingText(nb *v1alpha1.NodeBootstrap) string {
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionServingCertificateApproved)
	if c == nil || c.Reason == v1alpha1.ReasonAwaitingRequest {
		return "the kubelet, to request its serving certificate (serverTLSBootstrap: true in its configuration)"
	}
	return "a serving certificate: the last request got " + c.Reason + ": " + c.Message
}

// shownConditions are the conditions, except Ready and what it repeats, that a user should see.
var shownConditions = []struct {
	condition string
	status    metav1.ConditionStatus
	label     string
	person    bool
}{
	{v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, "Alarm", true},
	{v1alpha1.ConditionKeyConflict, metav1.ConditionTrue, "Warning", true},
	{v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue, "Warning", true},
	{v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse, "Warning", true},
	{v1alpha1.ConditionClientCertificateExpiring, metav1.ConditionTrue, "Warning", true},
}

// isOutdated reports whether a status is about an older spec.
func isOutdated(nb *v1alpha1.NodeBootstrap) bool {
	return nb.Status.ObservedGeneration < nb.Generation && len(nb.Status.Conditions) > 0
}

func warningsOf(nb *v1alpha1.NodeBootstrap, node *corev1.Node, joined bool) []warning {
	var out []warning
	if isOutdated(nb) {
		out = append(out, warning{"Warning", "the spec was changed, and the operator has not handled that yet: is it running? What follows is about the spec before", false})
	}
	for _, w := range shownConditions {
		c := meta.FindStatusCondition(nb.Status.Conditions, w.condition)
		if c != nil && c.Status == w.status {
			wanted := c.Reason == v1alpha1.ReasonApprovalClusterWide // it is what the spec says
			out = append(out, warning{w.label, c.Reason + ": " + c.Message, w.person && !wanted})
		}
	}
	for _, c := range nb.Status.Conditions {
		refused := c.Type == v1alpha1.ConditionServingCertificateApproved && c.Reason != v1alpha1.ReasonAwaitingRequest
		alive := c.Type == v1alpha1.ConditionJoined && c.Reason == v1alpha1.ReasonNodeAlive
		if c.Status == metav1.ConditionFalse && (refused || alive) {
			out = append(out, warning{"Warning", c.Reason + ": " + c.Message, true})
		}
	}
	if joined && node != nil {
		if ready, why := steps.Readiness(node); !ready {
			out = append(out, warning{"Warning", "the Node is not Ready: " + why, false})
		}
	}
	return out
}

// statusList is what status prints without a name.
type statusList struct {
	// Nodes are waiting, or require action, which come first.
	Nodes  []nodeStatus `json:"nodes"`
	Joined int          `json:"joined"`
}

// summarize orders nodes: those that require action come first, then those that have waited longest. Joined ones are only counted.
func summarize(all []nodeStatus) statusList {
	list := statusList{Nodes: []nodeStatus{}}
	for _, s := range all {
		if s.Joined {
			list.Joined++
		}
		if !s.Joined || s.NeedsAction {
			list.Nodes = append(list.Nodes, s)
		}
	}
	slices.SortStableFunc(list.Nodes, func(a, b nodeStatus) int {
		if a.NeedsAction != b.NeedsAction {
			return map[bool]int{true: -1, false: 1}[a.NeedsAction]
		}
		return cmp.Or(compareTimes(a.Since, b.Since), strings.Compare(a.Name, b.Name))
	})
	return list
}

// compareTimes sorts earlier times first, and none last.
func compareTimes(a, b *metav1.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(b.Time)
}

// headline is the most important thing about a node, in one line.
func (s *nodeStatus) headline() string {
	text := s.WaitingFor
	for _, w := range slices.Backward(s.warnings) {
		if w.person {
			text = w.label + ": " + w.text
		}
	}
	return oneLine(text)
}

// oneLine keeps a message, which others can influence, from looking like several lines.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func ago(t metav1.Time, now time.Time) string { return duration.HumanDuration(max(now.Sub(t.Time), 0)) }

func reissueText(nb *v1alpha1.NodeBootstrap) string {
	if pending := steps.PendingReissue(nb); pending != "" {
		return "requested at " + pending + ", not handled yet"
	}
	if handled := nb.Status.LastHandledReissueAt; handled != "" {
		return "requested at " + handled + ", handled"
	}
	return ""
}

// stamp returns a time and its distance from now.
func stamp(t metav1.Time, now time.Time) string {
	text := t.UTC().Format(time.RFC3339)
	if d := t.Sub(now); d > 0 {
		return text + " (in " + duration.HumanDuration(d) + ")"
	}
	return fmt.Sprintf("%s (%s ago)", text, ago(t, now))
}
