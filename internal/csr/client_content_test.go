// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

// The content of a certificate request gets the same verdict, reason and message before it is sent as after it.
func TestEvaluateContentOfAdversarialRequests(t *testing.T) {
	for algorithm, key := range adversarialKeys(t) {
		tried := 0
		for _, c := range adversarial.Client() {
			good := &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: "csr-1", CreationTimestamp: metav1.NewTime(adversarialTime)},
				Spec:       adversarial.GoodClient(adversarialNode, adversarialToken, key),
			}
			bad := good.DeepCopy()
			c.Apply(bad, adversarialNode, key)
			if c.Reason == csr.ReasonWrongUsages || bytes.Equal(bad.Spec.Request, good.Spec.Request) {
				continue // the defect is not in the content
			}
			tried++
			good.Spec.Request = bad.Spec.Request
			if spec, err := csr.ClientSpec(bad.Spec.Request); err == nil {
				good.Spec.Usages = spec.Usages // some cases have another type of key
			}
			before, after := csr.EvaluateContent(bad.Spec.Request, adversarialNode), evaluateClient(good)
			before.Message, after.Message = pointer.ReplaceAllString(before.Message, ""), pointer.ReplaceAllString(after.Message, "")
			if before != after || before.Reason != c.Reason {
				t.Errorf("%s, %s: got %+v before it is sent, and %+v after it, want %s", algorithm, c.Name, before, after, c.Reason)
			}
		}
		if tried < 50 {
			t.Errorf("%s: only %d requests with bad content", algorithm, tried)
		}
	}
}

// pointer is in errors of encoding/asn1.
var pointer = regexp.MustCompile(`tag:0x[0-9a-f]+`)

func opensslRequest(t *testing.T, name string) []byte {
	t.Helper()
	request, err := os.ReadFile(filepath.Join("testdata", "openssl", name))
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// What openssl writes with the options in docs/pinned-keys.md is approved, sent with ClientSpec.
func TestRequestsOfOpenSSL(t *testing.T) {
	for _, name := range []string{"ecdsa.csr", "rsa.csr"} {
		request := opensslRequest(t, name)
		before := csr.EvaluateContent(request, adversarialNode)
		spec, err := csr.ClientSpec(request)
		if err != nil {
			t.Fatal(err)
		}
		good := adversarial.GoodClient(adversarialNode, adversarialToken, adversarialKeys(t)["ECDSA"])
		spec.Username, spec.Groups = good.Username, good.Groups
		after := evaluateClient(&certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(adversarialTime)}, Spec: spec})
		if before.Verdict != csr.Approve || after.Verdict != csr.Approve || before.KeyFingerprint != after.KeyFingerprint || after.KeyFingerprint == "" {
			t.Errorf("%s: got %+v, and %+v after it is sent", name, before, after)
		}
	}
}

func TestRequestOfOpenSSLWithItsDefaults(t *testing.T) {
	got := csr.EvaluateContent(opensslRequest(t, "utf8.csr"), adversarialNode)
	if got.Reason != csr.ReasonUnexpectedAttributes || !strings.Contains(got.Message, "string_mask=default") {
		t.Errorf("got %+v, want a message that names the option of openssl", got)
	}
}

func TestClientSpecOfJunk(t *testing.T) {
	if spec, err := csr.ClientSpec([]byte("junk")); err == nil {
		t.Errorf("got %+v", spec)
	}
}
