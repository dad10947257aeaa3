// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// records has these decisions recorded.
func records(decisions ...v1alpha1.CertificateDecision) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Status.Certificates = decisions }
}

// because gives a decision another reason.
func because(reason string, d v1alpha1.CertificateDecision) v1alpha1.CertificateDecision {
	d.Reason = reason
	return d
}

// What an alarm that stands means for tokens.
func TestDecideWhileAnAlarmStands(t *testing.T) {
	alarm := raised(csr.ReasonWrongSubject)
	gone, stays := withdrawn("", ""), alarmed("", "")
	mine, theirs := approvedDecision("csr-a", 1, minutes(20)), approvedDecision("csr-b", 2, minutes(20))
	another := because(csr.ReasonWrongSigner, mine)
	another.SignerName = certificatesv1.KubeAPIServerClientSignerName
	asked := func(n int, edit ...func(*certificatesv1.CertificateSigningRequest)) func(*Facts) {
		return further(request("csr-a", n, minutes(20), edit...))
	}
	predecessor := func(f *Facts) { f.addToken(1, due) }
	both := func() *Facts {
		f := awaited(2, young)
		edits(alarm, predecessor)(f)
		return f
	}
	testPlans(t, map[string]planned{
		"no key":                            {awaited(1, young), alarm, gone},
		"no key, no kubeconfig":             {awaited(1, young), edits(alarm, func(f *Facts) { f.Kubeconfig = nil }), outline{phase: Withdrawn, deleteToken: "#1"}},
		"no key, another's kubeconfig":      {awaited(1, young), edits(alarm, func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }), outline{phase: Withdrawn, deleteToken: "#1", problem: "ObjectNotOurs"}},
		"no key, no cluster":                {awaited(1, young), edits(alarm, noCluster), outline{phase: Withdrawn, deleteToken: "#1", dropConfig: true, problem: "ServerUnknown"}},
		"no key, past the deadline":         {awaited(1, young), edits(alarm, deadlineAfter(30*time.Minute)), gone},
		"no key, renewal due":               {awaited(1, due), alarm, gone},
		"no key, approval Manual":           {awaited(1, young), edits(alarm, approval(v1alpha1.ApprovalManual)), gone},
		"no token":                          {fresh(), alarm, outline{phase: Withdrawn}},
		"no token, past the deadline":       {fresh(), edits(alarm, deadlineAfter(time.Minute)), outline{phase: Withdrawn}},
		"the token expired":                 {awaited(1, old), alarm, gone},
		"a key is recorded":                 {awaited(1, young), edits(alarm, records(mine)), stays},
		"a key is recorded, Manual":         {awaited(1, young), edits(alarm, records(mine), approval(v1alpha1.ApprovalManual)), stays},
		"a key is recorded, renewal due":    {awaited(1, due), edits(alarm, records(mine)), stays},
		"a key is recorded, it expired":     {awaited(1, old), edits(alarm, records(mine)), gone},
		"a key is recorded, no cluster":     {awaited(1, young), edits(alarm, records(mine), noCluster), outline{phase: Awaited, token: "#1", problem: "ServerUnknown"}},
		"a key is recorded, it was edited":  {awaited(1, young), edits(alarm, records(mine), func(f *Facts) { delete(f.TokenSecrets[0].Data, "auth-extra-groups") }), stays.repairing("#1")},
		"a key was approved elsewhere":      {awaited(1, young), edits(alarm, records(because(reasonApprovedElsewhere, mine))), stays},
		"a request is approved":             {awaited(1, young), edits(alarm, asked(1, approved(0))), stays},
		"a request has its certificate":     {awaited(1, young), edits(alarm, asked(1, approved(0), withCertificate)), stays},
		"a request was denied":              {awaited(1, young), edits(alarm, asked(1, decided(certificatesv1.CertificateDenied, 0))), gone},
		"a denial is recorded":              {awaited(1, young), edits(alarm, records(deniedDecision("csr-a", 1, 0))), gone},
		"another token's key is recorded":   {awaited(1, young), edits(alarm, records(theirs)), gone},
		"another token's is approved":       {awaited(1, young), edits(alarm, further(request("csr-a", 7, minutes(20), approved(0), withCertificate))), gone},
		"another node's is recorded":        {awaited(1, young), edits(alarm, records(because(csr.ReasonWrongSubject, mine))), gone},
		"another node's is approved":        {awaited(1, young), edits(alarm, records(because(csr.ReasonWrongSubject, mine)), asked(1, approved(0), forNode("worker-2"))), gone},
		"another signer's is recorded":      {awaited(1, young), edits(alarm, records(another)), gone},
		"another signer's is approved":      {awaited(1, young), edits(alarm, records(another), asked(1, approved(0), anotherSigner)), gone},
		"a serving certificate is recorded": {awaited(1, young), edits(alarm, records(servingEntry("s", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, 0))), gone},

		"two tokens, no key":         {both(), nil, outline{phase: Withdrawn, deleteToken: "#2 #1", dropConfig: true}},
		"two, the predecessor's key": {both(), records(mine), outline{phase: Awaited, token: "#1", deleteToken: "#2"}},
		"two, the successor's key":   {both(), records(theirs), outline{phase: Awaited, token: "#2", deleteToken: "#1"}},
		"two, keys of both":          {both(), records(mine, theirs), outline{phase: Awaited, token: "#2"}},

		"a sound request":                 {awaited(1, young), edits(alarm, asked(1)), gone},
		"a sound request of the key":      {awaited(1, young), edits(alarm, claimed("csr-c"), further(request("csr-c/2", 1, 0))), alarmed("csr-c/2: Approved", "")},
		"a sound request of another one":  {awaited(1, young), edits(alarm, claimed("csr-c"), further(request("csr-b", 1, 0))), alarmed("csr-b: Denied", "")},
		"the same, with replacement keys": {awaited(1, young), edits(alarm, replacements(7), claimed("csr-c"), further(request("csr-b", 1, 0))), alarmed("csr-b: Denied", "")},
		"the same, the key is used":       {awaited(1, young), edits(alarm, claimed("csr-c"), registered(0), further(request("csr-b", 1, 0))), alarmed("csr-b: Denied", "SecondKey")},
		"a bad request":                   {awaited(1, young), edits(alarm, asked(1, tooLong)), withdrawn("csr-a: Denied", "")},
		"requests of a token withdrawn":   {awaited(1, young), edits(alarm, asked(1), func(f *Facts) { f.TokenSecrets, f.Kubeconfig = nil, nil }), outline{phase: Withdrawn}.deleting("csr-a")},
		"evidence of a token withdrawn":   {awaited(1, young), edits(alarm, asked(1, forNode("worker-2")), func(f *Facts) { f.TokenSecrets, f.Kubeconfig = nil, nil }), outline{phase: Withdrawn}.deleting("csr-a")},
		"certificates stay, once issued":  {awaited(1, young), edits(alarm, asked(7, approved(0), withCertificate)), gone},
		"approved with a token withdrawn": {awaited(1, young), edits(alarm, asked(7, approved(0))), gone.deleting("csr-a")},

		"a reissue is due":             {awaited(1, young), edits(alarm, askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"a reissue is due, a key":      {awaited(1, young), edits(alarm, askReissue, records(mine)), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"a reissue is due, no token":   {awaited(1, young), edits(alarm, askReissue, func(f *Facts) { f.TokenSecrets = nil }), outline{phase: Awaited, reissue: true, mint: "#2"}},
		"a reissue is due, no cluster": {awaited(1, young), edits(alarm, askReissue, noCluster), outline{phase: Awaited, reissue: true, problem: "ServerUnknown", deleteToken: "#1", dropConfig: true}},
		"a reissue was handled before": {awaited(1, young), edits(alarm, handledReissue), gone},

		"joined":               {joinedBefore(), alarm, outline{phase: Joined}},
		"joined, a token left": {joinedBefore(), edits(alarm, func(f *Facts) { f.addToken(1, young) }), outline{phase: Joined, deleteToken: "#1"}},
		"the Node was deleted": {joinedBefore(), edits(alarm, func(f *Facts) { f.Node = nil }), outline{phase: Withdrawn}},
		"no NodeBootstrap":     {awaited(1, young), edits(alarm, func(f *Facts) { f.NodeBootstrap = nil }), outline{phase: Gone, deleteToken: "#1", dropConfig: true}},
		"a condition that is not True": {awaited(1, young), edits(alarm, func(f *Facts) {
			meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionFalse})
		}), stays},
	})
}

// With nothing left to renew, nothing is looked at again.
func TestDecideLooksAgainWithAnAlarm(t *testing.T) {
	alarm := raised(csr.ReasonWrongSubject)
	tests := map[string]struct {
		facts *Facts
		edit  func(*Facts)
		want  time.Time
	}{
		"withdrawn":              {awaited(1, young), alarm, time.Time{}},
		"withdrawn, a deadline":  {awaited(1, young), edits(alarm, deadlineAfter(90*time.Minute)), now.Add(30 * time.Minute)},
		"claimed, until its end": {awaited(1, due), edits(alarm, claimed("csr-a")), token(1, due).Expires},
		"a Lease is polled":      {awaited(1, young), edits(alarm, func(f *Facts) { f.Node = nodeMade(minutes(50)) }), now.Add(minutes(5))},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.edit(tt.facts)
			if p := decide(tt.facts, now); !p.RequeueAt.Equal(tt.want) {
				t.Errorf("got %s, want %s", p.RequeueAt, tt.want)
			}
		})
	}
}
