// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestClaims(t *testing.T) {
	made, known := approvedDecision("csr-a", 1, 0), approvedDecision("csr-b", 1, time.Hour)
	plan := &Plan{Decisions: []Decision{{Record: made}, {Record: known}}}
	tests := map[string]struct {
		history []v1alpha1.CertificateDecision
		want    []v1alpha1.CertificateDecision
	}{
		"nothing is known":         {nil, []v1alpha1.CertificateDecision{made, known}},
		"one is known":             {[]v1alpha1.CertificateDecision{known}, []v1alpha1.CertificateDecision{made}},
		"both are known":           {[]v1alpha1.CertificateDecision{known, made}, nil},
		"known with another time":  {[]v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, time.Minute), known}, nil},
		"known with other verdict": {[]v1alpha1.CertificateDecision{deniedDecision("csr-a", 1, 0), known}, []v1alpha1.CertificateDecision{made}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nb := nodeBootstrap()
			nb.Status.Certificates = tt.history
			if got := plan.Claims(nb); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestWithClaims(t *testing.T) {
	status := statusOf(1, young)
	before := status.DeepCopy()
	got := WithClaims(&status, []v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, 0)})
	want := before.DeepCopy()
	want.Certificates = []v1alpha1.CertificateDecision{approvedDecision("csr-a", 1, 0)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if !reflect.DeepEqual(&status, before) {
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
		"the token run out":          {func(l *live) { l.token = tokenSecret(1, old) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := live{nb: nodeBootstrap(), token: tokenSecret(1, young), d: Decision{Record: approvedDecision("csr-a", 1, 0)}}
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

// history is one letter for each decision: a for an approval, d for a denial; the newest last, numbered from the oldest.
func history(letters string) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for i, letter := range letters {
		d := deniedDecision(fmt.Sprint(i), 1, time.Hour)
		if letter == 'a' {
			d = approvedDecision(fmt.Sprint(i), 1, time.Hour)
		}
		out = append(out, d)
	}
	return out
}

func TestAppendDecisions(t *testing.T) {
	tests := map[string]struct {
		history, more string
		want          string // the names of those that stay
	}{
		"nothing to nothing":       {"", "", ""},
		"the first":                {"", "a", "new0"},
		"the tenth":                {"aaaaaaaaa", "d", "0 1 2 3 4 5 6 7 8 new0"},
		"oldest denial goes":       {"adadadadad", "d", "0 2 3 4 5 6 7 8 9 new0"},
		"and for an approval":      {"adadadadad", "a", "0 2 3 4 5 6 7 8 9 new0"},
		"two denials go for two":   {"addddddddd", "dd", "0 3 4 5 6 7 8 9 new0 new1"},
		"a flood of denials":       {"a", "dddddddddddddddddddd", "0 new11 new12 new13 new14 new15 new16 new17 new18 new19"},
		"a denial among approvals": {"aaaaaaaaaa", "d", "1 2 3 4 5 6 7 8 9 new0"},
		"approvals alone":          {"aaaaaaaaaa", "a", "1 2 3 4 5 6 7 8 9 new0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := history(tt.history)
			more := history(tt.more)
			for i := range more {
				more[i].Name = "new" + more[i].Name
			}
			before := history(tt.history)
			var names []string
			for _, d := range appendDecisions(have, more...) {
				names = append(names, d.Name)
			}
			if got := strings.Join(names, " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !reflect.DeepEqual(have, before) {
				t.Error("the history that was read is changed")
			}
		})
	}
}

func TestRecordIssued(t *testing.T) {
	unissued := approvedDecision("csr-a", 1, minutes(2))
	unissued.IssuedTime = nil
	mine := request("csr-a", 1, minutes(3), approved(minutes(1)), withCertificate)
	elsewhere := v1alpha1.CertificateDecision{
		Name: "csr-b", UID: "csr-b", SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nthID(1),
		Verdict: v1alpha1.VerdictApproved, Reason: "ApprovedElsewhere", Time: ago(minutes(1)), IssuedTime: new(ago(minutes(1))),
	}
	noted := unissued
	noted.IssuedTime = new(ago(minutes(1)))
	junk := request("csr-b", 1, minutes(3), approved(minutes(1)), withCertificate)
	junk.Spec.Request = []byte("junk")
	type decisions = []v1alpha1.CertificateDecision
	full := history("aaaaaaaaaa") // an hour old
	pushed := append(decisions{}, full[1:]...)
	pushed = append(pushed, elsewhere)
	tests := map[string]struct {
		history decisions
		request *certificatesv1.CertificateSigningRequest
		want    decisions
	}{
		"the decision is ours":       {decisions{unissued}, mine, decisions{noted}},
		"it was noted before":        {decisions{noted}, mine, decisions{noted}},
		"it is not issued":           {decisions{unissued}, request("csr-a", 1, 0, approved(0)), decisions{unissued}},
		"it is not approved":         {decisions{unissued}, request("csr-a", 1, 0, withCertificate), decisions{unissued}},
		"another approved it":        {nil, junk, decisions{elsewhere}},
		"an approval pushes one out": {full, junk, pushed},
		"but not newer ones":         {full, request("csr-z", 1, old, approved(old), withCertificate), full},
		"another one's is not noted": {decisions{unissued}, request("csr-b", 1, 0), decisions{unissued}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := append(decisions{}, tt.history...)
			got := recordIssued(tt.history, []*certificatesv1.CertificateSigningRequest{tt.request})
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
			if len(before) > 0 && !reflect.DeepEqual(before, tt.history) {
				t.Error("the history that was read is changed")
			}
		})
	}
}

// A cache lists requests in any order: the history goes by time.
func TestRecordIssuedGoesByTime(t *testing.T) {
	got := recordIssued(nil, []*certificatesv1.CertificateSigningRequest{
		request("csr-a", 1, minutes(1), approved(minutes(1)), withCertificate),
		request("csr-c", 1, minutes(3), approved(minutes(3)), withCertificate),
		request("csr-b", 1, minutes(2), approved(minutes(2)), withCertificate),
	})
	var names []string
	for _, d := range got {
		names = append(names, d.Name)
	}
	if want := "csr-c csr-b csr-a"; strings.Join(names, " ") != want {
		t.Errorf("got %v, want %s", names, want)
	}
}
