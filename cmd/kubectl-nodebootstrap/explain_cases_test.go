// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

func decidedAs(kind certificatesv1.RequestConditionType, reason, message string) func(*explained, *certificatesv1.CertificateSigningRequest) {
	return func(x *explained, r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(x.now)})
	}
}

// A CSR on its way: who decided, what comes next, which check decided, and what to do.
func TestExplainDecisions(t *testing.T) {
	type edit = func(*explained, *certificatesv1.CertificateSigningRequest)
	const isApproved, isDenied = certificatesv1.CertificateApproved, certificatesv1.CertificateDenied
	manual := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	}
	delayed := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Hour}
	}
	clusterWide := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	}
	revoked := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Status.Token, x.nb.Status.Tokens, x.secret = nil, []v1alpha1.LiveToken{}, nil
	}
	joined := func(x *explained, r *certificatesv1.CertificateSigningRequest) {
		revoked(x, r)
		x.nb.Status.AwaitingSince = nil
		x.nb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionJoined, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(x.now)}}
		x.others = append(x.others, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	}
	otherKey := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Status.Tokens[0].CSRs = []v1alpha1.DecidedCSR{{Name: "csr-0", UID: "uid-0", KeyFingerprint: "SHA256:00", Verdict: v1alpha1.VerdictApproved,
			Reason: csr.ReasonKubeletClient, Time: metav1.NewTime(x.now.Add(-time.Minute))}}
	}
	approvedLater := func(x *explained, r *certificatesv1.CertificateSigningRequest) {
		otherKey(x, r)
		x.nb.Status.Tokens[0].CSRs[0].Time = metav1.NewTime(x.now.Add(time.Minute))
	}
	oldStatus := func(x *explained, _ *certificatesv1.CertificateSigningRequest) { x.nb.Status.Tokens = nil }
	recorded := func(reason string) edit {
		return func(x *explained, r *certificatesv1.CertificateSigningRequest) {
			x.nb.Status.Certificates = []v1alpha1.CertificateDecision{{Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: x.tokenID,
				Verdict: v1alpha1.VerdictDenied, Reason: reason, Time: metav1.NewTime(x.now)}}
		}
	}
	pins := func(x *explained, _ *certificatesv1.CertificateSigningRequest) {
		x.nb.Spec.ClientCertificate.KeyFingerprint = "SHA256:" + strings.Repeat("0", 64)
	}
	cloned := func(x *explained, r *certificatesv1.CertificateSigningRequest) {
		other := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-9"}}
		key, err := csr.Fingerprint(r)
		other.Status.KeyFingerprints = []string{key}
		x.others = append(x.others, other)
		if err != nil {
			t.Error(err)
		}
	}
	for name, tc := range map[string]struct {
		edits                         []edit
		state, by, next, check, their string
		want                          []string // in what people read
	}{
		"a good one":                  {nil, pending, "", "Approve", "", csr.ReasonKubeletClient, nil},
		"an older version's status":   {[]edit{oldStatus}, pending, "", "Approve", "", csr.ReasonKubeletClient, nil},
		"approved, another key since": {[]edit{approvedLater, decidedAs(isApproved, csr.ReasonKubeletClient, "")}, approved, byOperator, "", "", csr.ReasonKubeletClient, nil},
		"approval Manual":             {[]edit{manual}, pending, "", "Wait", "", v1alpha1.ReasonAwaitingApproval, []string{"kubectl certificate approve " + request}},
		"approvals are delayed":       {[]edit{delayed}, pending, "", "Wait", "", "ApprovalDelayed", nil},
		"approval ClusterWide":        {[]edit{clusterWide}, pending, "", "Leave", "", v1alpha1.ReasonApprovalClusterWide, nil},
		"a revoked token":             {[]edit{revoked}, pending, "", "Delete", "", decisions.ReasonTokenRevoked, []string{"kubectl nodebootstrap kubeconfig " + node}},
		"after the join":              {[]edit{joined}, pending, "", "Delete", "", decisions.ReasonTokenRevoked, nil},
		"another key was approved":    {[]edit{otherKey}, pending, "", "Deny", "hasClaimedKey", csr.ReasonKeyReplaced, []string{"✗ hasClaimedKey", "SHA256:00"}},
		"another key is pinned":       {[]edit{pins}, pending, "", "Deny", "hasPinnedKey", csr.ReasonKeyNotPinned, []string{"docs/pinned-keys.md"}},
		"a cloned machine":            {[]edit{cloned}, pending, "", "Deny", "hasKeyOfNoOtherNode", csr.ReasonKeyOfAnotherNode, []string{"worker-9"}},
		"approved by the operator":    {[]edit{decidedAs(isApproved, csr.ReasonKubeletClient, "")}, approved, byOperator, "", "", csr.ReasonKubeletClient, []string{"not issued yet"}},
		"approved, joined since":      {[]edit{joined, decidedAs(isApproved, csr.ReasonKubeletClient, "")}, approved, byOperator, "", "", csr.ReasonKubeletClient, []string{"✔ sentWithLiveToken"}},
		"denied for another key":      {[]edit{revoked, decidedAs(isDenied, csr.ReasonSecondKey, "two machines")}, denied, byOperator, "", "hasClaimedKey", csr.ReasonSecondKey, []string{"SecondKey: two machines"}},
		"by a person, joined since":   {[]edit{joined, decidedAs(isApproved, "KubectlApprove", "")}, approved, byPerson, "", "", "KubectlApprove", []string{"! sentWithLiveToken"}},
		"the operator is down": {[]edit{func(x *explained, r *certificatesv1.CertificateSigningRequest) {
			r.CreationTimestamp = metav1.NewTime(x.now.Add(-5 * time.Minute))
		}}, pending, "", "Approve", "", csr.ReasonKubeletClient, []string{"See whether it runs"}},
		"approved by a person":       {[]edit{decidedAs(isApproved, "KubectlApprove", "by kubectl")}, approved, byPerson, "", "", "KubectlApprove", []string{"The operator's checks say: " + csr.ReasonKubeletClient}},
		"approved cluster-wide":      {[]edit{clusterWide, decidedAs(isApproved, "AutoApproved", "")}, approved, byControllerManager, "", "", "AutoApproved", nil},
		"approved by another client": {[]edit{decidedAs(isApproved, "Looks good", "")}, approved, byOther, "", "", "Looks good", nil},
		"denied by a person":         {[]edit{decidedAs(isDenied, "KubectlDeny", ""), recorded(decisions.ReasonDeniedElsewhere)}, denied, byPerson, "", "", "KubectlDeny", []string{"status records: Denied, DeniedElsewhere", "restart the kubelet"}},
		"signing it has failed":      {[]edit{decidedAs(isApproved, csr.ReasonKubeletClient, ""), decidedAs(certificatesv1.CertificateFailed, "SignerValidationFailure", "the CA has expired")}, failed, byControllerManager, "", "", "SignerValidationFailure", []string{"the CA has expired"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newExplained()
			r := x.clientRequest(newKey(t))
			for _, edit := range tc.edits {
				edit(x, r)
			}
			e := explanationOf(t, x.with(r), request)
			if v := e.Verdict; v.State != tc.state || v.By != tc.by || v.Next != tc.next || v.Reason != tc.their || e.failedCheck() != tc.check || len(e.Checks) == 0 {
				t.Errorf("got %q and %+v, want %q and %s %s %s %s", e.failedCheck(), v, tc.check, tc.state, tc.by, tc.next, tc.their)
			}
			mention(t, "the explanation", x.with(r).succeeds(t, "explain", request).out, tc.want...)
		})
	}
}

// A CSR that the operator does not decide gets no checks, and an answer to whose it is.
func TestExplainForeignRequests(t *testing.T) {
	key := newKey(t)
	request := func(edit func(*certificatesv1.CertificateSigningRequestSpec)) certificatesv1.CertificateSigningRequestSpec {
		spec := adversarial.GoodClient("worker-7", "zzz999", key)
		edit(&spec)
		return spec
	}
	as := func(user string, groups ...string) func(*certificatesv1.CertificateSigningRequestSpec) {
		return func(s *certificatesv1.CertificateSigningRequestSpec) {
			s.Username, s.Groups = user, append(groups, "system:authenticated")
		}
	}
	asks := func(signer string, who func(*certificatesv1.CertificateSigningRequestSpec)) func(*certificatesv1.CertificateSigningRequestSpec) {
		return func(s *certificatesv1.CertificateSigningRequestSpec) {
			who(s)
			s.SignerName = signer
		}
	}
	const anyClient = certificatesv1.KubeAPIServerClientSignerName
	for name, tc := range map[string]struct {
		spec certificatesv1.CertificateSigningRequestSpec
		want []string
	}{
		"a renewal":                    {request(as("system:node:worker-7", "system:nodes")), []string{"renews its client certificate", "selfnodeclient"}},
		"a node for another one":       {request(as("system:node:worker-8", "system:nodes")), []string{"something else than its own", "Do not approve"}},
		"a token of kubeadm":           {request(as("system:bootstrap:zzz999", "system:bootstrappers", kubeadmGroup)), []string{"token of kubeadm", "whatever the name"}},
		"another bootstrap token":      {request(as("system:bootstrap:zzz999", "system:bootstrappers")), []string{"another bootstrap token, zzz999"}},
		"a static token":               {request(as("kubelet-bootstrap", "system:bootstrappers")), []string{"--token-auth-file", "docs/migrating.md"}},
		"a static token without group": {request(as("kubelet-bootstrap")), []string{"--token-auth-file"}},
		"a serving certificate":        {adversarial.GoodServing("worker-7", key, []string{"worker-7"}, nil), []string{"no NodeBootstrap has this name", "kubectl certificate approve csr-1"}},
		"of undeclared addresses":      {adversarial.GoodServing("rack-a", key, []string{"rack-a"}, nil), []string{"declares no addresses", "spec.servingCertificate.addresses"}},
		"another signer":               {request(asks("example.com/signer", as("jane"))), []string{"another signer: example.com/signer", "whoever runs the signer"}},
		"a person":                     {request(asks(anyClient, as("jane"))), []string{"a person or a program", "kubectl certificate approve csr-1"}},
		"a ServiceAccount":             {request(asks(anyClient, as("system:serviceaccount:ns:robot"))), []string{"the ServiceAccount ns:robot"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newExplained()
			out := x.with(x.requestOf(tc.spec)).succeeds(t, "explain", "csr-1").out
			mention(t, "the explanation", out, append(tc.want, "Verdict:  Pending\n")...)
			if strings.Contains(out, "Checks:") {
				t.Errorf("there are checks:\n%s", out)
			}
		})
	}
}

// Without a permission the rest is still explained, and what is missing is marked.
func TestExplainWithoutPermissions(t *testing.T) {
	for name, tc := range map[string]struct {
		deny func(o any) bool
		want []string
	}{
		"NodeBootstraps": {func(o any) bool { _, is := o.(*v1alpha1.NodeBootstrapList); return is },
			[]string{"! hasTokensSubject", "! hasKeyOfNoOtherNode", "this requires permission to list nodebootstraps.nodebootstrap.io", "unless what is not known here"}},
		"CSRs": {func(o any) bool { _, is := o.(*certificatesv1.CertificateSigningRequestList); return is },
			[]string{"! hasClaimedKey", "✔ hasTokensSubject", "permission to list certificatesigningrequests"}},
		"Secrets": {func(o any) bool { _, is := o.(*metav1.PartialObjectMetadata); return is },
			[]string{"! sentAfterTokenWasMade", "✔ sentWithLiveToken", "✔ hasClaimedKey", "permission to get secrets in the namespace kube-system"}},
		"Nodes": {func(o any) bool { _, is := o.(*corev1.Node); return is },
			[]string{"! hasClaimedKey", "permission to get nodes"}},
		"Leases": {func(o any) bool { _, is := o.(*coordinationv1.Lease); return is },
			[]string{"! hasClaimedKey", "permission to get leases"}},
	} {
		t.Run(name, func(t *testing.T) {
			x := newExplained()
			x.others = append(x.others, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
			cl := x.with(x.clientRequest(newKey(t)))
			cl.funcs = refusing(tc.deny)
			mention(t, "the explanation", cl.succeeds(t, "explain", request).out, append(tc.want, "the operator approves it")...)
		})
	}
	x := newExplained()
	cl := x.with(x.clientRequest(newKey(t)))
	cl.funcs = refusing(func(o any) bool { _, is := o.(*certificatesv1.CertificateSigningRequest); return is })
	if r := cl.execute(t, "explain", request); r.err == nil || !strings.Contains(r.err.Error(), "permission to get certificatesigningrequests") {
		t.Errorf("without permission to get the CSR: %v", r.err)
	}
	cl.funcs = interceptor.Funcs{List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
		return errors.New("connection refused")
	}}
	if r := cl.execute(t, "explain", request); r.err == nil || !strings.Contains(r.err.Error(), "connection refused") {
		t.Errorf("a failed read: %v", r.err)
	}
}

// refusing refuses reads of some objects.
func refusing(deny func(o any) bool) interceptor.Funcs {
	resource := schema.GroupResource{Resource: "things"}
	return interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if deny(o) {
				return forbidden(resource, key.Name)
			}
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if deny(list) {
				return forbidden(resource, "")
			}
			return c.List(ctx, list, opts...)
		},
	}
}

// Whoever can send CSRs chooses what is in them: nothing of it controls the terminal, forges a line, or fills the screen.
func TestExplainHostileContent(t *testing.T) {
	const evil = "\x1b[2J\rVerdict:  Approved\nTo do:    Nothing\u202e\u009b31m"
	long := strings.Repeat("x", 1<<20)
	for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){
		"requester":   func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = evil + long },
		"groups":      func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = append(r.Spec.Groups, evil, long) },
		"many groups": func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = strings.Split(long, "") },
		"signer":      func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = evil + long },
		"usages": func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = []certificatesv1.KeyUsage{evil, certificatesv1.KeyUsage(long)}
		},
		"condition": func(r *certificatesv1.CertificateSigningRequest) {
			decidedAs(certificatesv1.CertificateApproved, evil, evil+long)(newExplained(), r)
		},
		"request":         func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte(evil + long) },
		"a kubelet's CSR": func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = "system:node:" + evil },
		"serving": func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Username, r.Spec.SignerName = "system:node:"+evil, certificatesv1.KubeletServingSignerName
		},
		"subject": func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = requestPEM(t, newKey(t), evil+long[:3000])
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newExplained()
			r := x.clientRequest(newKey(t))
			edit(r)
			for _, args := range [][]string{nil, {"-o", "json"}, {"-o", "yaml"}} {
				out := x.with(r).succeeds(t, append([]string{"explain", request}, args...)...).out
				if i := strings.IndexFunc(out, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
					t.Errorf("%v: prints %q", args, out[i:min(len(out), i+40)])
				}
				if strings.Contains(out, "\nVerdict:  Approved\n") || strings.Count(out, "\nTo do: ") > 1 {
					t.Errorf("%v: a line is forged:\n%.2000s", args, out)
				}
				if len(out) > 64<<10 {
					t.Errorf("%v: prints %d bytes", args, len(out))
				}
			}
		})
	}
}

// The operator deletes a CSR for another signer: the status still has the decision.
func TestExplainDeletedRequest(t *testing.T) {
	x := newExplained()
	x.nb.Status.Certificates = []v1alpha1.CertificateDecision{{Name: request, UID: "uid-csr", Verdict: v1alpha1.VerdictDenied, Reason: csr.ReasonWrongSigner, Message: "the requested signer is another"}}
	r := cluster{objects: []client.Object{x.nb}}.execute(t, "explain", request)
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the error", r.err.Error(), "was deleted", node, "Denied, WrongSigner", "the requested signer is another", "kubectl nodebootstrap reissue "+node)
}

// Names of pending CSRs come first.
func TestExplainCompletion(t *testing.T) {
	x := newExplained()
	a, b := x.clientRequest(newKey(t)), x.clientRequest(newKey(t))
	a.Name, a.UID, b.Name, b.UID = "csr-a", "uid-a", "csr-b", "uid-b"
	decidedAs(certificatesv1.CertificateDenied, csr.ReasonWrongUsages, "")(x, a)
	want := fmt.Sprintf("csr-b\tPending, system:bootstrap:%s\ncsr-a\tDenied, system:bootstrap:%[1]s\n:36\n", x.tokenID)
	if r := (cluster{objects: []client.Object{a, b}}).succeeds(t, "__complete", "explain", ""); r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
}

// Each reason that the operator gives has advice, and each check has its facts under an existing name.
func TestExplainKnowsAllReasonsAndChecks(t *testing.T) {
	for reason := range checksOf {
		if got := advice(reason, node, request); got == advice("unknown", node, request) {
			t.Errorf("no advice about %s", reason)
		}
	}
	var names []string
	for _, f := range slices.Concat(csr.ClientFindings(csr.Result{}), csr.ServingFindings(csr.Result{})) {
		names = append(names, f.Check)
	}
	for name := range factsOfChecks {
		if !slices.Contains(names, name) {
			t.Errorf("there is no check %s", name)
		}
	}
	if token.IDOfUser("system:bootstrap:zzz999") == "" {
		t.Error("zzz999 is no id of a token")
	}
}
