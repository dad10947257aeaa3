// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

var expires = now.Add(40 * time.Minute)

// issuedFor is a request that was approved and has a certificate which expires at expires.
func issuedFor(name string, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	edit = append(edit, approved(time.Minute), func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Certificate = certificate(now.Add(-time.Hour), expires)
	})
	return request(name, 1, 2*time.Minute, edit...)
}

func TestCertificateThatOutlivesItsToken(t *testing.T) {
	reissued := func(f *Facts) { claimed("csr-a")(f); askReissue(f) }
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		edit    func(*Facts)
		want    bool
	}{
		"the node is awaited":               {issuedFor("csr-a"), claimed("csr-a"), false},
		"a reissue":                         {issuedFor("csr-a"), reissued, true},
		"a reissue, not issued yet":         {request("csr-a", 1, 2*time.Minute, approved(time.Minute)), reissued, false},
		"a reissue, pending":                {request("csr-a", 1, 2*time.Minute), reissued, false},
		"a reissue, the token has expired":  {issuedFor("csr-a"), func(f *Facts) { reissued(f); expireToken(f) }, false},
		"a person approved it":              {issuedFor("csr-a"), askReissue, true},
		"evidence that was approved":        {issuedFor("csr-a", forNode("worker-2")), func(*Facts) {}, true},
		"another signer, and it was signed": {issuedFor("csr-a", anotherSigner), func(*Facts) {}, true},
		"the node has joined": {issuedFor("csr-a"), func(f *Facts) {
			claimed("csr-a")(f)
			f.Node, f.NodeReported, f.LeaseRenewed = nodeMade(0), true, now
		}, false},
		"the signer was faster than the deletion": {issuedFor("csr-a"), func(f *Facts) { claimed("csr-a")(f); f.TokenSecrets = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			f.Requests = []*certificatesv1.CertificateSigningRequest{c.request}
			c.edit(f)
			p := decide(f, now)
			if stored := p.Claimed(f, now); stored != nil {
				f.NodeBootstrap.Status = *stored
			}
			s := Report(f, &p, &Outcome{}, now)
			condition := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionCertificateNotRevoked)
			if (condition != nil) != c.want {
				t.Fatalf("the condition is %+v, want one: %v", condition, c.want)
			}
			if c.want && (!strings.Contains(condition.Message, "csr-a") || !strings.Contains(condition.Message, expires.Format(time.RFC3339))) {
				t.Errorf("the message is %s", condition.Message)
			}
		})
	}
}

func expireToken(f *Facts) {
	f.TokenSecrets[0].Data["expiration"] = []byte(now.Add(-time.Second).Format(time.RFC3339))
	f.NodeBootstrap.Status.Token.ExpirationTime = metav1.NewTime(now.Add(-time.Second))
}

// It is stored before the token is deleted: after a crash in between nothing else tells that the token was revoked.
func TestOutlivingCertificateIsStoredFirst(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{issuedFor("csr-a")}
	claimed("csr-a")(f)
	askReissue(f)
	p := decide(f, now)
	stored := p.Claimed(f, now)
	if stored == nil || len(stored.UnrevokedCertificates) != 1 || !stored.UnrevokedCertificates[0].ExpirationTime.Time.Equal(expires) {
		t.Fatalf("what is stored first is %+v", stored)
	}
}

// The condition ends with the certificate, which the plan looks for.
func TestOutlivingCertificateExpires(t *testing.T) {
	f := awaited(1, young)
	d := approvedDecision("csr-a", 1, time.Minute)
	d.ExpirationTime = &metav1.Time{Time: expires}
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	p := decide(f, now)
	if p.RequeueAt.IsZero() || p.RequeueAt.After(expires) {
		t.Errorf("it looks again at %s, want by %s", p.RequeueAt, expires)
	}
	for at, want := range map[time.Time]bool{expires.Add(-time.Second): true, expires: false} {
		o := published(1, young)
		s := Report(f, &p, &o, at)
		if got := meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionCertificateNotRevoked); got != want {
			t.Errorf("at %s the condition is %v", at, got)
		}
	}
}

// Without a NodeBootstrap the plan names what outlives it.
func TestCertificateOutlivesItsNodeBootstrap(t *testing.T) {
	f := awaited(1, young)
	f.NodeBootstrap = nil
	f.Requests = []*certificatesv1.CertificateSigningRequest{issuedFor("csr-a"), request("csr-b", 1, time.Minute, approved(0))}
	p := decide(f, now)
	if len(p.Outliving) != 1 || p.Outliving[0].Name != "csr-a" {
		t.Errorf("what outlives it is %v", p.Outliving)
	}
}

func TestDenyBeforeDeletion(t *testing.T) {
	for name, c := range map[string]struct {
		request *certificatesv1.CertificateSigningRequest
		want    string
	}{
		"pending":                {request("csr-a", 1, 0), ReasonTokenRevoked},
		"for a serving signer":   {request("csr-a", 1, 0, asks(certificatesv1.KubeletServingSignerName)), ReasonTokenRevoked},
		"for another signer":     {request("csr-a", 1, 0, anotherSigner), ""},
		"approved":               {request("csr-a", 1, 0, approved(0)), ""},
		"denied":                 {request("csr-a", 1, 0, decided(certificatesv1.CertificateDenied, 0)), ""},
		"evidence, which is why": {request("csr-a", 1, 0, asks(certificatesv1.KubeletServingSignerName)), csr.ReasonWrongSigner},
	} {
		t.Run(name, func(t *testing.T) {
			p := Plan{}
			if c.want == csr.ReasonWrongSigner {
				p.Decisions = []Decision{{Request: c.request, Result: csr.Result{Verdict: csr.Leave, Reason: c.want}}}
			}
			got := p.DenyBeforeDeletion(c.request)
			if (got == nil) != (c.want == "") || got != nil && (got.Result.Verdict != csr.Deny || got.Result.Reason != c.want) {
				t.Errorf("got %+v, want %q", got, c.want)
			}
		})
	}
}
