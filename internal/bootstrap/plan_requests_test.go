// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"reflect"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func with(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
	return func(f *Facts) { f.Requests = requests }
}

func forNode(node string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = kubeletPEM(r.Name, node) }
}

func approval(mode v1alpha1.Approval) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Spec.ClientCertificate.Approval = mode }
}

func TestDecideOnRequests(t *testing.T) {
	const failed, isDenied = certificatesv1.CertificateFailed, certificatesv1.CertificateDenied
	first := outline{phase: Awaited, token: "#1"}
	verdicts := func(v string) outline { return outline{phase: Awaited, token: "#1", verdicts: v} }
	deleted := func(name string) outline { return outline{phase: Awaited, token: "#1", deleteCSR: name} }
	a := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return request("csr-a", 1, minutes(1), edit...)
	}
	gone := func(f *Facts) { f.NodeBootstrap, f.TokenSecrets, f.Kubeconfig = nil, nil, nil }
	testPlans(t, map[string]planned{
		"pending":                      {awaited(1, young), with(a()), verdicts("csr-a: Approved")},
		"pending, approval Node":       {awaited(1, young), edits(with(a()), approval(v1alpha1.ApprovalNode)), verdicts("csr-a: Approved")},
		"pending, approval Manual":     {awaited(1, young), edits(with(a()), approval(v1alpha1.ApprovalManual)), first},
		"pending, no cluster":          {awaited(1, young), edits(with(a()), noCluster), outline{phase: Awaited, token: "#1", problem: v1alpha1.ReasonServerUnknown, verdicts: "csr-a: Approved"}},
		"for another node":             {awaited(1, young), with(a(forNode("worker-2"))), withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"for another node, Manual":     {awaited(1, young), edits(with(a(forNode("worker-2"))), approval(v1alpha1.ApprovalManual)), withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"approved":                     {awaited(1, young), with(a(approved(0))), first},
		"approved and issued":          {awaited(1, young), with(a(approved(0), withCertificate)), first},
		"denied":                       {awaited(1, young), with(a(decided(isDenied, 0))), first},
		"failed":                       {awaited(1, young), with(a(decided(failed, 0))), first},
		"sent before the token":        {awaited(1, young), with(request("csr-a", 1, minutes(61))), deleted("csr-a")},
		"sent in the second it":        {awaited(1, young), with(request("csr-a", 1, minutes(60))), verdicts("csr-a: Approved")},
		"approved before the token":    {awaited(1, young), with(request("csr-a", 1, minutes(61), approved(0))), deleted("csr-a")},
		"issued before the token":      {awaited(1, young), with(request("csr-a", 1, minutes(61), approved(0), withCertificate)), first},
		"with a token that is gone":    {awaited(1, young), with(request("csr-a", 7, minutes(1))), deleted("csr-a")},
		"the same, approved":           {awaited(1, young), with(request("csr-a", 7, minutes(1), approved(0))), deleted("csr-a")},
		"the same, denied":             {awaited(1, young), with(request("csr-a", 7, minutes(1), decided(isDenied, 0))), first},
		"the same, issued":             {awaited(1, young), with(request("csr-a", 7, minutes(1), approved(0), withCertificate)), first},
		"the same, approval Manual":    {awaited(1, young), edits(with(request("csr-a", 7, minutes(1))), approval(v1alpha1.ApprovalManual)), deleted("csr-a")},
		"with a token that expired":    {awaited(1, old), with(a()), outline{phase: Awaited, mint: "#2", deleteToken: "#1", deleteCSR: "csr-a"}},
		"a reissue is due":             {awaited(1, young), edits(with(a()), askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1", deleteCSR: "csr-a"}},
		"a reissue is due, approved":   {awaited(1, young), edits(with(a(approved(0))), askReissue), outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1", deleteCSR: "csr-a"}},
		"joined":                       {joinedBefore(), with(a()), outline{phase: Joined, deleteCSR: "csr-a"}},
		"joined, approved":             {joinedBefore(), with(a(approved(0))), outline{phase: Joined, deleteCSR: "csr-a"}},
		"joined, issued":               {joinedBefore(), with(a(approved(0), withCertificate)), outline{phase: Joined}},
		"orphaned":                     {awaited(1, young), edits(with(a()), gone), outline{phase: Gone, deleteCSR: "csr-a"}},
		"orphaned, approved":           {awaited(1, young), edits(with(a(approved(0))), gone), outline{phase: Gone, deleteCSR: "csr-a"}},
		"orphaned, issued":             {awaited(1, young), edits(with(a(approved(0), withCertificate)), gone), outline{phase: Gone}},
		"orphaned, denied":             {awaited(1, young), edits(with(a(decided(isDenied, 0))), gone), outline{phase: Gone}},
		"two keys":                     {awaited(1, young), with(a(), request("csr-b", 1, 0)), verdicts("csr-b: Approved, csr-a: Denied")},
		"the same key twice":           {awaited(1, young), with(a(), request("csr-a/2", 1, 0)), verdicts("csr-a/2: Approved, csr-a: Approved")},
		"another's and then its own":   {awaited(1, young), with(a(forNode("worker-2")), request("csr-b", 1, 0)), withdrawn("csr-a: Denied", csr.ReasonWrongSubject)},
		"the predecessor's and its":    {awaited(2, young), func(f *Facts) { f.addToken(1, due); with(a(), request("csr-b", 2, 0))(f) }, outline{phase: Awaited, token: "#2", verdicts: "csr-b: Approved, csr-a: Approved"}},
		"another key is claimed":       {awaited(1, young), edits(recorded(minutes(2), 1), with(a())), alarmed("csr-a: Denied", "")},
		"claimed while it was waiting": {awaited(1, young), edits(recorded(minutes(0), 1), with(a())), verdicts("csr-a: Denied")},
		"a key claimed with another":   {awaited(1, young), edits(recorded(minutes(2), 7), with(a())), verdicts("csr-a: Approved")},
		"another key was denied":       {awaited(1, young), edits(denied(minutes(2)), with(a())), verdicts("csr-a: Approved")},
		"claimed, then a crash":        {awaited(1, young), edits(with(a()), claimed("csr-a")), verdicts("csr-a: Approved")},
		"claimed, another one in line": {awaited(1, young), edits(with(request("csr-b", 1, 0), a()), claimed("csr-a")), alarmed("csr-b: Denied, csr-a: Approved", "")},
	})
}

// ClusterWide changes the token's groups too, so that a token made under Node has to be repaired.
func TestDecideLeavesRequestsToOthers(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1)), request("csr-b", 1, minutes(1), forNode("worker-2"))}
	p := decide(f, now)
	if got, want := outlineOf(&p), (outline{phase: Awaited, token: "#1", repair: "#1"}); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A request that was sent with approval ClusterWide has the further group: it is still the node's own.
func TestDecideApprovesAfterClusterWide(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(1), func(r *certificatesv1.CertificateSigningRequest) {
		r.Spec.Groups = append(r.Spec.Groups, ClusterWideGroup)
	})}
	if p := decide(f, now); len(p.Decisions) != 1 || p.Decisions[0].Result.Verdict != csr.Approve {
		t.Errorf("got %+v", p.Decisions)
	}
}

// claimed is the state after a crash between the claim on a request's key and its approval.
func claimed(name string) func(*Facts) {
	return func(f *Facts) {
		d := approvedDecision(name, 1, minutes(1))
		d.KeyFingerprint, d.IssuedTime = must(csr.Fingerprint(request(name, 1, 0))), nil
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	}
}

func TestDecisionRecord(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0), request("csr-b", 1, minutes(1))}
	later := now.Add(300e6) // a status holds whole seconds: otherwise it would differ from what is read back
	p := decide(f, later)
	want := []v1alpha1.CertificateDecision{
		{Name: "csr-a", UID: "csr-a", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nthID(1),
			KeyFingerprint: must(csr.Fingerprint(f.Requests[0])), Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient, Time: metav1.NewTime(now)},
		{Name: "csr-b", UID: "csr-b", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nthID(1),
			KeyFingerprint: must(csr.Fingerprint(f.Requests[1])), Verdict: v1alpha1.VerdictDenied, Reason: csr.ReasonSuperseded, Time: metav1.NewTime(now),
			Message: p.Decisions[1].Result.Message},
	}
	if got := p.Claimed(f, later).Certificates; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
