// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

// awaitingMessage is why a node with a valid credential has not joined yet, by the last decision on its CSRs in the current wait.
func (r *report) awaitingMessage() string {
	d := r.lastDecision()
	switch {
	case d == nil:
	case d.Verdict == v1alpha1.VerdictDenied && d.Reason == decisions.ReasonDeniedElsewhere:
		return fmt.Sprintf("last CSR %s was denied: %s: someone else did that, and no certificate is issued to it: find out who. A kubelet that is "+
			"restarted sends the next CSR", d.Name, saidOf(d))
	case d.Verdict == v1alpha1.VerdictDenied:
		return fmt.Sprintf("last CSR %s was denied: %s: see docs/troubleshooting.md", d.Name, saidOf(d))
	case d.IssuedTime == nil:
	case r.f.Node != nil:
		return fmt.Sprintf("CSR %s was issued at %s: waiting for the kubelet to use its certificate", d.Name, stampOf(d))
	case r.now.Before(d.IssuedTime.Add(lifecycle.JoinSoon)):
		return fmt.Sprintf("CSR %s was issued at %s: waiting for the kubelet to register its Node", d.Name, stampOf(d))
	default:
		return fmt.Sprintf("CSR %s was issued at %s, but no Node registered; see the kubelet's log for \"Unable to register node\", and its "+
			"configuration for registerNode: false", d.Name, stampOf(d))
	}
	return fmt.Sprintf("give the node the kubeconfig in the Secret %s/%s", r.f.Namespace, owned.KubeconfigSecretName(r.f.Name))
}

// lastDecision is the newest decision on a client certificate in the current wait; among several in the same second an approval. It is
// nil if none was decided.
func (r *report) lastDecision() *v1alpha1.CertificateDecision {
	var last *v1alpha1.CertificateDecision
	for i := range r.new.Certificates {
		d := &r.new.Certificates[i]
		if d.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || d.TokenID == "" || d.Verdict == v1alpha1.VerdictIgnored || !r.isOfThisWait(d) {
			continue
		}
		if last == nil || d.Time.After(last.Time.Time) || d.Time.Equal(&last.Time) && d.Verdict == v1alpha1.VerdictApproved {
			last = d
		}
	}
	return last
}

func (r *report) isOfThisWait(d *v1alpha1.CertificateDecision) bool {
	s := r.new
	return s.Token != nil && s.Token.ID == d.TokenID || s.AwaitingSince != nil && d.Time.After(s.AwaitingSince.Time)
}

// saidOf is the reason of a decision and its message, if it has one.
func saidOf(d *v1alpha1.CertificateDecision) string {
	if d.Message == "" {
		return d.Reason
	}
	return d.Reason + ": " + d.Message
}

func stampOf(d *v1alpha1.CertificateDecision) string {
	return d.IssuedTime.UTC().Format(time.RFC3339)
}
