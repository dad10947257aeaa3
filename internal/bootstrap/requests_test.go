// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func TestClaims(t *testing.T) {
	made, known := approvedDecision("csr-a", 1, 0), approvedDecision("csr-b", 1, time.Hour)
	plan := &Plan{Decisions: []Decision{{Record: made}, {Record: known}}}
	tests := map[string]struct {
		history []v1alpha1.CertificateDecision
		want    []v1alpha1.CertificateDecision
	}{
		"nothing is known":        {nil, []v1alpha1.CertificateDecision{known, made}},
		"one is known":            {[]v1alpha1.CertificateDecision{known}, []v1alpha1.CertificateDecision{made}},
		"both are known":          {[]v1alpha1.CertificateDecision{known, made}, nil},
		"known with another time": {[]v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, time.Minute), known}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := fresh()
			f.NodeBootstrap.Status.Certificates = tt.history
			f.UpgradeStatus()
			var got []v1alpha1.CertificateDecision
			if status := plan.Claimed(f, now); status != nil {
				got = status.Certificates[len(tt.history):]
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestClaimingLeavesTheStatusAlone(t *testing.T) {
	f := awaited(1, young)
	nb := f.NodeBootstrap
	before := nb.Status.DeepCopy()
	plan := &Plan{Decisions: []Decision{{Record: approvedDecision("csr-a", 1, 0)}}, Misuse: &Problem{csr.ReasonSecondKey, "told"}}
	got := plan.Claimed(f, now)
	want := before.DeepCopy()
	want.Certificates = []v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, 0)}
	want.KeyFingerprints, want.FirstApprovalTime, want.Tokens = []string{"SHA256:00"}, &metav1.Time{Time: now}, []v1alpha1.LiveToken{}
	want.Conditions = append(want.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue,
		Reason: csr.ReasonSecondKey, Message: "told", ObservedGeneration: nb.Generation, LastTransitionTime: metav1.NewTime(now)})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !reflect.DeepEqual(&nb.Status, before) {
		t.Error("the status that was read is changed: it may be in a cache")
	}
}

func TestSupports(t *testing.T) {
	type live struct {
		nb    *v1alpha1.NodeBootstrap
		token *corev1.Secret
		d     Decision
	}
	tests := map[string]struct {
		spoil func(*live)
		want  bool
	}{
		"all is as it was":           {func(*live) {}, true},
		"another field of the spec":  {func(l *live) { l.nb.Spec.Token.TTL = &metav1.Duration{Duration: time.Hour} }, true},
		"a reissue that was handled": {func(l *live) { l.nb.Annotations = reissueAnnotation(); l.nb.Status.LastHandledReissueAt = reissueAt }, true},
		"another NodeBootstrap":      {func(l *live) { l.nb.UID = formerUID; l.token.OwnerReferences[0].UID = formerUID }, false},
		"a reissue is due":           {func(l *live) { l.nb.Annotations = reissueAnnotation() }, false},
		"approval Manual":            {func(l *live) { l.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }, false},
		"approval ClusterWide":       {func(l *live) { l.nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide }, false},
		"the token malformed":        {func(l *live) { delete(l.token.Data, "token-secret") }, false},
		"another token":              {func(l *live) { l.token = tokenSecret(2, young) }, false},
		"another's token":            {func(l *live) { l.token.OwnerReferences[0].UID = formerUID }, false},
		"nobody's token":             {func(l *live) { l.token.OwnerReferences = nil }, false},
		"the token being deleted":    {func(l *live) { l.token.DeletionTimestamp = new(ago(0)) }, false},
		"the token expired":          {func(l *live) { l.token = tokenSecret(1, old) }, false},
		"the status lost":            {func(l *live) { l.nb.Status = v1alpha1.NodeBootstrapStatus{} }, false},
		"another request claimed":    {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].UID = "csr-b" }, false},
		"another key claimed":        {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].KeyFingerprint = "SHA256:another" }, false},
		"a denial claimed":           {func(l *live) { l.nb.Status.Tokens[0].CSRs[0].Verdict = v1alpha1.VerdictDenied }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := live{nb: nodeBootstrap(), token: tokenSecret(1, young), d: Decision{Record: approvedDecision("csr-a", 1, 0)}}
			setTokens(&l.nb.Status, []Token{token(1, young)})
			recordDecision(&l.nb.Status, l.d.Record)
			tt.spoil(&l)
			if got := Supports(nodeBootstrap(), l.nb, l.token, l.d, now); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func reissueAnnotation() map[string]string {
	return map[string]string{v1alpha1.ReissueRequestedAtAnnotation: reissueAt}
}
