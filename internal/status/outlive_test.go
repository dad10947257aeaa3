// SPDX-License-Identifier: Apache-2.0

package status_test

import (
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
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func TestCertificateThatOutlivesItsToken(t *testing.T) {
	reissued := func(f *lifecycle.Facts) { nodetest.Claimed("csr-a")(f); nodetest.AskReissue(f) }
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		edit    func(*lifecycle.Facts)
		want    bool
	}{
		"the node is awaited":               {nodetest.IssuedFor("csr-a"), nodetest.Claimed("csr-a"), false},
		"a reissue":                         {nodetest.IssuedFor("csr-a"), reissued, true},
		"a reissue, not issued yet":         {nodetest.Request("csr-a", 1, 2*time.Minute, nodetest.Approved(time.Minute)), reissued, false},
		"a reissue, pending":                {nodetest.Request("csr-a", 1, 2*time.Minute), reissued, false},
		"a reissue, the token has expired":  {nodetest.IssuedFor("csr-a"), func(f *lifecycle.Facts) { reissued(f); expireToken(f) }, false},
		"a person approved it":              {nodetest.IssuedFor("csr-a"), nodetest.AskReissue, true},
		"evidence that was approved":        {nodetest.IssuedFor("csr-a", nodetest.ForNode("worker-2")), func(*lifecycle.Facts) {}, true},
		"another signer, and it was signed": {nodetest.IssuedFor("csr-a", nodetest.AnotherSigner), func(*lifecycle.Facts) {}, true},
		"the node has joined": {nodetest.IssuedFor("csr-a"), func(f *lifecycle.Facts) {
			nodetest.Claimed("csr-a")(f)
			f.Node, f.NodeReported, f.LeaseRenewed = nodetest.NodeMade(0), true, nodetest.Now
		}, false},
		"the signer was faster than the deletion": {nodetest.IssuedFor("csr-a"), func(f *lifecycle.Facts) { nodetest.Claimed("csr-a")(f); f.TokenSecrets = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{c.request}
			c.edit(f)
			p := nodetest.Decide(f, nodetest.Now)
			if stored := status.Claimed(&p, f, nodetest.Now); stored != nil {
				f.NodeBootstrap.Status = *stored
			}
			s := status.Report(f, &p, &status.Outcome{}, nodetest.Now)
			condition := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionCertificateNotRevoked)
			if (condition != nil) != c.want {
				t.Fatalf("the condition is %+v, want one: %v", condition, c.want)
			}
			if c.want && (!strings.Contains(condition.Message, "csr-a") || !strings.Contains(condition.Message, nodetest.Expires.Format(time.RFC3339))) {
				t.Errorf("the message is %s", condition.Message)
			}
		})
	}
}

func expireToken(f *lifecycle.Facts) {
	f.TokenSecrets[0].Data["expiration"] = []byte(nodetest.Now.Add(-time.Second).Format(time.RFC3339))
	f.NodeBootstrap.Status.Token.ExpirationTime = metav1.NewTime(nodetest.Now.Add(-time.Second))
}

// It is stored before the token is deleted: after a crash in between nothing else records that the token was revoked.
func TestOutlivingCertificateIsStoredFirst(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{nodetest.IssuedFor("csr-a")}
	nodetest.Claimed("csr-a")(f)
	nodetest.AskReissue(f)
	p := nodetest.Decide(f, nodetest.Now)
	stored := status.Claimed(&p, f, nodetest.Now)
	if stored == nil || len(stored.UnrevokedCertificates) != 1 || !stored.UnrevokedCertificates[0].ExpirationTime.Time.Equal(nodetest.Expires) {
		t.Fatalf("stored first is %+v", stored)
	}
}

// The condition ends when the certificate expires; the plan requeues for that time.
func TestOutlivingCertificateExpires(t *testing.T) {
	f := nodetest.Awaited(1, nodetest.Young)
	d := nodetest.ApprovedDecision("csr-a", 1, time.Minute)
	d.ExpirationTime = &metav1.Time{Time: nodetest.Expires}
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	p := nodetest.Decide(f, nodetest.Now)
	if p.RequeueAt.IsZero() || p.RequeueAt.After(nodetest.Expires) {
		t.Errorf("it requeues at %s, want by %s", p.RequeueAt, nodetest.Expires)
	}
	for at, want := range map[time.Time]bool{nodetest.Expires.Add(-time.Second): true, nodetest.Expires: false} {
		o := published(1, nodetest.Young)
		s := status.Report(f, &p, &o, at)
		if got := meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionCertificateNotRevoked); got != want {
			t.Errorf("at %s the condition is %v", at, got)
		}
	}
}

// The operator's own approval was recorded as someone else's after the NodeBootstrap was deleted and created again.
func TestOwnApprovalIsNotSomeoneElses(t *testing.T) {
	for reason, want := range map[string]string{csr.ReasonKubeletClient: csr.ReasonKubeletClient, "KubectlApprove": "ApprovedElsewhere", "": "ApprovedElsewhere"} {
		r := nodetest.Request("csr-a", 1, nodetest.Minutes(3), nodetest.Judged(certificatesv1.CertificateApproved, reason, "x", nodetest.Minutes(2)), nodetest.WithCertificate)
		var s v1alpha1.NodeBootstrapStatus
		if decisions.RecordIssued(&s, []*certificatesv1.CertificateSigningRequest{r}); len(s.Certificates) != 1 || s.Certificates[0].Reason != want {
			t.Errorf("%q is recorded as %+v", reason, s.Certificates)
		}
	}
}
