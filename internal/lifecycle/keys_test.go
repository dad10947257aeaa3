// SPDX-License-Identifier: Apache-2.0

package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
)

func TestKeyIsClaimed(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*v1alpha1.CertificateDecision)
		want bool
	}{
		"approved":              {func(*v1alpha1.CertificateDecision) {}, true},
		"approved by others":    {func(d *v1alpha1.CertificateDecision) { d.Reason = decisions.ReasonApprovedElsewhere }, true},
		"a theft, approved":     {func(d *v1alpha1.CertificateDecision) { d.Reason = csr.ReasonSecondKey }, true},
		"denied":                {func(d *v1alpha1.CertificateDecision) { d.Verdict = v1alpha1.VerdictDenied }, false},
		"serving":               {func(d *v1alpha1.CertificateDecision) { d.SignerName = certificatesv1.KubeletServingSignerName }, false},
		"another key":           {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "SHA256:11" }, false},
		"long ago":              {func(d *v1alpha1.CertificateDecision) { d.Time = nodetest.Ago(10 * csr.MaxLife) }, true},
		"the key was not known": {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			nb := nodetest.NodeBootstrap()
			d := nodetest.ApprovedDecision("csr-a", 1, time.Minute)
			c.edit(&d)
			nb.Status.Certificates = []v1alpha1.CertificateDecision{d}
			if got := lifecycle.Claims(nb, "SHA256:00"); got != c.want {
				t.Errorf("it claims the key: %v, want %v", got, c.want)
			}
		})
	}
}

// The key of another node is denied, even if the claim was stored before and the approval was not sent.
func TestKeyOfAnotherNodeIsDenied(t *testing.T) {
	for name, edit := range map[string]func(*lifecycle.Facts){
		"new":     func(*lifecycle.Facts) {},
		"claimed": nodetest.Claimed("csr-a"),
	} {
		t.Run(name, func(t *testing.T) {
			f := nodetest.Awaited(1, nodetest.Young)
			r := nodetest.Request("csr-a", 1, time.Minute)
			f.Requests = []*certificatesv1.CertificateSigningRequest{r}
			edit(f)
			f.KeysElsewhere = map[string]string{nodetest.Must(csr.Fingerprint(r)): "worker-2"}
			p := nodetest.Decide(f, nodetest.Now)
			if len(p.Decisions) != 1 || p.Decisions[0].Result.Verdict != csr.Deny || p.Decisions[0].Result.Reason != csr.ReasonKeyOfAnotherNode {
				t.Fatalf("the decisions are %+v", p.Decisions)
			}
			if message := p.Decisions[0].Result.Message; !strings.Contains(message, "worker-2") || !strings.Contains(message, nodetest.NodeName) {
				t.Errorf("the message does not name both nodes: %s", message)
			}
			if p.Misuse != nil || len(p.KeysToClaim()) > 0 {
				t.Errorf("misuse %+v, keys to claim %q", p.Misuse, p.KeysToClaim())
			}
		})
	}
}

// A claimed key is approved, whatever came after it: the crash came before the approval.
func TestApprovalDelayDoesNotHoldAClaim(t *testing.T) {
	f := nodetest.Conflicting(v1alpha1.ApprovalNode, nodetest.Request("csr-a", 1, time.Minute), nodetest.Request("csr-b", 1, 0))
	f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Hour}
	nodetest.Claimed("csr-a")(f)
	p := nodetest.Decide(f, nodetest.Now)
	if keys := p.KeysToClaim(); len(keys) != 1 || keys[0] != nodetest.Must(csr.Fingerprint(f.Requests[0])) {
		t.Errorf("the keys to claim are %q", keys)
	}
}
