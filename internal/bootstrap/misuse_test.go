// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// edits are several in one.
func edits(list ...func(*Facts)) func(*Facts) {
	return func(f *Facts) {
		for _, edit := range list {
			edit(f)
		}
	}
}

// withdrawn is the plan for the first token when it was misused, and alarmed the one when a key was approved with it.
func withdrawn(verdicts, misuse string) outline {
	return outline{phase: Withdrawn, deleteToken: "#1", dropConfig: true, verdicts: verdicts, misuse: misuse}
}

func alarmed(verdicts, misuse string) outline {
	return outline{phase: Awaited, token: "#1", verdicts: verdicts, misuse: misuse}
}

func (o outline) deleting(requests string) outline {
	o.deleteCSR = requests
	return o
}

func (o outline) repairing(tokens string) outline {
	o.repair = tokens
	return o
}

func asks(signer string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = signer }
}

func inAnotherGroup(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.Groups = append(r.Spec.Groups, "admins")
}

// Of these requests one is evidence that the token is in wrong hands, or looks like it.
func TestDecideOnEvidence(t *testing.T) {
	const isDenied, failed = certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	other := forNode("worker-2")
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return further(request("csr-a", 1, minutes(1), edit...))
	}
	b := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return further(request("csr-b", 1, 0, edit...))
	}
	claim := claimed("csr-c") // a minute ago
	predecessor := func(f *Facts) { f.addToken(1, due) }
	first, clean := outline{phase: Awaited, token: "#1"}, func(v string) outline { return alarmed(v, "") }
	testPlans(t, map[string]planned{
		"another node":                    {awaited(1, young), a(other), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, a key is approved": {awaited(1, young), edits(a(other), claim), alarmed("csr-a: Denied", "WrongSubject")},
		"another node, approved":          {awaited(1, young), a(other, approved(0)), withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, issued":            {awaited(1, young), a(other, approved(0), withCertificate), withdrawn("csr-a: Approved", "WrongSubject")},
		"another node, denied":            {awaited(1, young), a(other, decided(isDenied, 0)), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, failed":            {awaited(1, young), a(other, decided(failed, 0)), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, the token gone":    {awaited(1, young), further(request("csr-a", 7, minutes(1), other)), first.deleting("csr-a")},
		"another node, before the token":  {awaited(1, young), further(request("csr-a", 1, minutes(61), other)), first.deleting("csr-a")},
		"a name that begins like it":      {awaited(1, young), a(func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = kubeletPEM(r.Name, testNode+"x") }), withdrawn("csr-a: Denied", "WrongSubject")},

		"another signer":                    {awaited(1, young), a(anotherSigner), withdrawn("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"another signer, a key is approved": {awaited(1, young), edits(a(anotherSigner), claim), alarmed("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"a signer of no one":                {awaited(1, young), a(asks("example.com/signer")), withdrawn("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"the signer of serving":             {awaited(1, young), a(asks(certificatesv1.KubeletServingSignerName)), withdrawn("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"another signer for another node":   {awaited(1, young), a(anotherSigner, other), withdrawn("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"another signer, approved":          {awaited(1, young), a(anotherSigner, approved(0)), withdrawn("csr-a: Approved", "WrongSigner")},
		"another signer, denied":            {awaited(1, young), a(anotherSigner, decided(isDenied, 0)), withdrawn("csr-a: Denied", "WrongSigner")},

		"a second key":                      {awaited(1, young), edits(claim, b()), clean("csr-b: Denied")},
		"a second key after an approval":    {awaited(1, young), edits(further(request("csr-c", 1, minutes(5), approved(minutes(2)))), a()), clean("csr-a: Denied")},
		"a second key, approved":            {awaited(1, young), edits(claim, further(request("csr-c", 1, minutes(5), approved(minutes(2)))), b(approved(0))), clean("csr-b: Approved")},
		"a second key, the first is used":   {awaited(1, young), edits(claim, registered(0), b()), alarmed("csr-b: Denied", "SecondKey")},
		"the same, approved":                {awaited(1, young), edits(claim, registered(0), b(approved(0))), alarmed("csr-b: Approved", "SecondKey")},
		"the same key again":                {awaited(1, young), edits(claim, further(request("csr-c/2", 1, 0))), clean("csr-c/2: Approved")},
		"a key that was waiting":            {awaited(1, young), edits(claim, further(request("csr-b", 1, minutes(2)))), clean("csr-b: Denied")},
		"waiting until an approval":         {awaited(1, young), edits(further(request("csr-c", 1, minutes(5), approved(minutes(2)))), further(request("csr-b", 1, minutes(3)))), clean("csr-b: Denied")},
		"a key that was waiting, approved":  {awaited(1, young), edits(claim, further(request("csr-b", 1, minutes(2), approved(0)))), first},
		"a key of the renewed token":        {awaited(2, young), edits(predecessor, claim, further(request("csr-b", 2, 0))), outline{phase: Awaited, token: "#2", verdicts: "csr-b: Approved"}},
		"the same key with the renewed one": {awaited(2, young), edits(predecessor, claim, further(request("csr-c/2", 2, 0))), outline{phase: Awaited, token: "#2", verdicts: "csr-c/2: Approved"}},

		"no evidence: too long":          {awaited(1, young), a(tooLong), clean("csr-a: Denied")},
		"no evidence: in another group":  {awaited(1, young), a(inAnotherGroup), clean("csr-a: Denied")},
		"no evidence: its own":           {awaited(1, young), a(approved(0)), first},
		"no evidence: its own, too long": {awaited(1, young), a(tooLong, approved(0)), first},

		"a sound one with it":            {awaited(1, young), edits(a(other), b()), withdrawn("csr-a: Denied", "WrongSubject")},
		"a sound one before it":          {awaited(1, young), edits(a(), b(other)), withdrawn("csr-b: Denied", "WrongSubject")},
		"a sound one, a key is approved": {awaited(1, young), edits(claim, a(other), further(request("csr-c/2", 1, 0))), alarmed("csr-c/2: Approved, csr-a: Denied", "WrongSubject")},
		"two kinds, the newest is told":  {awaited(1, young), edits(a(other), b(anotherSigner)), withdrawn("csr-b: Denied, csr-a: Denied", "WrongSigner").deleting("csr-b")},
		"with the predecessor": {awaited(2, young), edits(predecessor, a(other)), outline{phase: Withdrawn, deleteToken: "#2 #1", dropConfig: true,
			verdicts: "csr-a: Denied", misuse: "WrongSubject"}},
		"with a token that is renewed now": {awaited(1, due), a(other), withdrawn("csr-a: Denied", "WrongSubject")},
		"with one that expired":            {awaited(1, old), a(other), outline{phase: Awaited, mint: "#2", deleteToken: "#1"}.deleting("csr-a")},
		"joined":                           {joinedBefore(), a(other), outline{phase: Joined}.deleting("csr-a")},
		"a reissue is due":                 {awaited(1, young), edits(a(other), askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}.deleting("csr-a")},
		"no cluster": {awaited(1, young), edits(a(other), noCluster), outline{phase: Withdrawn, deleteToken: "#1", dropConfig: true,
			verdicts: "csr-a: Denied", misuse: "WrongSubject", problem: "ServerUnknown"}},
	})
}

func TestDecideOnEvidenceWithApprovalManual(t *testing.T) {
	manual := approval(v1alpha1.ApprovalManual)
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return edits(manual, further(request("csr-a", 1, minutes(1), edit...)))
	}
	first := outline{phase: Awaited, token: "#1"}
	person := func(age time.Duration) func(*Facts) { // a person has approved a key
		return edits(manual, further(request("csr-c", 1, minutes(20), approved(age))))
	}
	testPlans(t, map[string]planned{
		"sound":                 {awaited(1, young), a(), first},
		"two keys":              {awaited(1, young), edits(a(), further(request("csr-b", 1, 0))), first},
		"another node":          {awaited(1, young), a(forNode("worker-2")), withdrawn("csr-a: Denied", "WrongSubject")},
		"another node, a key":   {awaited(1, young), edits(person(minutes(2)), a(forNode("worker-2"))), alarmed("csr-a: Denied", "WrongSubject")},
		"another signer":        {awaited(1, young), a(anotherSigner), withdrawn("csr-a: Denied", "WrongSigner").deleting("csr-a")},
		"too long":              {awaited(1, young), a(tooLong), alarmed("csr-a: Denied", "")},
		"a second key":          {awaited(1, young), edits(person(minutes(2)), a()), alarmed("csr-a: Denied", "")},
		"a second key, used":    {awaited(1, young), edits(person(minutes(2)), registered(minutes(1)), a()), alarmed("csr-a: Denied", "SecondKey")},
		"a key that waited":     {awaited(1, young), edits(person(0), a()), alarmed("csr-a: Denied", "")},
		"a second, approved":    {awaited(1, young), edits(person(minutes(2)), a(approved(0))), alarmed("csr-a: Approved", "")},
		"the same, used":        {awaited(1, young), edits(person(minutes(2)), registered(minutes(1)), a(approved(0))), alarmed("csr-a: Approved", "SecondKey")},
		"approved while it was": {awaited(1, young), edits(person(0), a(approved(0))), first},
		"the key once more":     {awaited(1, young), edits(person(minutes(2)), further(request("csr-c/2", 1, 0))), first},
		"another, a sound one":  {awaited(1, young), edits(a(forNode("worker-2")), further(request("csr-b", 1, 0))), withdrawn("csr-a: Denied", "WrongSubject")},
		"approved elsewhere":    {awaited(1, young), a(forNode("worker-2"), approved(0)), withdrawn("csr-a: Approved", "WrongSubject")},
	})
}

// kube-controller-manager approves: nothing is denied, deleted or withdrawn, and what it approved for others is told.
func TestDecideOnEvidenceWithApprovalClusterWide(t *testing.T) {
	wide := approval(v1alpha1.ApprovalClusterWide)
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return edits(wide, further(request("csr-a", 1, minutes(1), edit...)))
	}
	none := outline{phase: Awaited, token: "#1"}.repairing("#1") // its groups
	evidence := func(misuse string) outline { return alarmed("csr-a: Approved", misuse).repairing("#1") }
	testPlans(t, map[string]planned{
		"sound":                      {awaited(1, young), a(), none},
		"sound, approved":            {awaited(1, young), a(approved(0), withCertificate), none},
		"another node":               {awaited(1, young), a(forNode("worker-2")), none},
		"another node, approved":     {awaited(1, young), a(forNode("worker-2"), approved(0)), evidence("WrongSubject")},
		"another node, issued":       {awaited(1, young), a(forNode("worker-2"), approved(0), withCertificate), evidence("WrongSubject")},
		"another signer":             {awaited(1, young), a(anotherSigner), none},
		"another signer, approved":   {awaited(1, young), a(anotherSigner, approved(0)), evidence("WrongSigner")},
		"too long":                   {awaited(1, young), a(tooLong), none},
		"too long, approved":         {awaited(1, young), a(tooLong, approved(0)), none},
		"a second key":               {awaited(1, young), edits(claimed("csr-c"), a()), none},
		"a second key, approved":     {awaited(1, young), edits(claimed("csr-c"), a(approved(0))), none},
		"two keys approved":          {awaited(1, young), edits(a(approved(0)), further(request("csr-b", 1, 0, approved(0)))), none},
		"before the token":           {awaited(1, young), edits(wide, further(request("csr-a", 1, minutes(61)))), none.deleting("csr-a")},
		"with a token that is gone":  {awaited(1, young), edits(wide, further(request("csr-a", 7, minutes(1)))), none.deleting("csr-a")},
		"an alarm, and one more":     {awaited(1, young), edits(a(forNode("worker-2"), approved(0)), raised("SecondKey")), evidence("WrongSubject")},
		"an alarm, and a due token":  {awaited(1, due), edits(wide, raised("SecondKey")), outline{phase: Awaited, token: "#1", mint: "#2"}.repairing("#1")},
		"an alarm, and no token":     {fresh(), edits(wide, raised("SecondKey")), outline{phase: Awaited, mint: "#1"}},
		"the token's owner has gone": {awaited(1, young), edits(a(forNode("worker-2"), approved(0)), func(f *Facts) { f.NodeBootstrap = nil }), outline{phase: Gone, deleteToken: "#1", dropConfig: true}.deleting("csr-a")},
	})
}

// The record of a request that another approver approved says so, and the evidence names request, token and what to do.
func TestEvidenceIsToldInFull(t *testing.T) {
	tests := map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		verdict v1alpha1.Verdict
		reason  string
		result  csr.Verdict
		named   []string
	}{
		"denied": {request("csr-a", 1, 0, forNode("worker-2")), v1alpha1.VerdictDenied, csr.ReasonWrongSubject, csr.Deny, []string{"worker-2", "reissue-requested-at"}},
		"approved": {request("csr-a", 1, 0, forNode("worker-2"), approved(0)), v1alpha1.VerdictApproved, csr.ReasonWrongSubject, csr.Leave,
			[]string{"someone else approved it although", "worker-2"}},
		"deleted": {request("csr-a", 1, 0, anotherSigner), v1alpha1.VerdictDenied, csr.ReasonWrongSigner, csr.Leave, []string{certificatesv1.KubeAPIServerClientSignerName}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{tt.request}
			p := decide(f, now.Add(300*time.Millisecond))
			if len(p.Decisions) != 1 {
				t.Fatalf("got %+v", outlineOf(&p))
			}
			want := v1alpha1.CertificateDecision{Name: "csr-a", UID: "csr-a", SignerName: tt.request.Spec.SignerName, TokenID: nthID(1),
				KeyFingerprint: p.Decisions[0].Result.KeyFingerprint, Verdict: tt.verdict, Reason: tt.reason, Time: metav1.NewTime(now)}
			if tt.verdict == v1alpha1.VerdictDenied {
				want.Message = shortened(p.Decisions[0].Result.Message)
			}
			if got := p.Decisions[0].Record; !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if key, _ := csr.Fingerprint(tt.request); tt.reason == csr.ReasonWrongSubject && p.Decisions[0].Record.KeyFingerprint != key {
				t.Errorf("got the key %s, want %s", p.Decisions[0].Record.KeyFingerprint, key)
			}
			if got := p.Decisions[0].Result.Verdict; got != tt.result {
				t.Errorf("%s is carried out", verdictNames[got])
			}
			for _, want := range append(tt.named, "csr-a", nthID(1)) {
				if !strings.Contains(p.Misuse.Message, want) {
					t.Errorf("%q is not in the message: %s", want, p.Misuse.Message)
				}
			}
			leaks(t, "the evidence", p.Misuse.Message)
		})
	}
}
