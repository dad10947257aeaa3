// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// NodeFacts are what the checks of one node need to know, in addition to the facts of the cluster.
type NodeFacts struct {
	Name string
	// NodeBootstrap is nil if it does not exist.
	NodeBootstrap Read[*v1alpha1.NodeBootstrap]
	// Lease is that of its kubelet; nil if it does not exist.
	Lease Read[*coordinationv1.Lease]
	// Pending are its CSRs that nobody has decided.
	Pending Read[[]Pending]
	// MorePending is how many more of them there are.
	MorePending int
}

// Pending is a CSR without a verdict, and why it has none.
type Pending struct {
	Request *certificatesv1.CertificateSigningRequest
	// Why is what the operator does with it.
	Why string
}

func nodeBootstrap(f *Facts) []Result {
	n := f.Node
	nb := n.NodeBootstrap.Value
	switch {
	case n.NodeBootstrap.Err != nil:
		return unread(n.NodeBootstrap.Err)
	case nb == nil:
		return failed("kubectl get nodebootstraps", "NodeBootstrap %s does not exist", n.Name)
	case nb.Status.ObservedGeneration < nb.Generation:
		return warning("", "the operator has not seen the last change of %s yet: see operator-leading", n.Name)
	}
	return passed("%s exists, and the operator has seen its last change", n.Name)
}

// bad are the statuses of conditions that need attention. Those of kstatus say nothing that Ready does not say.
var bad = []struct {
	condition string
	status    metav1.ConditionStatus
	result    Status
}{
	{v1alpha1.ConditionReady, metav1.ConditionFalse, Failed},
	{v1alpha1.ConditionReady, metav1.ConditionUnknown, Warning},
	{v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, Failed},
	{v1alpha1.ConditionKeyConflict, metav1.ConditionTrue, Failed},
	{v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue, Failed},
	{v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse, Failed},
	{v1alpha1.ConditionApprovalEnforced, metav1.ConditionUnknown, Warning},
	{v1alpha1.ConditionServingCertificateApproved, metav1.ConditionFalse, Failed},
	{v1alpha1.ConditionClientCertificateExpiring, metav1.ConditionTrue, Failed},
}

func conditions(f *Facts) []Result {
	nb := f.Node.NodeBootstrap.Value
	if nb == nil {
		return nil
	}
	if len(nb.Status.Conditions) == 0 {
		return warning("", "the operator has not reported on %s yet: see operator-leading", nb.Name)
	}
	var out []Result
	for _, b := range bad {
		c := meta.FindStatusCondition(nb.Status.Conditions, b.condition)
		if c == nil || c.Status != b.status {
			continue
		}
		r := Result{Status: b.result, Message: c.Type + " is " + string(c.Status) + ", " + c.Reason + ": " + c.Message}
		if r.Status == Failed {
			r.Fix = fixOf(nb, c)
		}
		if c.Type == v1alpha1.ConditionReady && meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionReconciling) {
			r.Status, r.Fix = Warning, "" // the operator is working on it
		}
		out = append(out, r)
	}
	if len(out) > 0 {
		return out
	}
	ready := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil {
		return warning("", "the operator has not reported on %s yet: see operator-leading", nb.Name)
	}
	return passed("Ready is True, %s: %s", ready.Reason, ready.Message)
}

// fixedByReissue are the reasons after which only a reissue helps.
var fixedByReissue = []string{v1alpha1.ReasonKeyReplaced, v1alpha1.ReasonTokenMisused, v1alpha1.ReasonJoinDeadlineExceeded}

// fixOf is what to run about a condition. Its message says more.
func fixOf(nb *v1alpha1.NodeBootstrap, c *metav1.Condition) string {
	if c.Type == v1alpha1.ConditionClientCertificateExpiring {
		return "on the machine: systemctl start kubelet"
	}
	if slices.Contains(fixedByReissue, c.Reason) || c.Type == v1alpha1.ConditionTokenMisused || c.Type == v1alpha1.ConditionKeyConflict {
		return "kubectl nodebootstrap reissue " + nb.Name
	}
	return "kubectl nodebootstrap status " + nb.Name + "   # shows what was decided and what to do"
}

// kubeletSilence is the node-monitor-grace-period of kube-controller-manager, after which a node that does not renew its Lease is not Ready.
const kubeletSilence = 50 * time.Second

// lease is the check whether the kubelet lives.
func lease(f *Facts) []Result {
	n, nb := f.Node, f.Node.NodeBootstrap.Value
	member := nb != nil && meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined)
	const fix = "on the machine: systemctl restart kubelet; journalctl -u kubelet -n 50"
	l := n.Lease.Value
	switch {
	case n.Lease.Err != nil:
		return unread(n.Lease.Err)
	case (l == nil || l.Spec.RenewTime == nil) && member:
		return failed(fix, "the node has joined, and its kubelet has no Lease")
	case l == nil || l.Spec.RenewTime == nil:
		return skipped("no kubelet has worked as this node yet")
	}
	silent := f.ServerTime.Sub(l.Spec.RenewTime.Time)
	if silent > kubeletSilence {
		if !member { // it must join again
			return warning("", "the kubelet renewed its Lease last %s ago", duration.HumanDuration(silent))
		}
		return failed(fix, "the kubelet is down or cannot reach the API server: it renewed its Lease last %s ago", duration.HumanDuration(silent))
	}
	return passed("the kubelet renews its Lease")
}

// certificateWarning is how long before its end a certificate that was not renewed deserves attention: kubelets renew after 70 to 90 % of
// its life, which is a year by default.
const certificateWarning = 30 * 24 * time.Hour

func certificate(f *Facts) []Result {
	nb := f.Node.NodeBootstrap.Value
	if nb == nil {
		return nil
	}
	var began, last time.Time
	if c := nb.Status.ClientCertificate; c != nil {
		began, last = c.StartTime.Time, c.ExpirationTime.Time
	}
	for i := range f.Requests.Value {
		r := &f.Requests.Value[i]
		if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || csr.RequestedNode(r) != f.Node.Name {
			continue
		}
		start, end, err := csr.Validity(r)
		if err == nil && (start.After(began) || start.Equal(began) && end.After(last)) { // times are in whole seconds
			began, last = start, end
		}
	}
	if last.IsZero() && f.Requests.Err != nil {
		return unread(f.Requests.Err)
	}
	left := last.Sub(f.ServerTime)
	fix := "on the machine: systemctl restart kubelet. After the certificate has expired: kubectl nodebootstrap reissue " + f.Node.Name
	switch {
	case last.IsZero():
		return skipped("unknown: the status has none, and no CSR of the node has one")
	case left <= 0:
		return failed("kubectl nodebootstrap reissue "+f.Node.Name, "the last known certificate of the node expired %s ago", duration.HumanDuration(-left))
	case left < certificateWarning:
		return warning(fix, "the last known certificate of the node expires in %s", duration.HumanDuration(left))
	}
	return passed("the last known certificate of the node is valid for %s, until %s", duration.HumanDuration(left), last.UTC().Format(time.DateOnly))
}

func requests(f *Facts) []Result {
	if f.Node.NodeBootstrap.Value == nil {
		return nil
	}
	if f.Node.Pending.Err != nil {
		return unread(f.Node.Pending.Err)
	}
	var out []Result
	for _, p := range f.Node.Pending.Value {
		out = append(out, warning("kubectl nodebootstrap explain "+p.Request.Name, "the CSR %s is pending for %s: %s",
			p.Request.Name, age(f, p.Request.CreationTimestamp.Time), p.Why)...)
	}
	if f.Node.MorePending > 0 {
		out = append(out, warning("kubectl get csr", "%d more CSRs of the node are pending", f.Node.MorePending)...)
	}
	if len(out) > 0 {
		return out
	}
	return passed("no CSR of the node is pending")
}
