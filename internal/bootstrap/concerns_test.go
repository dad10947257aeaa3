// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// spoilt requests were sent with the node's token and are not for the node's client certificate.
var spoilt = map[string]func(*certificatesv1.CertificateSigningRequest){
	"another node":        forNode("worker-2"),
	"a longer name":       forNode("worker-10"),
	"a shorter name":      forNode("worker-"),
	"another signer":      anotherSigner,
	"the serving signer":  asks(certificatesv1.KubeletServingSignerName),
	"none that is parsed": func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("junk") },
}

func TestConcerns(t *testing.T) {
	f := awaited(1, young)
	good := map[string]*certificatesv1.CertificateSigningRequest{
		"its own":          request("csr-a", 1, 0),
		"its own, wrongly": request("csr-a", 1, 0, tooLong, inAnotherGroup),
		"of any token":     request("csr-a", 7, 0, approved(0), withCertificate),
	}
	for name, r := range good {
		if !f.concerns(r) {
			t.Errorf("%s does not concern the node", name)
		}
		f.Requests = append(f.Requests, r)
	}
	for name, spoil := range spoilt {
		r := request("csr-b", 1, 0, spoil)
		if f.concerns(r) {
			t.Errorf("%s concerns the node", name)
		}
		f.Requests = append(f.Requests, r)
	}
	if own, all := len(f.ownRequests()), len(f.Requests); own != len(good) || all != len(good)+len(spoilt) {
		t.Errorf("%d of %d requests are its own", own, all)
	}
}

// A certificate for another name or of another signer is none that the node could have joined with.
func TestNodeDoesNotJoinWithAnothersCertificate(t *testing.T) {
	joins := map[string]func(*Facts){
		"a Lease renewed after": func(f *Facts) { f.Node, f.LeaseRenewed = nodeMade(old), now.Add(-minutes(18)) },
	}
	for how, join := range joins {
		f := asked()
		join(f)
		if !f.certificateUsed() {
			t.Errorf("%s: the node's own certificate is not used", how)
		}
		for name, spoil := range spoilt {
			f := asked()
			spoil(f.Requests[0])
			join(f)
			if p := decide(f, now); f.certificateUsed() || p.Phase == Joined {
				t.Errorf("%s, %s: it counts as the node's, and the plan is %+v", how, name, outlineOf(&p))
			}
		}
	}
}

// The same when only the record tells of it.
func TestNodeDoesNotJoinWithAnothersRecord(t *testing.T) {
	unissued := approvedDecision("csr-a", 1, minutes(70))
	unissued.IssuedTime = nil
	another := approvedDecision("csr-a", 1, minutes(19))
	another.SignerName = certificatesv1.KubeAPIServerClientSignerName
	serving := servingEntry("csr-a", v1alpha1.VerdictApproved, csr.ReasonKubeletServing, minutes(19))
	serving.IssuedTime = new(ago(minutes(19)))
	mine := approvedDecision("csr-a", 1, minutes(19))
	tests := map[string]struct {
		record v1alpha1.CertificateDecision
		want   bool
	}{
		"its own":                       {mine, true},
		"approved elsewhere":            {because(reasonApprovedElsewhere, mine), true},
		"another node's":                {because(csr.ReasonWrongSubject, mine), false},
		"a second key's":                {because(csr.ReasonSecondKey, mine), false},
		"one of too many":               {because(ReasonTooManyRequests, mine), false},
		"another signer's":              {another, false},
		"a serving certificate":         {serving, false},
		"issued unseen":                 {unissued, true},
		"another node's, unseen":        {because(csr.ReasonWrongSubject, unissued), false},
		"denied, and the request gone":  {because(csr.ReasonSuperseded, deniedDecision("csr-a", 1, minutes(70))), false},
		"ignored, and the request gone": {func() v1alpha1.CertificateDecision { d := decision('i', "csr-a"); d.Time = ago(minutes(70)); return d }(), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, 2*time.Hour)
			f.NodeBootstrap.Status.AwaitingSince = new(ago(2 * time.Hour))
			f.Node, f.LeaseRenewed = nodeMade(old), now
			records(tt.record)(f)
			f.UpgradeStatus()
			if got := f.certificateUsed(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Nothing is recorded as issued to the node that was not.
func TestReportRecordsTheNodesOwnCertificatesAlone(t *testing.T) {
	for name, spoil := range spoilt {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			approval(v1alpha1.ApprovalClusterWide)(f)
			f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(2), spoil, approved(minutes(1)), withCertificate)}
			for range 3 {
				pass(f)
			}
			for _, d := range f.NodeBootstrap.Status.Certificates {
				if ofThisNode(d) || d.IssuedTime != nil || d.Reason == reasonApprovedElsewhere {
					t.Errorf("got %+v", d)
				}
			}
		})
	}
}

// A person is asked to look at what they may approve.
func TestAwaitsPersonForTheNodesOwnRequest(t *testing.T) {
	f := awaited(1, young)
	approval(v1alpha1.ApprovalManual)(f)
	for name, spoil := range spoilt {
		f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0, spoil)}
		if awaitsPerson(f) {
			t.Errorf("%s: a person is asked", name)
		}
	}
	for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){"approved": approved(0), "denied": decided("Denied", 0), "failed": decided("Failed", 0)} {
		f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, 0, edit)}
		if awaitsPerson(f) {
			t.Errorf("%s: a person is asked", name)
		}
	}
	f.Requests = append(f.Requests, request("csr-b", 1, 0))
	if !awaitsPerson(f) {
		t.Error("no person is asked")
	}
	for _, mode := range []v1alpha1.Approval{"", v1alpha1.ApprovalNode, v1alpha1.ApprovalClusterWide} {
		if approval(mode)(f); awaitsPerson(f) {
			t.Errorf("with approval %q a person is asked", mode)
		}
	}
}
