// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

// withdrawn is the plan for the first token when it was misused, and alarmed the one after a key was approved with it.
func withdrawn(verdicts, misuse string) nodetest.Outline {
	return nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", DropConfig: true, Verdicts: verdicts, Misuse: misuse}
}

func inAnotherGroup(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.Groups = append(r.Spec.Groups, "admins")
}

// One of these CSRs is evidence that the token was misused, or looks like it.
func TestDecideOnEvidence(t *testing.T) {
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	other := nodetest.ForNode("worker-2")
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1), edit...))
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Further(nodetest.Request("csr-b", 1, 0, edit...))
	}
	claim := nodetest.Claimed("csr-c") // a minute ago
	predecessor := func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Due) }
	first, clean := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}, func(v string) nodetest.Outline { return nodetest.Alarmed(v, "") }
	nodetest.Plans(t, map[string]nodetest.Planned{
		"another node":                    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, a key is approved": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other), claim), Want: nodetest.Alarmed("csr-a: Denied", "WrongSubject")},
		"another node, approved":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.Approved(0)), Want: withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, issued":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.Approved(0), nodetest.WithCertificate), Want: withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, denied":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.Decided(isDenied, 0)), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, failed":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(other, nodetest.Decided(failed, 0)), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, the token deleted": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Further(nodetest.Request("csr-a", 7, nodetest.Minutes(1), other)), Want: first.Deleting("csr-a")},
		"another node, before the token":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(61), other)), Want: first.Deleting("csr-a")},
		"a name that begins like it": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Request = nodetest.KubeletPEM(r.Name, nodetest.NodeName+"x")
		}), Want: withdrawn("csr-a: Denied", "WrongSubject")},

		"another signer":                    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner), Want: withdrawn("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"another signer, a key is approved": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(nodetest.AnotherSigner), claim), Want: nodetest.Alarmed("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"a signer of no one":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.Asks("example.com/signer")), Want: withdrawn("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"the signer of serving":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.Asks(certificatesv1.KubeletServingSignerName)), Want: withdrawn("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"another signer for another node":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner, other), Want: withdrawn("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"another signer, approved":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner, nodetest.Approved(0)), Want: withdrawn("csr-a: Approved", "WrongSigner")},
		"another signer, denied":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner, nodetest.Decided(isDenied, 0)), Want: withdrawn("csr-a: Denied", "WrongSigner")},

		"a second key":                      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, b()), Want: clean("csr-b: Denied")},
		"a second key after an approval":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Further(nodetest.Request("csr-c", 1, nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(2)))), a()), Want: clean("csr-a: Denied")},
		"a second key, approved":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Further(nodetest.Request("csr-c", 1, nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(2)))), b(nodetest.Approved(0))), Want: clean("csr-b: Approved")},
		"a second key, the first is used":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Registered(0), b()), Want: nodetest.Alarmed("csr-b: Denied", "SecondKey")},
		"the same, approved":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Registered(0), b(nodetest.Approved(0))), Want: nodetest.Alarmed("csr-b: Approved", "SecondKey")},
		"the same key again":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Further(nodetest.Request("csr-c/2", 1, 0))), Want: clean("csr-c/2: Approved")},
		"a key that was waiting":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Further(nodetest.Request("csr-b", 1, nodetest.Minutes(2)))), Want: clean("csr-b: Denied")},
		"waiting until an approval":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Further(nodetest.Request("csr-c", 1, nodetest.Minutes(5), nodetest.Approved(nodetest.Minutes(2)))), nodetest.Further(nodetest.Request("csr-b", 1, nodetest.Minutes(3)))), Want: clean("csr-b: Denied")},
		"a key that was waiting, approved":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, nodetest.Further(nodetest.Request("csr-b", 1, nodetest.Minutes(2), nodetest.Approved(0)))), Want: first},
		"a key of the renewed token":        {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nodetest.Edits(predecessor, claim, nodetest.Further(nodetest.Request("csr-b", 2, 0))), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Verdicts: "csr-b: Approved"}},
		"the same key with the renewed one": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nodetest.Edits(predecessor, claim, nodetest.Further(nodetest.Request("csr-c/2", 2, 0))), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", Verdicts: "csr-c/2: Approved"}},

		"no evidence: too long":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong), Want: clean("csr-a: Denied")},
		"no evidence: in another group":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(inAnotherGroup), Want: clean("csr-a: Denied")},
		"no evidence: its own":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.Approved(0)), Want: first},
		"no evidence: its own, too long": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong, nodetest.Approved(0)), Want: first},

		"a sound one with it":               {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other), b()), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"a sound one before it":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(), b(other)), Want: withdrawn("csr-b: Denied", "WrongSubject")},
		"a sound one, a key is approved":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(claim, a(other), nodetest.Further(nodetest.Request("csr-c/2", 1, 0))), Want: nodetest.Alarmed("csr-c/2: Approved, csr-a: Denied", "WrongSubject")},
		"two kinds, the newest is reported": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other), b(nodetest.AnotherSigner)), Want: withdrawn("csr-b: Denied, csr-a: Denied", "WrongSigner").Deleting("csr-b")},
		"with the predecessor": {Facts: nodetest.Awaited(2, nodetest.Young), Edit: nodetest.Edits(predecessor, a(other)), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#2 #1", DropConfig: true,
			Verdicts: "csr-a: Denied", Misuse: "WrongSubject"}},
		"with a token that is renewed now": {Facts: nodetest.Awaited(1, nodetest.Due), Edit: a(other), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"with one that expired":            {Facts: nodetest.Awaited(1, nodetest.Old), Edit: a(other), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#2", DeleteToken: "#1"}.Deleting("csr-a")},
		"joined":                           {Facts: nodetest.JoinedBefore(), Edit: a(other), Want: nodetest.Outline{Phase: lifecycle.Joined}.Deleting("csr-a")},
		"a reissue is due":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other), nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}.Deleting("csr-a")},
		"no cluster": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(other), nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", DropConfig: true,
			Verdicts: "csr-a: Denied", Misuse: "WrongSubject", Problem: "ServerUnknown"}},
	})
}

func TestDecideOnEvidenceWithApprovalManual(t *testing.T) {
	manual := nodetest.Approval(v1alpha1.ApprovalManual)
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Edits(manual, nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1), edit...)))
	}
	first := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}
	person := func(age time.Duration) func(*lifecycle.Facts) { // a person has approved a key
		return nodetest.Edits(manual, nodetest.Further(nodetest.Request("csr-c", 1, nodetest.Minutes(20), nodetest.Approved(age))))
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"sound":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(), Want: first},
		"two keys":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: first},
		"another node":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.ForNode("worker-2")), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, a key":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), a(nodetest.ForNode("worker-2"))), Want: nodetest.Alarmed("csr-a: Denied", "WrongSubject")},
		"another signer":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner), Want: withdrawn("csr-a: Denied", "WrongSigner").Deleting("csr-a")},
		"too long":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong), Want: nodetest.Alarmed("csr-a: Denied", "")},
		"a second key":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), a()), Want: nodetest.Alarmed("csr-a: Denied", "")},
		"a second key, used":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), nodetest.Registered(nodetest.Minutes(1)), a()), Want: nodetest.Alarmed("csr-a: Denied", "SecondKey")},
		"a key that waited":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(0), a()), Want: nodetest.Alarmed("csr-a: Denied", "")},
		"a second, approved":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), a(nodetest.Approved(0))), Want: nodetest.Alarmed("csr-a: Approved", "")},
		"the same, used":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), nodetest.Registered(nodetest.Minutes(1)), a(nodetest.Approved(0))), Want: nodetest.Alarmed("csr-a: Approved", "SecondKey")},
		"approved while it was": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(0), a(nodetest.Approved(0))), Want: first},
		"the key once more":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(person(nodetest.Minutes(2)), nodetest.Further(nodetest.Request("csr-c/2", 1, 0))), Want: first},
		"another, a sound one":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(nodetest.ForNode("worker-2")), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: withdrawn("csr-a: Denied", "WrongSubject")},
		"approved elsewhere":    {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.ForNode("worker-2"), nodetest.Approved(0)), Want: withdrawn("csr-a: Approved", "WrongSubject")},
	})
}

// kube-controller-manager approves: nothing is denied, deleted or withdrawn, and its approvals for other nodes are reported.
func TestDecideOnEvidenceWithApprovalClusterWide(t *testing.T) {
	wide := nodetest.Approval(v1alpha1.ApprovalClusterWide)
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Edits(wide, nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(1), edit...)))
	}
	none := nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1"}.Repairing("#1") // its groups
	evidence := func(misuse string) nodetest.Outline {
		return nodetest.Alarmed("csr-a: Approved", misuse).Repairing("#1")
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"sound":                         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(), Want: none},
		"sound, approved":               {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.Approved(0), nodetest.WithCertificate), Want: none},
		"another node":                  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.ForNode("worker-2")), Want: none},
		"another node, approved":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.ForNode("worker-2"), nodetest.Approved(0)), Want: evidence("WrongSubject")},
		"another node, issued":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.ForNode("worker-2"), nodetest.Approved(0), nodetest.WithCertificate), Want: evidence("WrongSubject")},
		"another signer":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner), Want: none},
		"another signer, approved":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.AnotherSigner, nodetest.Approved(0)), Want: evidence("WrongSigner")},
		"too long":                      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong), Want: none},
		"too long, approved":            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: a(nodetest.TooLong, nodetest.Approved(0)), Want: none},
		"a second key":                  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Claimed("csr-c"), a()), Want: none},
		"a second key, approved":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(nodetest.Claimed("csr-c"), a(nodetest.Approved(0))), Want: none},
		"two keys approved":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(nodetest.Approved(0)), nodetest.Further(nodetest.Request("csr-b", 1, 0, nodetest.Approved(0)))), Want: none},
		"before the token":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(wide, nodetest.Further(nodetest.Request("csr-a", 1, nodetest.Minutes(61)))), Want: none.Deleting("csr-a")},
		"with a deleted token":          {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(wide, nodetest.Further(nodetest.Request("csr-a", 7, nodetest.Minutes(1)))), Want: none.Deleting("csr-a")},
		"an alarm, and one more":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(nodetest.ForNode("worker-2"), nodetest.Approved(0)), nodetest.Raised("SecondKey")), Want: evidence("WrongSubject")},
		"an alarm, and a due token":     {Facts: nodetest.Awaited(1, nodetest.Due), Edit: nodetest.Edits(wide, nodetest.Raised("SecondKey")), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Mint: "#2"}.Repairing("#1")},
		"an alarm, and no token":        {Facts: nodetest.Fresh(), Edit: nodetest.Edits(wide, nodetest.Raised("SecondKey")), Want: nodetest.Outline{Phase: lifecycle.Awaited, Mint: "#1"}},
		"the token's owner was deleted": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(a(nodetest.ForNode("worker-2"), nodetest.Approved(0)), func(f *lifecycle.Facts) { f.NodeBootstrap = nil }), Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1", DropConfig: true}.Deleting("csr-a")},
	})
}

// The log entry of a CSR that another approver approved says so, and the evidence names the CSR, the token and the fix.
func TestEvidenceIsReportedInFull(t *testing.T) {
	tests := map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		verdict v1alpha1.Verdict
		reason  string
		result  csr.Verdict
		named   []string
	}{
		"denied": {nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2")), v1alpha1.VerdictDenied, csr.ReasonWrongSubject, csr.Deny, []string{"worker-2", "reissue-requested-at"}},
		"approved": {nodetest.Request("csr-a", 1, 0, nodetest.ForNode("worker-2"), nodetest.Approved(0)), v1alpha1.VerdictApproved, csr.ReasonWrongSubject, csr.Leave,
			[]string{"someone else approved it although", "worker-2"}},
		"deleted": {nodetest.Request("csr-a", 1, 0, nodetest.AnotherSigner), v1alpha1.VerdictDenied, csr.ReasonWrongSigner, csr.Leave, []string{certificatesv1.KubeAPIServerClientSignerName}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{tt.request}
			p := nodetest.Decide(f, nodetest.Now.Add(300*time.Millisecond))
			if len(p.Decisions) != 1 {
				t.Fatalf("got %+v", nodetest.OutlineOf(&p))
			}
			want := v1alpha1.CertificateDecision{Name: "csr-a", UID: "csr-a", SignerName: tt.request.Spec.SignerName, TokenID: nodetest.NthID(1),
				KeyFingerprint: p.Decisions[0].Result.KeyFingerprint, Verdict: tt.verdict, Reason: tt.reason, Time: metav1.NewTime(nodetest.Now)}
			if tt.verdict == v1alpha1.VerdictDenied {
				want.Message = decisions.Shortened(p.Decisions[0].Result.Message)
			}
			if got := p.Decisions[0].Record; !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if key, _ := csr.Fingerprint(tt.request); tt.reason == csr.ReasonWrongSubject && p.Decisions[0].Record.KeyFingerprint != key {
				t.Errorf("got the key %s, want %s", p.Decisions[0].Record.KeyFingerprint, key)
			}
			if got := p.Decisions[0].Result.Verdict; got != tt.result {
				t.Errorf("%s is carried out", nodetest.VerdictNames[got])
			}
			for _, want := range append(tt.named, "csr-a", nodetest.NthID(1)) {
				if !strings.Contains(p.Misuse.Message, want) {
					t.Errorf("%q is not in the message: %s", want, p.Misuse.Message)
				}
			}
			nodetest.Leaks(t, "the evidence", p.Misuse.Message)
		})
	}
}

// The effect of a raised alarm on tokens.
func TestDecideWhileAnAlarmStands(t *testing.T) {
	alarm := nodetest.Raised(csr.ReasonWrongSubject)
	gone, stays := withdrawn("", ""), nodetest.Alarmed("", "")
	mine, theirs := nodetest.ApprovedDecision("csr-a", 1, nodetest.Minutes(20)), nodetest.ApprovedDecision("csr-b", 2, nodetest.Minutes(20))
	another := nodetest.Because(csr.ReasonWrongSigner, mine)
	another.SignerName = certificatesv1.KubeAPIServerClientSignerName
	asked := func(n int, edit ...func(*certificatesv1.CertificateSigningRequest)) func(*lifecycle.Facts) {
		return nodetest.Further(nodetest.Request("csr-a", n, nodetest.Minutes(20), edit...))
	}
	predecessor := func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Due) }
	both := func() *lifecycle.Facts {
		f := nodetest.Awaited(2, nodetest.Young)
		nodetest.Edits(alarm, predecessor)(f)
		return f
	}
	nodetest.Plans(t, map[string]nodetest.Planned{
		"no key":                            {Facts: nodetest.Awaited(1, nodetest.Young), Edit: alarm, Want: gone},
		"no key, no kubeconfig":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.Kubeconfig = nil }), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1"}},
		"no key, another's kubeconfig":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.Kubeconfig = nodetest.ForeignKubeconfig() }), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", Problem: "ObjectNotOurs"}},
		"no key, no cluster":                {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#1", DropConfig: true, Problem: "ServerUnknown"}},
		"no key, past the deadline":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.DeadlineAfter(30*time.Minute)), Want: gone},
		"no key, renewal due":               {Facts: nodetest.Awaited(1, nodetest.Due), Edit: alarm, Want: gone},
		"no key, approval Manual":           {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Approval(v1alpha1.ApprovalManual)), Want: gone},
		"no token":                          {Facts: nodetest.Fresh(), Edit: alarm, Want: nodetest.Outline{Phase: lifecycle.Withdrawn}},
		"no token, past the deadline":       {Facts: nodetest.Fresh(), Edit: nodetest.Edits(alarm, nodetest.DeadlineAfter(time.Minute)), Want: nodetest.Outline{Phase: lifecycle.Withdrawn}},
		"the token expired":                 {Facts: nodetest.Awaited(1, nodetest.Old), Edit: alarm, Want: gone},
		"a key is recorded":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(mine)), Want: stays},
		"a key is recorded, Manual":         {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(mine), nodetest.Approval(v1alpha1.ApprovalManual)), Want: stays},
		"a key is recorded, renewal due":    {Facts: nodetest.Awaited(1, nodetest.Due), Edit: nodetest.Edits(alarm, nodetest.Records(mine)), Want: stays},
		"a key is recorded, it expired":     {Facts: nodetest.Awaited(1, nodetest.Old), Edit: nodetest.Edits(alarm, nodetest.Records(mine)), Want: gone},
		"a key is recorded, no cluster":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(mine), nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", Problem: "ServerUnknown"}},
		"a key is recorded, it was edited":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(mine), func(f *lifecycle.Facts) { delete(f.TokenSecrets[0].Data, "auth-extra-groups") }), Want: stays.Repairing("#1")},
		"a key was approved elsewhere":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(nodetest.Because(decisions.ReasonApprovedElsewhere, mine))), Want: stays},
		"a request is approved":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1, nodetest.Approved(0))), Want: stays},
		"a request has its certificate":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1, nodetest.Approved(0), nodetest.WithCertificate)), Want: stays},
		"a request was denied":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1, nodetest.Decided(certificatesv1.CertificateDenied, 0))), Want: gone},
		"a denial is recorded":              {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(nodetest.DeniedDecision("csr-a", 1, 0))), Want: gone},
		"another token's key is recorded":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(theirs)), Want: gone},
		"another token's is approved":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Further(nodetest.Request("csr-a", 7, nodetest.Minutes(20), nodetest.Approved(0), nodetest.WithCertificate))), Want: gone},
		"another node's is recorded":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(nodetest.Because(csr.ReasonWrongSubject, mine))), Want: gone},
		"another node's is approved":        {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(nodetest.Because(csr.ReasonWrongSubject, mine)), asked(1, nodetest.Approved(0), nodetest.ForNode("worker-2"))), Want: gone},
		"another signer's is recorded":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(another)), Want: gone},
		"another signer's is approved":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(another), asked(1, nodetest.Approved(0), nodetest.AnotherSigner)), Want: gone},
		"a serving certificate is recorded": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Records(nodetest.ServingEntry("s", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0))), Want: gone},

		"two tokens, no key":         {Facts: both(), Edit: nil, Want: nodetest.Outline{Phase: lifecycle.Withdrawn, DeleteToken: "#2 #1", DropConfig: true}},
		"two, the predecessor's key": {Facts: both(), Edit: nodetest.Records(mine), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#1", DeleteToken: "#2"}},
		"two, the successor's key":   {Facts: both(), Edit: nodetest.Records(theirs), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2", DeleteToken: "#1"}},
		"two, keys of both":          {Facts: both(), Edit: nodetest.Records(mine, theirs), Want: nodetest.Outline{Phase: lifecycle.Awaited, Token: "#2"}},

		"a sound request":                 {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1)), Want: gone},
		"a sound request of the key":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Claimed("csr-c"), nodetest.Further(nodetest.Request("csr-c/2", 1, 0))), Want: nodetest.Alarmed("csr-c/2: Approved", "")},
		"a sound request of another one":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Claimed("csr-c"), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: nodetest.Alarmed("csr-b: Denied", "")},
		"the same, with replacement keys": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Replacements(7), nodetest.Claimed("csr-c"), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: nodetest.Alarmed("csr-b: Denied", "")},
		"the same, the key is used":       {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.Claimed("csr-c"), nodetest.Registered(0), nodetest.Further(nodetest.Request("csr-b", 1, 0))), Want: nodetest.Alarmed("csr-b: Denied", "SecondKey")},
		"a bad request":                   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1, nodetest.TooLong)), Want: withdrawn("csr-a: Denied", "")},
		"requests of a token withdrawn":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1), func(f *lifecycle.Facts) { f.TokenSecrets, f.Kubeconfig = nil, nil }), Want: nodetest.Outline{Phase: lifecycle.Withdrawn}.Deleting("csr-a")},
		"evidence of a token withdrawn":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(1, nodetest.ForNode("worker-2")), func(f *lifecycle.Facts) { f.TokenSecrets, f.Kubeconfig = nil, nil }), Want: nodetest.Outline{Phase: lifecycle.Withdrawn}.Deleting("csr-a")},
		"certificates stay, once issued":  {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(7, nodetest.Approved(0), nodetest.WithCertificate)), Want: gone},
		"approved with a token withdrawn": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, asked(7, nodetest.Approved(0))), Want: gone.Deleting("csr-a")},

		"a reissue is due":             {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.AskReissue), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"a reissue is due, a key":      {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.AskReissue, nodetest.Records(mine)), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2", DeleteToken: "#1"}},
		"a reissue is due, no token":   {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.AskReissue, func(f *lifecycle.Facts) { f.TokenSecrets = nil }), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Mint: "#2"}},
		"a reissue is due, no cluster": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.AskReissue, nodetest.NoCluster), Want: nodetest.Outline{Phase: lifecycle.Awaited, Reissue: true, Problem: "ServerUnknown", DeleteToken: "#1", DropConfig: true}},
		"a reissue was handled before": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, nodetest.HandledReissue), Want: gone},

		"joined":               {Facts: nodetest.JoinedBefore(), Edit: alarm, Want: nodetest.Outline{Phase: lifecycle.Joined}},
		"joined, a token left": {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) { nodetest.AddToken(f, 1, nodetest.Young) }), Want: nodetest.Outline{Phase: lifecycle.Joined, DeleteToken: "#1"}},
		"the Node was deleted": {Facts: nodetest.JoinedBefore(), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.Node = nil }), Want: nodetest.Outline{Phase: lifecycle.Withdrawn}},
		"no NodeBootstrap":     {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.NodeBootstrap = nil }), Want: nodetest.Outline{Phase: lifecycle.Gone, DeleteToken: "#1", DropConfig: true}},
		"a condition that is not True": {Facts: nodetest.Awaited(1, nodetest.Young), Edit: nodetest.Edits(alarm, func(f *lifecycle.Facts) {
			meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionFalse})
		}), Want: stays},
	})
}

// Without anything to renew, nothing is requeued.
func TestDecideRequeuesWithAnAlarm(t *testing.T) {
	alarm := nodetest.Raised(csr.ReasonWrongSubject)
	tests := map[string]struct {
		facts *lifecycle.Facts
		edit  func(*lifecycle.Facts)
		want  time.Time
	}{
		"withdrawn":              {nodetest.Awaited(1, nodetest.Young), alarm, time.Time{}},
		"withdrawn, a deadline":  {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, nodetest.DeadlineAfter(90*time.Minute)), nodetest.Now.Add(30 * time.Minute)},
		"claimed, until its end": {nodetest.Awaited(1, nodetest.Due), nodetest.Edits(alarm, nodetest.Claimed("csr-a")), nodetest.Token(1, nodetest.Due).Expires},
		"a Lease is polled":      {nodetest.Awaited(1, nodetest.Young), nodetest.Edits(alarm, func(f *lifecycle.Facts) { f.Node = nodetest.NodeMade(nodetest.Minutes(50)) }), nodetest.Now.Add(nodetest.Minutes(5))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			if p := nodetest.Decide(tt.facts, nodetest.Now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}
