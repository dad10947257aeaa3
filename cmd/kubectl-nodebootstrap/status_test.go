// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestDescribe(t *testing.T) {
	decided := func(nb *v1alpha1.NodeBootstrap) {
		at := metav1.NewTime(start.Add(time.Minute))
		nb.Status.Certificates = []v1alpha1.CertificateDecision{
			{Name: "node-csr-a", SignerName: "kubernetes.io/kube-apiserver-client-kubelet", TokenID: "abcdef", KeyFingerprint: "SHA256:00ff",
				Verdict: v1alpha1.VerdictApproved, Reason: "NodeNameMatches", Time: at, IssuedTime: &at},
			{Name: "node-csr-b", SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Verdict: v1alpha1.VerdictDenied, Reason: "OtherNode", Time: at},
		}
		nb.Status.LastHandledReissueAt = "again"
	}
	for name, tc := range map[string]struct {
		nb   *v1alpha1.NodeBootstrap
		want string
	}{
		"awaiting, with decisions": {awaiting(decided, awaitsReissue), `Name:           worker-1
Ready:          True, AwaitingNode
Message:        give the node the kubeconfig
Server:         https://api.example.com:6443
Token:          abcdef, expires 2126-11-02T12:00:00Z (in 23h)
Kubeconfig:     Secret nodebootstrap-system/bootstrap-kubeconfig-worker-1
Awaited since:  2126-11-01T12:00:00Z (10m ago)
Reissue:        requested at again, handled
Conditions:
  Type    Status  Reason        For  Message
  Ready   True    AwaitingNode  10m  give the node the kubeconfig
  Joined  False   AwaitingNode  10m  the node has not joined yet
Certificate requests:
  node-csr-a
    Decision:  Approved, NodeNameMatches, 2126-11-01T12:01:00Z (9m ago)
    Signer:    kubernetes.io/kube-apiserver-client-kubelet
    Token:     abcdef
    Key:       SHA256:00ff
    Issued:    2126-11-01T12:01:00Z (9m ago)
  node-csr-b
    Decision:  Denied, OtherNode, 2126-11-01T12:01:00Z (9m ago)
    Signer:    kubernetes.io/kube-apiserver-client-kubelet
    Token:     none
    Key:       none
`},
		"new": {awaiting(isNew, awaitsReissue), `Name:        worker-1
Ready:       Unknown
Message:     the operator has not reported on it yet: is it running?
Server:      none
Token:       none
Kubeconfig:  none
Reissue:     requested at again, not handled yet
Conditions:  none
Certificate requests:  none
`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := describe(tc.nb, start.Add(10*time.Minute)); got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

// An alarm comes before everything about the credential.
func TestDescribeReportsAnAlarm(t *testing.T) {
	got := describe(awaiting(func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Conditions = append(nb.Status.Conditions, condition(v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, "SecondKey", "the request csr-b"))
	}), start)
	if want := "Alarm:          SecondKey: the request csr-b\nServer:"; !strings.Contains(got, want) {
		t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
	}
}

// A binding that approves any name was visible only in the list of conditions, next to Ready True.
func TestDescribeWarns(t *testing.T) {
	got := describe(awaiting(func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Conditions = append(nb.Status.Conditions,
			condition(v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse, v1alpha1.ReasonApprovedByOthers, "any name"),
			condition(v1alpha1.ConditionKeyConflict, metav1.ConditionTrue, v1alpha1.ReasonSeveralKeys, "2 keys"))
	}), start)
	if want := "Warning:        SeveralKeys: 2 keys\nWarning:        ApprovedByOthers: any name\nServer:"; !strings.Contains(got, want) {
		t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
	}
	enforced := describe(awaiting(func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Conditions = append(nb.Status.Conditions, condition(v1alpha1.ConditionApprovalEnforced, metav1.ConditionTrue, v1alpha1.ReasonNothingElseApproves, ""))
	}), start)
	if strings.Contains(enforced, "Warning") {
		t.Errorf("it warns without need:\n%s", enforced)
	}
}

func TestStatus(t *testing.T) {
	colourful := func(nb *v1alpha1.NodeBootstrap) { nb.Status.Conditions[0].Message = "\x1b[31mred" }
	r := cluster{objects: []client.Object{awaiting(colourful), publishedSecret()}}.succeeds(t, "status", node)
	mention(t, "the description", r.out, "AwaitingNode", "abcdef", "^[[31mred")
}
