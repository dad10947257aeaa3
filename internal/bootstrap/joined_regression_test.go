// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The Node's creation is stamped by the API server, and the condition by the operator, whose clock is half a second
// behind. The node has joined; that must not be forgotten in the next pass, before the kubelet has reported.
func TestJoinedIsNotForgottenByAClockBehind(t *testing.T) {
	f := awaited(1, young)
	made := now.Add(time.Second).Truncate(time.Second) // by the API server's clock
	behind := made.Add(-500 * time.Millisecond)        // by the operator's, at the same moment
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, time.Second, approved(0), withCertificate)}
	f.Node = nodeMade(0)
	f.Node.CreationTimestamp.Time = made
	for pass := range 3 {
		f.NodeReported, f.LeaseRenewed = pass == 0, time.Time{} // read only until it is known
		if pass == 0 {
			f.LeaseRenewed = made
		}
		p := decide(f, behind)
		if p.Phase != Joined {
			t.Fatalf("pass %d: %+v", pass, outlineOf(&p))
		}
		f.NodeBootstrap.Status = *Report(f, &p, &Outcome{}, behind)
		for i := range f.NodeBootstrap.Status.Conditions { // what is stored has whole seconds
			c := &f.NodeBootstrap.Status.Conditions[i]
			c.LastTransitionTime.Time = c.LastTransitionTime.Truncate(time.Second)
		}
		f.TokenSecrets, f.Kubeconfig = nil, nil
	}
}

// The node had joined, its token could not be revoked, and then its Node was deleted: the reinstalled machine has another key,
// with which the token would be of no use to it, and its request an alarm.
func TestATokenThatTheNodeJoinedWithIsSpent(t *testing.T) {
	joined := func(since *metav1.Time) *Facts {
		f := awaited(1, young)
		f.NodeBootstrap.Status.AwaitingSince = since
		records(approvedDecision("csr-a", 1, minutes(20)))(f)
		return f
	}
	spent := outline{phase: Awaited, mint: "#2", deleteToken: "#1"}
	testPlans(t, map[string]planned{
		"the pass that finds the Node gone": {joined(nil), nil, spent},
		"a later one":                       {joined(new(ago(minutes(10)))), nil, spent},
		"it has not joined yet":             {joined(new(ago(minutes(30)))), nil, outline{phase: Awaited, token: "#1"}},
		"its certificate is not issued": {joined(new(ago(minutes(10)))), func(f *Facts) {
			f.NodeBootstrap.Status.Certificates[0].IssuedTime = nil
		}, outline{phase: Awaited, token: "#1"}},
	})
}
