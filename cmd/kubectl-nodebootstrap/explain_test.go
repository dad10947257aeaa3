// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
)

// request is the name of the CSR in these tests.
const request = "csr-1"

// explained is a cluster in which a node is awaited with a token, and others are declared as the adversarial table assumes.
type explained struct {
	nb      *v1alpha1.NodeBootstrap
	secret  *corev1.Secret
	others  []client.Object
	tokenID string
	now     time.Time
}

func newExplained() *explained {
	now := time.Now().Truncate(time.Second)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node, UID: "uid-1", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	nb.Spec.ServingCertificate.Addresses = []string{node, node + ".example.com", "192.0.2.7", "2001:db8::7", "198.51.100.0/24"}
	id := token.NextID(nb.UID, "")
	nb.Status = v1alpha1.NodeBootstrapStatus{
		ObservedGeneration: 1,
		Token:              &v1alpha1.TokenStatus{ID: id, ExpirationTime: metav1.NewTime(now.Add(time.Hour))},
		Tokens:             []v1alpha1.LiveToken{{ID: id}}, LastTokenID: id,
		AwaitingSince: new(metav1.NewTime(now.Add(-time.Hour))),
		Server:        "https://api.example.com:6443",
	}
	secret := token.NewSecret(nb, id, canary, now.Add(time.Hour))
	secret.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	x := &explained{nb: nb, secret: secret, tokenID: id, now: now}
	for name, server := range map[string]string{"rack-a": "https://lb.rack-a.example.com:6443", "rack-a-v6": "https://[2001:db8:a::1]:6443", "rack-b": "https://lb.räck-b.example.com", "other-node": ""} {
		other := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		other.Spec.Cluster.Server = server
		if server == "" {
			other.Spec.ServingCertificate.Addresses = []string{"other-node", "other-node.example.com", "192.0.2.8"}
		}
		x.others = append(x.others, other)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}}
	service.Spec.ClusterIP = "10.0.0.1"
	x.others = append(x.others, service)
	return x
}

// with is the cluster with a CSR.
func (x *explained) with(r *certificatesv1.CertificateSigningRequest) cluster {
	objects := append([]client.Object{x.nb, r}, x.others...)
	if x.secret != nil {
		objects = append(objects, x.secret)
	}
	return cluster{objects: objects}
}

func (x *explained) clientRequest(key crypto.Signer) *certificatesv1.CertificateSigningRequest {
	return x.requestOf(adversarial.GoodClient(node, x.tokenID, key))
}

func (x *explained) servingRequest(key crypto.Signer) *certificatesv1.CertificateSigningRequest {
	return x.requestOf(adversarial.GoodServing(node, key, []string{node, node + ".example.com"}, []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")}))
}

func (x *explained) requestOf(spec certificatesv1.CertificateSigningRequestSpec) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: request, UID: "uid-csr", CreationTimestamp: metav1.NewTime(x.now)}, Spec: spec}
}

// explanationOf runs the command, and returns what it prints as JSON.
func explanationOf(t *testing.T, cl cluster, args ...string) explanation {
	t.Helper()
	r := cl.succeeds(t, append([]string{"explain", "-o", "json"}, args...)...)
	var e explanation
	if err := json.Unmarshal([]byte(r.out), &e); err != nil {
		t.Fatalf("%v:\n%s", err, r.out)
	}
	return e
}

// failedCheck is the name of the check that decided; empty if all have passed.
func (e *explanation) failedCheck() string {
	i := slices.IndexFunc(e.Checks, func(c csr.Finding) bool { return c.State == csr.Failed })
	if i < 0 {
		return ""
	}
	return e.Checks[i].Check
}

// checksOf are the checks that can give a reason.
var checksOf = map[string][]string{
	csr.ReasonWrongRequester:           {"hasNoOtherIdentity"},
	csr.ReasonWrongSigner:              {"asksKubeletClientSigner"},
	csr.ReasonWrongDuration:            {"livesAYearAtMost"},
	csr.ReasonTooLarge:                 {"isOfModestSize"},
	csr.ReasonMalformed:                {"isOnePEMBlock"},
	csr.ReasonBadSignature:             {"isSigned"},
	csr.ReasonWrongKey:                 {"hasSoundKey"},
	csr.ReasonWrongUsages:              {"hasClientUsages", "hasServingUsages"},
	csr.ReasonWrongSubject:             {"hasTokensSubject", "hasRequestersSubject"},
	csr.ReasonNoAddress:                {"namesAnAddress"},
	csr.ReasonUnexpectedAttributes:     {"hasPlainMetadata", "hasTokensSubject", "hasRequestersSubject", "asksForNothingElse", "asksForAddressesAlone"},
	csr.ReasonAddressReserved:          {"namesNothingReserved"},
	csr.ReasonAddressDeclaredElsewhere: {"namesNothingOfOthers"},
	csr.ReasonAddressNotDeclared:       {"namesWhatIsDeclared"},
	csr.ReasonNotOurs:                  {"sentByNode"},
}

// For each CSR of the adversarial table, explain says what the operator decides, and names the check.
func TestExplainAdversarialRequests(t *testing.T) {
	x, key := newExplained(), newKey(t)
	for kind, of := range map[string]struct {
		good     func(crypto.Signer) *certificatesv1.CertificateSigningRequest
		cases    []adversarial.Case
		evaluate func(*certificatesv1.CertificateSigningRequest) csr.Result
	}{
		"client": {x.clientRequest, adversarial.Client(), func(r *certificatesv1.CertificateSigningRequest) csr.Result {
			return csr.Evaluate(csr.Request{CSR: r, NodeName: node, TokenID: x.tokenID, TokenCreated: x.now.Add(-time.Hour), TokenExpires: x.now.Add(time.Hour),
				TokenGroup: token.Group, MayHave: []string{token.ClusterWideGroup}, Now: x.now})
		}},
		"serving": {x.servingRequest, adversarial.Serving(), func(r *certificatesv1.CertificateSigningRequest) csr.Result {
			return csr.EvaluateServing(csr.ServingRequest{CSR: r, NodeName: node, Declared: x.nb.Spec.ServingCertificate.Addresses,
				Reserved:  []csr.Reservation{{Host: "10.0.0.1"}, {Host: "api.example.com"}, {Host: "lb.rack-a.example.com"}, {Host: "lb.räck-b.example.com"}, {Host: "2001:db8:a::1"}},
				Elsewhere: map[string]string{"other-node": "other-node", "other-node.example.com": "other-node", "192.0.2.8": "other-node"}})
		}},
	} {
		for _, c := range slices.Concat(of.cases, adversarial.Harmless()) {
			r := of.good(key)
			c.Apply(r, node, key)
			e, want := explanationOf(t, x.with(r), r.Name), of.evaluate(r)
			if want.Check == "sentWithToken" && e.Verdict.Reason == decisions.ReasonTokenRevoked && len(e.Checks) == 0 { // of a token that does not exist
				continue
			}
			if want.Check == "sentByNode" && e.NodeBootstrap == "other-node" { // which has a NodeBootstrap of its own
				continue
			}
			if e.NodeBootstrap == "" { // of another requester
				if want.Reason != csr.ReasonNotOurs || len(e.Checks) > 0 || e.Verdict.Next != "" || e.Whose == "" {
					t.Errorf("%s, %s (%s): got %+v, and the operator %+v", kind, c.Name, c.Why, e, want)
				}
				continue
			}
			if e.failedCheck() != want.Check {
				t.Errorf("%s, %s (%s): the check is %q, and that of the operator %q", kind, c.Name, c.Why, e.failedCheck(), want.Check)
			}
			if want.Check != "" && !slices.Contains(checksOf[c.Reason], want.Check) {
				t.Errorf("%s, %s (%s): %s is a reason of %v, and the check is %s", kind, c.Name, c.Why, c.Reason, checksOf[c.Reason], want.Check)
			}
			next := c.Verdict
			if c.Reason == csr.ReasonWrongSigner {
				next = string(lifecycle.Deletes)
			}
			if e.Verdict.Next != next || e.Verdict.State != pending || want.Verdict != csr.Leave && e.Verdict.Reason != want.Reason {
				t.Errorf("%s, %s (%s): the verdict is %+v, want %s %s", kind, c.Name, c.Why, e.Verdict, next, want.Reason)
			}
			if e.ToDo == "" || strings.Contains(e.ToDo, "kubectl describe csr") {
				t.Errorf("%s, %s: to do: %q", kind, c.Name, e.ToDo)
			}
		}
	}
}
