// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestSupports(t *testing.T) {
	type live struct {
		nb    *v1alpha1.NodeBootstrap
		token *corev1.Secret
		d     lifecycle.Decision
	}
	tests := map[string]struct {
		spoil func(*live)
		want  bool
	}{
		"all is as it was":          {func(*live) {}, true},
		"another field of the spec": {func(l *live) { l.nb.Spec.Token.TTL = &metav1.Duration{Duration: time.Hour} }, true},
		"a reissue that was handled": {func(l *live) {
			l.nb.Annotations = reissueAnnotation()
			l.nb.Status.LastHandledReissueAt = nodetest.ReissueAt
		}, true},
		"another NodeBootstrap":   {func(l *live) { l.nb.UID = nodetest.FormerUID; l.token.OwnerReferences[0].UID = nodetest.FormerUID }, false},
		"a reissue is due":        {func(l *live) { l.nb.Annotations = reissueAnnotation() }, false},
		"approval Manual":         {func(l *live) { l.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }, false},
		"approval ClusterWide":    {func(l *live) { l.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide }, false},
		"the token malformed":     {func(l *live) { delete(l.token.Data, "token-secret") }, false},
		"another token":           {func(l *live) { l.token = nodetest.TokenSecret(2, nodetest.Young) }, false},
		"another's token":         {func(l *live) { l.token.OwnerReferences[0].UID = nodetest.FormerUID }, false},
		"nobody's token":          {func(l *live) { l.token.OwnerReferences = nil }, false},
		"the token being deleted": {func(l *live) { l.token.DeletionTimestamp = new(nodetest.Ago(0)) }, false},
		"the token expired":       {func(l *live) { l.token = nodetest.TokenSecret(1, nodetest.Old) }, false},
		"the status lost":         {func(l *live) { l.nb.Status = v1alpha1.NodeBootstrapStatus{} }, false},
		"another request claimed": {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].UID = "csr-b" }, false},
		"another key claimed":     {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].KeyFingerprint = "SHA256:another" }, false},
		"a denial claimed":        {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].Verdict = v1alpha1.VerdictDenied }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := live{nb: nodetest.NodeBootstrap(), token: nodetest.TokenSecret(1, nodetest.Young), d: lifecycle.Decision{Record: nodetest.ApprovedDecision("csr-a", 1, 0)}}
			decisions.SetTokens(&l.nb.Status, []token.Token{nodetest.Token(1, nodetest.Young)})
			decisions.Record(&l.nb.Status, l.d.Record)
			tt.spoil(&l)
			if got := lifecycle.Supports(nodetest.NodeBootstrap(), l.nb, l.token, l.d, nodetest.Now); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func reissueAnnotation() map[string]string {
	return map[string]string{v1alpha1.ReissueRequestedAtAnnotation: nodetest.ReissueAt}
}

// The operator may decide only for the signer of kubelet client certificates: the API server rejects every verdict on a CSR of another
// signer.
func TestAnotherSignersRequestIsNotDecidedOn(t *testing.T) {
	spoilt := map[string]func(*certificatesv1.CertificateSigningRequest){
		"in another group": inAnotherGroup,
		"with a uid":       func(r *certificatesv1.CertificateSigningRequest) { r.Spec.UID = "x" },
		"in no group":      func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Groups = r.Spec.Groups[:2] },
	}
	for name, spoil := range spoilt {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0, nodetest.AnotherSigner, spoil)}
			p := nodetest.Decide(f, nodetest.Now)
			for _, d := range p.Decisions {
				if d.Result.Verdict != csr.Leave {
					t.Errorf("it would be carried out: %s", nodetest.VerdictNames[d.Result.Verdict])
				}
			}
			if !deletes(&p, f.Requests[0]) {
				t.Error("it is not deleted, and may be signed")
			}
		})
	}
}

// A person is asked only about CSRs that they may approve.
func TestAwaitsPersonForTheNodesOwnRequest(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Approval(v1alpha1.ApprovalManual)(f)
	for name, spoil := range nodetest.Spoilt {
		f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0, spoil)}
		if lifecycle.AwaitsPerson(f) {
			t.Errorf("%s: a person is asked", name)
		}
	}
	for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){"approved": nodetest.Approved(0), "denied": nodetest.Decided("Denied", 0), "failed": nodetest.Decided("Failed", 0)} {
		f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 0, edit)}
		if lifecycle.AwaitsPerson(f) {
			t.Errorf("%s: a person is asked", name)
		}
	}
	f.Requests = append(f.Requests, nodetest.Request("csr-b", 1, 0))
	if !lifecycle.AwaitsPerson(f) {
		t.Error("no person is asked")
	}
	for _, mode := range []v1alpha1.Approval{"", v1alpha1.ApprovalNode, v1alpha1.ApprovalClusterWide} {
		if nodetest.Approval(mode)(f); lifecycle.AwaitsPerson(f) {
			t.Errorf("with approval %q a person is asked", mode)
		}
	}
}

func claims(p *lifecycle.Plan) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for _, d := range ofTokens(p) {
		out = append(out, d.Record)
	}
	return out
}

func TestDecideOnEightRequestsOfAToken(t *testing.T) {
	bad := func(count int) func(*lifecycle.Facts) { return nodetest.Further(nodetest.BadRequests(1, count)...) }
	inCluster := func(count int, conditionType certificatesv1.RequestConditionType) func(*lifecycle.Facts) {
		return func(f *lifecycle.Facts) {
			for _, r := range nodetest.BadRequests(1, count) {
				r.Name, r.UID = "before-"+r.Name, "before-"+r.UID
				nodetest.Decided(conditionType, 0)(r)
				f.Requests = append(f.Requests, r)
			}
		}
	}
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	ignored := nodetest.Decision('i', "ignored")
	tests := map[string]struct {
		edit func(*lifecycle.Facts)
		want string
		over bool // evidence is found
	}{
		"eight":                          {bad(8), "8 Denied", false},
		"nine":                           {bad(9), "8 Denied, 1 Ignored", true},
		"a hundred":                      {bad(100), "8 Denied, 1 Ignored", true},
		"eight after an approval":        {nodetest.Edits(nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(2))), bad(8)), "7 Denied, 1 Ignored", true},
		"seven after an approval":        {nodetest.Edits(nodetest.Records(nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(2))), bad(7)), "7 Denied", false},
		"an approval first":              {nodetest.Edits(bad(8), nodetest.Further(nodetest.Request("csr-a", 1, 0))), "7 Denied, 1 Ignored", true}, // no key was approved before
		"an approval last":               {nodetest.Edits(bad(7), nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1)))), "1 Approved, 7 Denied", false},
		"an approval too late":           {nodetest.Edits(bad(8), nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1)))), "8 Denied, 1 Ignored", true},
		"one after eight records":        {nodetest.Edits(nodetest.Records(nodetest.Denials(1, 8)...), bad(1)), "1 Ignored", true},
		"one after seven records":        {nodetest.Edits(nodetest.Records(nodetest.Denials(1, 7)...), bad(1)), "1 Denied", false},
		"after eight, approved":          {nodetest.Edits(nodetest.Records(nodetest.Denials(1, 8)...), nodetest.Further(nodetest.Request("csr-o", 1, 0, nodetest.ForNode("worker-2"), nodetest.Approved(0)))), "1 Ignored", true},
		"after eight denied":             {nodetest.Edits(inCluster(8, isDenied), bad(1)), "1 Ignored", true},
		"after seven denied":             {nodetest.Edits(inCluster(7, isDenied), bad(1)), "1 Denied", false},
		"after eight failed":             {nodetest.Edits(inCluster(8, failed), bad(1)), "1 Denied", false},
		"recorded and denied":            {nodetest.Edits(inCluster(7, isDenied), recordAll, bad(1)), "1 Denied", false},
		"recorded and another denied":    {nodetest.Edits(inCluster(7, isDenied), nodetest.Records(nodetest.Denials(1, 1)...), bad(1)), "1 Ignored", true},
		"after eight of another token":   {nodetest.Edits(nodetest.Records(nodetest.Denials(2, 8)...), bad(1)), "1 Denied", false},
		"after the end was recorded":     {nodetest.Edits(nodetest.Records(append(nodetest.Denials(1, 8), ignored)...), bad(50)), "", false},
		"recorded, and the rest dropped": {nodetest.Edits(nodetest.Records(ignored), bad(50)), "", false},
		"recorded for another token":     {nodetest.Edits(nodetest.Records(nodetest.Decision('I', "ignored")), bad(1)), "1 Denied", false},
		"a recorded one": {nodetest.Edits(nodetest.Records(append(nodetest.Denials(1, 8), nodetest.Because(decisions.ReasonTooManyRequests, nodetest.Decision('i', "bad/1-0000")))...),
			bad(1)), "", false},
		"recorded, and a crash":  {nodetest.Edits(bad(9), recordAll), "9 Denied", false},
		"the same, and one more": {nodetest.Edits(bad(8), recordAll, nodetest.Further(nodetest.Request("csr-a", 1, 0))), "8 Denied, 1 Ignored", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			tt.edit(f)
			p := nodetest.Decide(f, nodetest.Now)
			if got := nodetest.VerdictsOf(claims(&p)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if over := p.Misuse != nil && p.Misuse.Reason == decisions.ReasonTooManyRequests; over != tt.over {
				t.Errorf("the evidence is %+v", p.Misuse)
			}
		})
	}
}

// recordAll records all existing CSRs as denied, as after a crash between the claim and the verdicts.
func recordAll(f *lifecycle.Facts) {
	for _, r := range f.Requests {
		d := nodetest.Because(csr.ReasonWrongDuration, nodetest.DeniedDecision(r.Name, 1, 0))
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

// Without a verdict, a kubelet gave up twice and sent another key each time. It waits for the last CSR, in whatever order a cache lists
// them.
func TestKubeletThatGaveUpWaitsForItsNewestRequest(t *testing.T) {
	requests := []*certificatesv1.CertificateSigningRequest{
		nodetest.Request("csr-a", 1, nodetest.Minutes(50)), nodetest.Request("csr-b", 1, nodetest.Minutes(30)), nodetest.Request("csr-c", 1, nodetest.Minutes(10)),
	}
	for range requests {
		requests = append(requests[1:], requests[0])
		f := nodetest.Awaited(1, nodetest.Young)
		f.Requests = requests
		p := nodetest.Decide(f, nodetest.Now)
		i := slices.IndexFunc(p.Decisions, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Approve })
		if i < 0 || p.Decisions[i].Request.Name != "csr-c" {
			t.Errorf("CSR %d is approved instead of the newest", i)
		}
	}
}

// The operator approved, did not run while the certificate was issued and used, and the CSR was deleted in between.
func TestReissueEndsWhenTheCSRWasDeleted(t *testing.T) {
	f := nodetest.Awaited(1, 3*time.Hour)
	f.NodeBootstrap.Status.LastHandledReissueAt = "once"
	f.Node, f.NodeReported = nodetest.NodeMade(24*time.Hour), true
	f.NodeBootstrap.Status.NodeUID = f.Node.UID
	d := nodetest.ApprovedDecision("csr-a", 1, 2*time.Hour)
	d.IssuedTime = nil
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	for lease, want := range map[time.Duration]lifecycle.Phase{time.Second: lifecycle.Joined, nodetest.Minutes(70): lifecycle.Awaited, 3 * time.Hour: lifecycle.Awaited} {
		f.LeaseRenewed = nodetest.Now.Add(-lease)
		if p := nodetest.Decide(f, nodetest.Now); p.Phase != want {
			t.Errorf("with a Lease renewed %s ago: got %d, want %d", lease, p.Phase, want)
		}
	}
	f.LeaseRenewed = nodetest.Now
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, 2*time.Hour, nodetest.Approved(2*time.Hour))}
	if p := nodetest.Decide(f, nodetest.Now); p.Phase != lifecycle.Awaited {
		t.Errorf("the CSR exists and has no certificate: got %d", p.Phase)
	}
}

func TestDecideOnRequests(t *testing.T) {
	const failed, isDenied = certificatesv1.CertificateFailed, certificatesv1.CertificateDenied
	first := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}
	verdicts := func(v string) nodetest.Outline {
		return nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: v}
	}
	deleted := func(name string) nodetest.Outline {
		return nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", DeleteCSR: name}
	}
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.Request("csr-a", 1, nodetest.Minutes(1), edit...)
	}
	gone := func(f *lifecycle.Facts) { f.NodeBootstrap, f.TokenSecrets, f.Kubeconfig = nil, nil, nil }
	nodetest.Plans(t, map[string]nodetest.Planned{
		"pending":                    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a()), Want: verdicts("csr-a: Approved")},
		"pending, approval Node":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), nodetest.Approval(v1alpha1.ApprovalNode)), Want: verdicts("csr-a: Approved")},
		"pending, approval Manual":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), nodetest.Approval(v1alpha1.ApprovalManual)), Want: first},
		"pending, no cluster":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Problem: v1alpha1.ReasonServerUnknown, Verdicts: "csr-a: Approved"}},
		"for another node":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.ForNode("worker-2"))), Want: withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"for another node, Manual":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a(nodetest.ForNode("worker-2"))), nodetest.Approval(v1alpha1.ApprovalManual)), Want: withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"approved":                   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.Approved(0))), Want: first},
		"approved and issued":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.Approved(0), nodetest.WithCertificate)), Want: first},
		"denied":                     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.Decided(isDenied, 0))), Want: first},
		"failed":                     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.Decided(failed, 0))), Want: first},
		"sent before the token":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(61))), Want: deleted("csr-a")},
		"sent in the second it":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(60))), Want: verdicts("csr-a: Approved")},
		"approved before the token":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(61), nodetest.Approved(0))), Want: deleted("csr-a")},
		"issued before the token":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 1, nodetest.Minutes(61), nodetest.Approved(0), nodetest.WithCertificate)), Want: first},
		"with a deleted token":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 7, nodetest.Minutes(1))), Want: deleted("csr-a")},
		"the same, approved":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 7, nodetest.Minutes(1), nodetest.Approved(0))), Want: deleted("csr-a")},
		"the same, denied":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 7, nodetest.Minutes(1), nodetest.Decided(isDenied, 0))), Want: first},
		"the same, issued":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(nodetest.Request("csr-a", 7, nodetest.Minutes(1), nodetest.Approved(0), nodetest.WithCertificate)), Want: first},
		"the same, approval Manual":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(nodetest.Request("csr-a", 7, nodetest.Minutes(1))), nodetest.Approval(v1alpha1.ApprovalManual)), Want: deleted("csr-a")},
		"with a token that expired":  {Facts: nodetest.Awaited(1, nodetest.Old), Edit: nodetest.With(a()), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2", DeleteToken: "#1", DeleteCSR: "csr-a"}},
		"a reissue is due":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1", DeleteCSR: "csr-a"}},
		"a reissue is due, approved": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a(nodetest.Approved(0))), nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1", DeleteCSR: "csr-a"}},
		"joined":                     {Facts: nodetest.JoinedBefore(), Edit: nodetest.With(a()), Want: nodetest.Outline{Phase: lifecycle.Joined, DeleteCSR: "csr-a"}},
		"joined, approved":           {Facts: nodetest.JoinedBefore(), Edit: nodetest.With(a(nodetest.Approved(0))), Want: nodetest.Outline{Phase: lifecycle.Joined, DeleteCSR: "csr-a"}},
		"joined, issued":             {Facts: nodetest.JoinedBefore(), Edit: nodetest.With(a(nodetest.Approved(0), nodetest.WithCertificate)), Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"orphaned":                   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), gone), Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteCSR: "csr-a"}},
		"orphaned, approved":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a(nodetest.Approved(0))), gone), Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteCSR: "csr-a"}},
		"orphaned, issued":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a(nodetest.Approved(0), nodetest.WithCertificate)), gone), Want: nodetest.Outline{Phase: lifecycle.Gone}},
		"orphaned, denied":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a(nodetest.Decided(isDenied, 0))), gone), Want: nodetest.Outline{Phase: lifecycle.Gone}},
		"two keys":                   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(), nodetest.Request("csr-b", 1, 0)), Want: verdicts("csr-b: Approved, csr-a: Denied")},
		"the same key twice":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(), nodetest.Request("csr-a/2", 1, 0)), Want: verdicts("csr-a/2: Approved, csr-a: Approved")},
		"another's and then its own": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.With(a(nodetest.ForNode("worker-2")), nodetest.Request("csr-b", 1, 0)), Want: withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"the predecessor's and its": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: func(f *lifecycle.Facts) {
			nodetest.AddToken(f, 1, nodetest.Due)
			nodetest.With(a(), nodetest.Request("csr-b", 2, 0))(f)
		}, Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Verdicts: "csr-b: Approved, csr-a: Approved"}},
		"another key is claimed":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(recorded(nodetest.Minutes(2), 1), nodetest.With(a())), Want: nodetest.Alarmed("csr-a: Denied", "")},
		"claimed while it was waiting": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(recorded(nodetest.Minutes(0), 1), nodetest.With(a())), Want: verdicts("csr-a: Denied")},
		"a key claimed with another":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(recorded(nodetest.Minutes(2), 7), nodetest.With(a())), Want: verdicts("csr-a: Approved")},
		"another key was denied":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(denied(nodetest.Minutes(2)), nodetest.With(a())), Want: verdicts("csr-a: Approved")},
		"claimed, then a crash":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(a()), nodetest.Claimed("csr-a")), Want: verdicts("csr-a: Approved")},
		"claimed, another one in line": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.With(nodetest.Request("csr-b", 1, 0), a()), nodetest.Claimed("csr-a")), Want: nodetest.Alarmed("csr-b: Denied, csr-a: Approved", "")},
	})
}

// ClusterWide changes the token's groups too, so a token created under Node must be repaired.
func TestDecideLeavesRequestsToOthers(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.NodeBootstrap.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1)), nodetest.Request("csr-b", 1, nodetest.Minutes(1), nodetest.ForNode("worker-2"))}
	p := nodetest.Decide(f, nodetest.Now)
	if got, want := nodetest.OutlineOf(&p), (nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Repair: "#1"}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A CSR that was sent with approval ClusterWide has the additional group: it is still the node's own.
func TestDecideApprovesAfterClusterWide(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.Request("csr-a", 1, nodetest.Minutes(1), func(r *certificatesv1.CertificateSigningRequest) {
		r.Spec.Groups = append(r.Spec.Groups, token.ClusterWideGroup)
	})}
	if p := nodetest.Decide(f, nodetest.Now); len(p.Decisions) != 1 || p.Decisions[0].Result.Verdict != csr.Approve {
		t.Errorf("got %+v", p.Decisions)
	}
}
