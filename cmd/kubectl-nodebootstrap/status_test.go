// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

func at(after time.Duration) metav1.Time { return metav1.NewTime(start.Add(after)) }

func isPublished(nb *v1alpha1.NodeBootstrap) {
	nb.Status.Tokens = []v1alpha1.LiveToken{{ID: "abcdef"}}
	nb.Status.Conditions = append(nb.Status.Conditions, condition(v1alpha1.ConditionCredentialsAvailable, metav1.ConditionTrue, v1alpha1.ReasonPublished, ""))
}

func isManual(nb *v1alpha1.NodeBootstrap) {
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
}

func declares(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{node} }

// sent is a CSR that was sent with the token, some time after the start.
func sent(after time.Duration, conditions ...certificatesv1.CertificateSigningRequestCondition) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "node-csr-a", UID: "a", CreationTimestamp: at(after)},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Username: "system:bootstrap:abcdef", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName},
		Status:     certificatesv1.CertificateSigningRequestStatus{Conditions: conditions},
	}
}

func sentWith(tokenID string) *certificatesv1.CertificateSigningRequest {
	r := sent(time.Minute)
	r.Spec.Username = "system:bootstrap:" + tokenID
	return r
}

func approvedAfter(after time.Duration) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, LastTransitionTime: at(after), LastUpdateTime: at(after)}
}

func issuedAfter(r *certificatesv1.CertificateSigningRequest, after time.Duration) *certificatesv1.CertificateSigningRequest {
	time := at(after)
	r.Status.Certificate = []byte("certificate")
	r.ManagedFields = []metav1.ManagedFieldsEntry{{Subresource: "status", Time: &time}}
	return r
}

func registered(after time.Duration, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node, CreationTimestamp: at(after)},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: ready, Reason: "KubeletNotReady", Message: "no CNI", LastTransitionTime: at(after + 5*time.Second)}}},
	}
}

func describeFacts(f steps.Facts, wide bool) string {
	s := report(f, false, start.Add(10*time.Minute))
	return describe(&s, wide, start.Add(10*time.Minute))
}

func TestDescribe(t *testing.T) {
	decided := func(nb *v1alpha1.NodeBootstrap) {
		at := at(time.Minute)
		nb.Status.Certificates = []v1alpha1.CertificateDecision{
			{Name: "node-csr-a", SignerName: "kubernetes.io/kube-apiserver-client-kubelet", TokenID: "abcdef", KeyFingerprint: "SHA256:00ff",
				Verdict: v1alpha1.VerdictApproved, Reason: "NodeNameMatches", Time: at, IssuedTime: &at},
			{Name: "node-csr-b", SignerName: "kubernetes.io/kube-apiserver-client-kubelet", Verdict: v1alpha1.VerdictDenied, Reason: "OtherNode", Message: "it is\nanother", Time: at},
		}
		nb.Status.LastHandledReissueAt = "again"
	}
	for name, tc := range map[string]struct {
		facts steps.Facts
		wide  bool
		want  string
	}{
		"awaiting, with decisions": {steps.Facts{NodeBootstrap: awaiting(isPublished, decided, awaitsReissue)}, false, `Name:        worker-1
Ready:       True, AwaitingNode
Message:     give the node the kubeconfig
Server:      https://api.example.com:6443
Token:       abcdef, expires 2126-11-02T12:00:00Z (in 23h)
Kubeconfig:  Secret nodebootstrap-system/bootstrap-kubeconfig-worker-1
Reissue:     requested at again, handled
Steps:
  ✔ published   2126-11-01T12:00:00Z
  … requested   waiting for 10m: the machine, to send a request: give the node the kubeconfig
    approved
    issued
    registered
    ready
Conditions:
  Type                  Status  Reason        For  Message
  Ready                 True    AwaitingNode  10m  give the node the kubeconfig
  Joined                False   AwaitingNode  10m  the node has not joined yet
  CredentialsAvailable  True    Published     10m  
Certificate requests:
  Name        Decision  Reason           Age  Message
  node-csr-a  Approved  NodeNameMatches  9m
  node-csr-b  Denied    OtherNode        9m  it is another
`},
		"new": {steps.Facts{NodeBootstrap: awaiting(isNew, awaitsReissue)}, true, `Name:        worker-1
Ready:       Unknown
Message:     the operator has not reported on it yet: is it running?
Server:      none
Token:       none
Kubeconfig:  none
Reissue:     requested at again, not handled yet
Steps:
  … published   waiting for 10m: the operator, to handle the reissue: is it running?
    requested
    approved
    issued
    registered
    ready
Conditions:  none
Certificate requests:  none
`},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.facts.NodeBootstrap.CreationTimestamp.IsZero() {
				tc.facts.NodeBootstrap.CreationTimestamp = at(0)
			}
			if got := describeFacts(tc.facts, tc.wide); got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
	wide := describeFacts(steps.Facts{NodeBootstrap: awaiting(decided)}, true)
	mention(t, "the wide description", wide, "    Decision:  Approved, NodeNameMatches, 2126-11-01T12:01:00Z (9m ago)", "    Key:       SHA256:00ff", "    Token:     none")
}

// The steps of a join, one after the other.
func TestDescribeSteps(t *testing.T) {
	for name, tc := range map[string]struct {
		facts steps.Facts
		want  string
	}{
		"requested": {steps.Facts{NodeBootstrap: awaiting(isPublished), Requests: []certificatesv1.CertificateSigningRequest{*sent(time.Minute)}},
			"  ✔ requested   2126-11-01T12:01:00Z                                         after 1m0s\n  … approved    waiting for 9m: the operator, to decide on node-csr-a\n"},
		"waiting for a person": {steps.Facts{NodeBootstrap: awaiting(isPublished, isManual), Requests: []certificatesv1.CertificateSigningRequest{*sent(time.Minute)}},
			"  ! approved    waiting for 9m: a person: kubectl certificate approve node-csr-a\n    issued\n"},
		"approved": {steps.Facts{NodeBootstrap: awaiting(isPublished), Requests: []certificatesv1.CertificateSigningRequest{*sent(time.Minute, approvedAfter(62*time.Second))}},
			"after 2s\n  … issued      waiting for 8m58s: the signer, kube-controller-manager, to issue the certificate for node-csr-a\n    registered\n"},
		"issued": {steps.Facts{NodeBootstrap: awaiting(isPublished), Requests: []certificatesv1.CertificateSigningRequest{*issuedAfter(sent(time.Minute, approvedAfter(62*time.Second)), 63*time.Second)}},
			"after 1s\n  … registered  waiting for 8m57s: the kubelet, to register the Node\n    ready\n"},
		"registered": {steps.Facts{NodeBootstrap: awaiting(isPublished), Node: registered(2*time.Minute, corev1.ConditionFalse)},
			"  ✔ requested   done\n  ✔ approved    done\n  ✔ issued      done\n  ✔ registered  2126-11-01T12:02:00Z\n  … ready       waiting for 8m: KubeletNotReady: no CNI\n"},
		"ready": {steps.Facts{NodeBootstrap: awaiting(hasJoined), Node: registered(2*time.Minute, corev1.ConditionTrue)},
			"  ✔ registered  2126-11-01T12:02:00Z  \n  ✔ ready       2126-11-01T12:02:05Z  after 5s\nConditions:"},
		"serving is awaited": {steps.Facts{NodeBootstrap: awaiting(hasJoined, declares), Node: registered(2*time.Minute, corev1.ConditionTrue)},
			"  … serving     waiting for 8m: the kubelet, to request its serving certificate (serverTLSBootstrap: true in its configuration)\nConditions:"},
		"the Node of the machine before": {steps.Facts{NodeBootstrap: awaiting(isPublished), Node: registered(-time.Hour, corev1.ConditionTrue)},
			"  … requested   waiting for 10m: the machine, to send a request: give the node the kubeconfig\n    approved\n    issued\n    registered\n    ready\n"},
		"a request of another token": {steps.Facts{NodeBootstrap: awaiting(isPublished), Requests: []certificatesv1.CertificateSigningRequest{*sentWith("zzzzzz")}},
			"  … requested   waiting for 10m: the machine"},
		"stalled": {steps.Facts{NodeBootstrap: awaiting(isStalled)},
			"Steps:\n  ! published   waiting for"},
	} {
		t.Run(name, func(t *testing.T) {
			got := describeFacts(tc.facts, false)
			squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
			if !strings.Contains(squeeze(got), squeeze(tc.want)) {
				t.Errorf("got:\n%s\nwant in it:\n%s", got, tc.want)
			}
		})
	}
}

// An alarm and a binding that approves any name come before everything about the credential, next to Ready True.
func TestDescribeWarns(t *testing.T) {
	got := describeFacts(steps.Facts{NodeBootstrap: awaiting(isMisused, func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Conditions = append(nb.Status.Conditions,
			condition(v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse, v1alpha1.ReasonApprovedByOthers, "any name"),
			condition(v1alpha1.ConditionKeyConflict, metav1.ConditionTrue, v1alpha1.ReasonSeveralKeys, "2 keys"))
	})}, false)
	if want := "Alarm:       SecondKey: the request csr-b\nWarning:     SeveralKeys: 2 keys\nWarning:     ApprovedByOthers: any name\nServer:"; !strings.Contains(got, want) {
		t.Errorf("got:\n%s\nwant in it:\n%s", got, want)
	}
	enforced := describeFacts(steps.Facts{NodeBootstrap: awaiting(func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Conditions = append(nb.Status.Conditions, condition(v1alpha1.ConditionApprovalEnforced, metav1.ConditionTrue, v1alpha1.ReasonNothingElseApproves, ""))
	})}, false)
	if strings.Contains(enforced, "Warning") {
		t.Errorf("it warns without need:\n%s", enforced)
	}
	mention(t, "a status of an older spec", describeFacts(steps.Facts{NodeBootstrap: awaiting(isEdited)}, false), "Warning:     the spec was changed, and the operator has not handled that yet")
	if list := describeList(summarize([]nodeStatus{report(steps.Facts{NodeBootstrap: awaiting(isEdited)}, false, start)}), false, start); !strings.Contains(list, "to handle the change of the spec") {
		t.Errorf("the list does not say that the status is old:\n%s", list)
	}
}

func TestStatus(t *testing.T) {
	colorful := func(nb *v1alpha1.NodeBootstrap) { nb.Status.Conditions[0].Message = "\x1b[31mred" }
	cl := cluster{objects: []client.Object{awaiting(colorful), publishedSecret()}}
	for _, name := range []string{node, "nodebootstrap/" + node, "nb/" + node, "NodeBootstraps.nodebootstrap.io/" + node} {
		mention(t, "the description", cl.succeeds(t, "status", name).out, "AwaitingNode", "abcdef", "^[[31mred")
	}
}

func named(name string, changes ...func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
	nb := awaiting(changes...)
	nb.Name, nb.CreationTimestamp = name, at(0)
	return nb
}

// Those that require action come first, then those that have waited longest.
func TestStatusOfAll(t *testing.T) {
	later := func(nb *v1alpha1.NodeBootstrap) { nb.Status.AwaitingSince = &metav1.Time{Time: start.Add(time.Hour)} }
	cl := cluster{objects: []client.Object{
		named("a", later), named("b"), named("c", isStalled), named("d", hasJoined), named("e", hasJoined, isMisused), named("f", hasJoined),
	}}
	r := cl.succeeds(t, "status")
	var names []string
	for line := range strings.Lines(r.out) {
		if fields := strings.Fields(strings.TrimPrefix(line, markWarning)); len(fields) > 4 {
			names = append(names, line[:1]+fields[0])
		}
	}
	if got := strings.Join(names, " "); got != " NAME !c !e  b  a" {
		t.Errorf("the order is %q:\n%s", got, r.out)
	}
	mention(t, "the list", r.out, "action is required: ServerUnknown: no API server URL is known", "Alarm: SecondKey: the request csr-b", "3 nodes have joined.")

	var list statusList
	if err := json.Unmarshal([]byte(cl.succeeds(t, "status", "-o", "json").out), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Nodes) != 4 || list.Joined != 3 || !list.Nodes[0].NeedsAction || list.Nodes[0].Step != steps.Published || list.Nodes[3].NeedsAction {
		t.Errorf("as JSON it is %+v", list)
	}
	mention(t, "the wide list", cl.succeeds(t, "status", "-o", "wide").out, "TOKEN", "https://api.example.com:6443")
	if r := (cluster{objects: []client.Object{named("d", hasJoined)}}).succeeds(t, "status"); r.out != "1 node has joined, none is waiting.\n" {
		t.Errorf("got %q", r.out)
	}
}

// Without permission for Nodes and CSRs the rest is shown.
func TestStatusWithoutPermissions(t *testing.T) {
	funcs := failingGet[*corev1.Node](forbidden(schema.GroupResource{Resource: "nodes"}, node))
	funcs.List = func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
		if _, ok := list.(*certificatesv1.CertificateSigningRequestList); ok {
			return forbidden(schema.GroupResource{Resource: "certificatesigningrequests"}, "")
		}
		return c.List(ctx, list, opts...)
	}
	cl := cluster{objects: []client.Object{awaiting(isPublished)}, funcs: funcs}
	for _, args := range [][]string{{"status"}, {"status", node}} {
		mention(t, "the output", cl.succeeds(t, args...).out, "the machine, to send a request")
	}
	r := cluster{objects: []client.Object{awaiting(hasJoined)}, funcs: funcs}.succeeds(t, "status", node, "--watch")
	mention(t, "the end without permission for Nodes", r.out, "✔ registered", "… ready: waiting for the node, which you may not get")
	funcs.List = func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
		return forbidden(nodeBootstraps, "")
	}
	r = cluster{funcs: funcs}.execute(t, "status")
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the error", r.err.Error(), "permission to list", "for one node, write its name")
}

// A watch shows each step once, and ends with the last one.
func TestStatusWatch(t *testing.T) {
	looks := 0
	cl := cluster{objects: []client.Object{awaiting(isPublished), sent(time.Minute, approvedAfter(62*time.Second))}}
	cl.funcs = interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, ok := o.(*v1alpha1.NodeBootstrap); ok {
			switch looks++; looks {
			case 2:
				return errors.New("the API server restarts")
			case 3:
				if err := errors.Join(c.Create(ctx, registered(2*time.Minute, corev1.ConditionTrue)), put(ctx, c, awaiting(hasJoined))); err != nil {
					return err
				}
			}
		}
		return c.Get(ctx, key, o, opts...)
	}}
	r := cl.succeeds(t, "status", node, "--watch")
	var order []string
	for line := range strings.Lines(r.out) {
		_, text, _ := strings.Cut(line, " s  ")
		text, _, _ = strings.Cut(strings.TrimSpace(text), ":")
		text, _, _ = strings.Cut(text, " at ")
		order = append(order, text)
	}
	if got := strings.Join(order, ", "); got != "✔ published, ✔ requested, ✔ approved, … issued, ✔ issued, ✔ registered, ✔ ready" {
		t.Errorf("the steps are %s:\n%s", got, r.out)
	}
	mention(t, "the error output", r.errOut, "trying again: cannot get NodeBootstrap worker-1: the API server restarts")
}

// Ctrl-C ends the watch of all nodes, and is no failure.
func TestStatusWatchOfAll(t *testing.T) {
	looks := 0
	ctx, cancel := context.WithCancel(t.Context())
	cl := cluster{objects: []client.Object{named("a"), named("b", isStalled)}}
	cl.funcs.List = func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
		if _, ok := list.(*v1alpha1.NodeBootstrapList); ok {
			switch looks++; looks {
			case 2:
				if err := put(ctx, c, named("a", hasJoined)); err != nil {
					return err
				}
			case 3:
				defer cancel()
			}
		}
		return c.List(ctx, list, opts...)
	}
	s := signing{cluster: cl, ctx: ctx}
	r := s.command(t, "status", "--watch")
	if r.err != nil {
		t.Fatal(r.err)
	}
	mention(t, "the output", r.out, "a: ", "… published: the operator", "b: ", "! published: action is required", "✔ it has joined", "0 nodes have joined.", "1 node has joined.")
	s = signing{cluster: cluster{objects: []client.Object{named(node)}}, ctx: ctx}
	if r := s.command(t, "status", node, "--watch"); r.err == nil || exitCode(r.err) != exitFailed {
		t.Errorf("an interrupted watch of one node ends with %v", r.err)
	}
}
