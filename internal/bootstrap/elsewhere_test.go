// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// judged is a condition with a reason and a message, of a while ago.
func judged(c certificatesv1.RequestConditionType, reason, message string, age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: c, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: ago(age), LastUpdateTime: ago(age),
		})
	}
}

func kubectlDeny(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return judged(certificatesv1.CertificateDenied, "KubectlDeny", "This CSR was denied by kubectl certificate deny.", age)
}

func readyMessage(s *v1alpha1.NodeBootstrapStatus) string {
	return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady).Message
}

// reportOf is the status after a plan that went well.
func reportOf(f *Facts) *v1alpha1.NodeBootstrapStatus {
	p := decide(f, now)
	o := Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: Accepted, Revoked: true}
	return Report(f, &p, &o, now)
}

// A client certificate's request that someone else has denied left no trace.
func TestDenialsOfOthersAreRecorded(t *testing.T) {
	f := awaited(1, young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{request("csr-a", 1, minutes(3), kubectlDeny(minutes(2)))}
	before := f.NodeBootstrap.Status.DeepCopy()
	status := reportOf(f)
	if len(status.Certificates) != 1 {
		t.Fatalf("the record is %+v", status.Certificates)
	}
	d := status.Certificates[0]
	if d.Name != "csr-a" || d.Verdict != v1alpha1.VerdictDenied || d.Reason != "DeniedElsewhere" || !strings.Contains(d.Message, "kubectl certificate deny") ||
		d.TokenID != nthID(1) || !d.Time.Equal(new(ago(minutes(2)))) || d.KeyFingerprint == "" {
		t.Errorf("the record is %+v", d)
	}
	if got := readyMessage(status); !strings.Contains(got, "last CSR csr-a was denied: DeniedElsewhere: This CSR was denied by kubectl") {
		t.Errorf("Ready says %q", got)
	}
	if events := Events(before, status); len(events) != 1 || events[0].Type != corev1.EventTypeWarning || !strings.Contains(events[0].Note, "CSR csr-a was denied by someone else") {
		t.Errorf("the events are %+v", events)
	}
	f.NodeBootstrap.Status = *status
	if again := reportOf(f); !reflect.DeepEqual(again, status) {
		t.Errorf("it is written again:\n%+v\n%+v", status, again)
	}
}

func TestWhatIsNotRecordedAsDeniedElsewhere(t *testing.T) {
	for name, r := range map[string]*certificatesv1.CertificateSigningRequest{
		"the operator's own":          request("csr-a", 1, minutes(3), judged(certificatesv1.CertificateDenied, csr.ReasonSecondKey, "x", minutes(2))),
		"revoked with its token":      request("csr-a", 1, minutes(3), judged(certificatesv1.CertificateDenied, ReasonTokenRevoked, "x", minutes(2))),
		"of a token that is not live": request("csr-a", 2, minutes(90), kubectlDeny(minutes(80))),
		"another signer's":            request("csr-a", 1, minutes(3), asks("example.com/signer"), kubectlDeny(minutes(2))),
		"not denied":                  request("csr-a", 1, minutes(3), approved(minutes(2)), withCertificate),
	} {
		t.Run(name, func(t *testing.T) {
			s := statusOf(1, young)
			setTokens(&s, []Token{token(1, young)})
			if recordDenied(&s, []*certificatesv1.CertificateSigningRequest{r}); s.Certificates != nil {
				t.Errorf("recorded as %+v", s.Certificates)
			}
		})
	}
}

// However many requests others deny, a full record comes to rest: what it forgets it does not note again.
func TestDenialsOfOthersComeToRest(t *testing.T) {
	for _, claims := range []int{0, 1, 6, 12} {
		f := awaited(1, young)
		for i := range claims {
			f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, approvedDecision(fmt.Sprint("old-", i), 2+i, minutes(59-i)))
		}
		for i := range 40 {
			f.Requests = append(f.Requests, request(fmt.Sprint("csr-", i), 1+i%3, minutes(3), kubectlDeny(time.Duration(100-i)*time.Second)))
		}
		f.NodeBootstrap.Status = *reportOf(f)
		first := f.NodeBootstrap.Status.DeepCopy()
		if n := len(first.Certificates); n > maxTokenEntries {
			t.Errorf("there are %d entries", n)
		}
		if again := reportOf(f); !reflect.DeepEqual(again, first) {
			t.Errorf("%d claims: it is written again:\n%v\n%v", claims, names(first.Certificates), names(again.Certificates))
		}
	}
}

// The operator's own approval was recorded as someone else's after the NodeBootstrap was deleted and created again.
func TestOwnApprovalIsNotSomebodyElses(t *testing.T) {
	for reason, want := range map[string]string{csr.ReasonKubeletClient: csr.ReasonKubeletClient, "KubectlApprove": "ApprovedElsewhere", "": "ApprovedElsewhere"} {
		r := request("csr-a", 1, minutes(3), judged(certificatesv1.CertificateApproved, reason, "x", minutes(2)), withCertificate)
		var s v1alpha1.NodeBootstrapStatus
		if recordIssued(&s, []*certificatesv1.CertificateSigningRequest{r}); len(s.Certificates) != 1 || s.Certificates[0].Reason != want {
			t.Errorf("%q is recorded as %+v", reason, s.Certificates)
		}
	}
}

func TestMessagesAreShortened(t *testing.T) {
	for _, message := range []string{"", "short", strings.Repeat("é", 256), strings.Repeat("é", 257), "bad \xff byte"} {
		got := shortened(message)
		if n := utf8.RuneCountInString(got); n > 256 || !utf8.ValidString(got) || len(message) < 256 && utf8.ValidString(message) && got != message {
			t.Errorf("%q is shortened to %q", message, got)
		}
	}
}
