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

func TestKeyIsClaimed(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*v1alpha1.CertificateDecision)
		want bool
	}{
		"approved":              {func(*v1alpha1.CertificateDecision) {}, true},
		"approved by others":    {func(d *v1alpha1.CertificateDecision) { d.Reason = reasonApprovedElsewhere }, true},
		"a theft, approved":     {func(d *v1alpha1.CertificateDecision) { d.Reason = csr.ReasonSecondKey }, true},
		"denied":                {func(d *v1alpha1.CertificateDecision) { d.Verdict = v1alpha1.VerdictDenied }, false},
		"serving":               {func(d *v1alpha1.CertificateDecision) { d.SignerName = certificatesv1.KubeletServingSignerName }, false},
		"another key":           {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "SHA256:11" }, false},
		"long ago":              {func(d *v1alpha1.CertificateDecision) { d.Time = ago(10 * csr.MaxLife) }, true},
		"the key was not known": {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			nb := nodeBootstrap()
			d := approvedDecision("csr-a", 1, time.Minute)
			c.edit(&d)
			nb.Status.Certificates = []v1alpha1.CertificateDecision{d}
			if got := Claims(nb, "SHA256:00"); got != c.want {
				t.Errorf("it claims the key: %v, want %v", got, c.want)
			}
		})
	}
}

// The key of another node is denied, also when the claim was written before and the approval was not sent.
func TestKeyOfAnotherNodeIsDenied(t *testing.T) {
	for name, edit := range map[string]func(*Facts){
		"new":     func(*Facts) {},
		"claimed": claimed("csr-a"),
	} {
		t.Run(name, func(t *testing.T) {
			f := awaited(1, young)
			r := request("csr-a", 1, time.Minute)
			f.Requests = []*certificatesv1.CertificateSigningRequest{r}
			edit(f)
			f.KeysElsewhere = map[string]string{must(csr.Fingerprint(r)): "worker-2"}
			p := decide(f, now)
			if len(p.Decisions) != 1 || p.Decisions[0].Result.Verdict != csr.Deny || p.Decisions[0].Result.Reason != csr.ReasonKeyOfAnotherNode {
				t.Fatalf("the decisions are %+v", p.Decisions)
			}
			if message := p.Decisions[0].Result.Message; !strings.Contains(message, "worker-2") || !strings.Contains(message, testNode) {
				t.Errorf("the message does not name both nodes: %s", message)
			}
			if p.Misuse != nil || len(p.KeysToClaim()) > 0 {
				t.Errorf("misuse %+v, keys to claim %q", p.Misuse, p.KeysToClaim())
			}
		})
	}
}

func conflicting(mode v1alpha1.Approval, requests ...*certificatesv1.CertificateSigningRequest) *Facts {
	f := awaited(1, young)
	f.NodeBootstrap.Spec.ClientCertificate.Approval = mode
	f.Requests = requests
	return f
}

func TestKeyConflict(t *testing.T) {
	a, b := request("csr-a", 1, 2*time.Minute), request("csr-b", 1, time.Minute)
	again := request("csr-a/2", 1, time.Minute)
	deniedB := request("csr-b", 1, time.Minute, decided(certificatesv1.CertificateDenied, 0))
	former := request("csr-c", 2, time.Minute)
	for name, c := range map[string]struct {
		facts *Facts
		want  int
	}{
		"one key":                 {conflicting(v1alpha1.ApprovalManual, a), 0},
		"one key twice":           {conflicting(v1alpha1.ApprovalManual, a, again), 0},
		"two pending":             {conflicting(v1alpha1.ApprovalManual, a, b), 2},
		"two, the operator":       {conflicting(v1alpha1.ApprovalNode, b, a), 2},
		"two, ClusterWide":        {conflicting(v1alpha1.ApprovalClusterWide, a, b), 2},
		"one denied":              {conflicting(v1alpha1.ApprovalManual, a, deniedB), 2},
		"one of another token":    {conflicting(v1alpha1.ApprovalManual, a, former), 0},
		"one is only in a record": {edited(conflicting(v1alpha1.ApprovalManual, a), recordedKey("csr-b", "SHA256:11")), 2},
		"both are in the record": {edited(conflicting(v1alpha1.ApprovalManual), func(f *Facts) {
			recordedKey("csr-b", "SHA256:11")(f)
			recordedKey("csr-c", "SHA256:22")(f)
		}), 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := reported(c.facts, published(1, young))
			condition := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict)
			if len(s.Keys) != c.want || (condition != nil) != (c.want > 0) {
				t.Fatalf("the keys are %+v, the condition is %+v", s.Keys, condition)
			}
			for _, k := range s.Keys {
				if !strings.Contains(condition.Message, k.KeyFingerprint) || !strings.Contains(condition.Message, k.Name) {
					t.Errorf("the message does not name %+v: %s", k, condition.Message)
				}
			}
		})
	}
}

func edited(f *Facts, edit func(*Facts)) *Facts {
	edit(f)
	return f
}

// recordedKey is the record of a request with a key that was denied.
func recordedKey(name, fingerprint string) func(*Facts) {
	return func(f *Facts) {
		d := deniedDecision(name, 1, time.Minute)
		d.KeyFingerprint = fingerprint
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

// The keys are stored before requests are deleted, stay when these are gone, and are bounded.
func TestKeysAreStoredFirstAndStay(t *testing.T) {
	f := conflicting(v1alpha1.ApprovalNode)
	for i := range 3 * maxKeys {
		f.Requests = append(f.Requests, request("csr-"+string(rune('a'+i)), 1, time.Duration(i)*time.Second))
	}
	p := decide(f, now)
	stored := p.Claimed(f, now)
	if len(stored.Keys) != maxKeys {
		t.Fatalf("%d keys are stored first, want %d", len(stored.Keys), maxKeys)
	}
	f.NodeBootstrap.Status, f.Requests = *stored, nil
	s := reported(f, published(1, young))
	if len(s.Keys) != maxKeys || !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionKeyConflict) {
		t.Errorf("afterwards the status is %+v", s)
	}
	f.NodeBootstrap.Status = *s
	askReissue(f)
	p = decide(f, now)
	o := published(2, 0)
	s = Report(f, &p, &o, now)
	if len(s.Keys) > 0 || meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionKeyConflict) != nil {
		t.Errorf("after the reissue the status is %+v", s)
	}
}

func TestApprovalDelayHolds(t *testing.T) {
	a, b := request("csr-a", 1, time.Minute), request("csr-b", 1, time.Minute)
	for name, c := range map[string]struct {
		requests []*certificatesv1.CertificateSigningRequest
		delay    time.Duration
		approves int
		again    time.Duration // from now
	}{
		"no delay":          {requests: []*certificatesv1.CertificateSigningRequest{a}, approves: 1},
		"not over":          {requests: []*certificatesv1.CertificateSigningRequest{a}, delay: 2 * time.Minute, again: time.Minute},
		"over":              {requests: []*certificatesv1.CertificateSigningRequest{a}, delay: time.Minute, approves: 1},
		"over, and two":     {requests: []*certificatesv1.CertificateSigningRequest{a, b}, delay: time.Second},
		"not over, and two": {requests: []*certificatesv1.CertificateSigningRequest{a, b}, delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			f := conflicting(v1alpha1.ApprovalNode, c.requests...)
			f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: c.delay}
			p := decide(f, now)
			if len(p.KeysToClaim()) != c.approves || len(p.Decisions) != c.approves {
				t.Errorf("the decisions are %+v, want %d approvals and nothing else", p.Decisions, c.approves)
			}
			if c.again > 0 && !p.RequeueAt.Equal(now.Add(c.again)) {
				t.Errorf("it looks again at %s, want in %s", p.RequeueAt, c.again)
			}
			s := reported(f, published(1, young))
			ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady)
			if held := c.delay > 0 && len(c.requests) > 1; (ready.Reason == v1alpha1.ReasonSeveralKeys) != held {
				t.Errorf("Ready is %+v", ready)
			}
		})
	}
}

// What was claimed is approved, whatever came after it: a crash came before the approval.
func TestApprovalDelayDoesNotHoldAClaim(t *testing.T) {
	f := conflicting(v1alpha1.ApprovalNode, request("csr-a", 1, time.Minute), request("csr-b", 1, 0))
	f.NodeBootstrap.Spec.ClientCertificate.ApprovalDelay = &metav1.Duration{Duration: time.Hour}
	claimed("csr-a")(f)
	p := decide(f, now)
	if keys := p.KeysToClaim(); len(keys) != 1 || keys[0] != must(csr.Fingerprint(f.Requests[0])) {
		t.Errorf("the keys to claim are %q", keys)
	}
}
