// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"
)

// ownedBy is the metadata of a CSR with one owner.
func ownedBy(kind string, change func(*metav1.OwnerReference)) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) {
		owner := metav1.OwnerReference{APIVersion: "v1", Kind: kind, Name: testNode, UID: "6f6cd8a0-58cd-4a4c-8d9f-1d7a2c9b4e11"}
		if change != nil {
			change(&owner)
		}
		m.OwnerReferences = []metav1.OwnerReference{owner}
	}
}

func finalizers(names ...string) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) { m.Finalizers = names }
}

// strangeMetadata is metadata that no kubelet sends, and plainMetadata comes from admission or Kubernetes.
var (
	strangeMetadata = map[string]func(*metav1.ObjectMeta){
		"a finalizer":               finalizers("example.com/protect"),
		"a finalizer of Kubernetes": finalizers("kubernetes.io/pv-protection"),
		"foreground deletion":       finalizers(metav1.FinalizerDeleteDependents),
		"a finalizer without name":  finalizers(""),
		"many finalizers":           func(m *metav1.ObjectMeta) { m.Finalizers = manyNames(5000) },
		"an owner":                  ownedBy("Node", nil),
		"an owner without details":  func(m *metav1.ObjectMeta) { m.OwnerReferences = make([]metav1.OwnerReference, 1) },
		"an owner that may not go":  ownedBy("ConfigMap", func(o *metav1.OwnerReference) { o.BlockOwnerDeletion = new(true) }),
		"a controller":              ownedBy("NodeBootstrap", func(o *metav1.OwnerReference) { o.Controller = new(true) }),
		"a finalizer and an owner":  func(m *metav1.ObjectMeta) { finalizers("example.com/protect")(m); ownedBy("Node", nil)(m) },
		"a finalizer, and it is deleted": func(m *metav1.ObjectMeta) {
			finalizers("example.com/protect")(m)
			m.DeletionTimestamp, m.DeletionGracePeriodSeconds = new(metav1.NewTime(testTime)), new(int64(0))
		},
	}
	plainMetadata = map[string]func(*metav1.ObjectMeta){
		"a label":        func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"example.com/team": "storage"} },
		"an annotation":  func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"example.com/finalizers": "protect"} },
		"many labels":    func(m *metav1.ObjectMeta) { m.Labels = labelled(manyNames(3000)) },
		"a large text":   func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"a": strings.Repeat("x", 200<<10)} },
		"generateName":   func(m *metav1.ObjectMeta) { m.GenerateName = "node-csr-" },
		"another name":   func(m *metav1.ObjectMeta) { m.Name = "csr-x7k2p" },
		"managed fields": func(m *metav1.ObjectMeta) { m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}} },
		"empty lists":    func(m *metav1.ObjectMeta) { m.Finalizers, m.OwnerReferences = []string{}, []metav1.OwnerReference{} },
	}
)

func manyNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("example.com/name-%04d", i))
	}
	return names
}

func labelled(names []string) map[string]string {
	labels := map[string]string{}
	for _, name := range names {
		labels[name] = "x"
	}
	return labels
}

// goodServing is an approved CSR for a serving certificate.
func goodServing() ServingRequest {
	template := goodRequest()
	template.CSR.Spec = certificatesv1.CertificateSigningRequestSpec{
		Username:   "system:node:" + testNode,
		Groups:     []string{"system:nodes", "system:authenticated"},
		SignerName: certificatesv1.KubeletServingSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		Request:    must(certutil.MakeCSR(p256(), &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + testNode}, []string{testNode}, nil)),
	}
	return ServingRequest{CSR: template.CSR, NodeName: testNode, Declared: []string{testNode}}
}

func TestEvaluateLooksAtTheMetadata(t *testing.T) {
	for name, change := range strangeMetadata {
		t.Run(name, func(t *testing.T) {
			r, s := goodRequest(), goodServing()
			change(&r.CSR.ObjectMeta)
			change(&s.CSR.ObjectMeta)
			for kind, got := range map[string]Result{"client": Evaluate(r), "serving": EvaluateServing(s)} {
				if got.Verdict != Deny || got.Reason != ReasonUnexpectedAttributes || len(got.Message) > maxMessage {
					t.Errorf("%s: got verdict %d, %s: %.2000s", kind, got.Verdict, got.Reason, got.Message)
				}
				if !strings.Contains(got.Message, "finalizers or owner references") {
					t.Errorf("%s: the message does not say what it is: %s", kind, got.Message)
				}
			}
			if got, want := Evaluate(r).KeyFingerprint, must(Fingerprint(r.CSR)); got != want {
				t.Errorf("the key of the denied CSR is %q, want %q", got, want)
			}
		})
	}
}

// Admission can add labels and annotations to any CSR: they must not stop a node from joining.
func TestLabelsAndAnnotationsChangeNothing(t *testing.T) {
	for name, change := range plainMetadata {
		t.Run(name, func(t *testing.T) {
			r, s := goodRequest(), goodServing()
			change(&r.CSR.ObjectMeta)
			change(&s.CSR.ObjectMeta)
			if got, want := Evaluate(r), Evaluate(goodRequest()); got != want || got.Verdict != Approve {
				t.Errorf("client: got %+v, want %+v", got, want)
			}
			if got, want := EvaluateServing(s), EvaluateServing(goodServing()); got != want || got.Verdict != Approve {
				t.Errorf("serving: got %+v, want %+v", got, want)
			}
		})
	}
}

// A thief who adds a finalizer must still raise the alarm, and a CSR that is not ours stays so. A lesser defect does not hide the
// metadata.
func TestMetadataHidesNoEvidence(t *testing.T) {
	with := func(spoil func(*Request)) func(*Request) {
		return func(r *Request) {
			spoil(r)
			strangeMetadata["a finalizer and an owner"](&r.CSR.ObjectMeta)
		}
	}
	request := func(make func() []byte) func(*Request) {
		return with(func(r *Request) { r.CSR.Spec.Request = make() })
	}
	testFindings(t, map[string]finding{
		"another token":            {with(func(r *Request) { r.CSR.Spec.Username = "system:bootstrap:zzz999" }), Leave, ReasonNotOurs},
		"a token that has expired": {with(func(r *Request) { r.TokenExpires = r.Now }), Leave, ReasonTokenExpired},
		"another group":            {with(func(r *Request) { r.CSR.Spec.Groups = append(r.CSR.Spec.Groups, "system:masters") }), Deny, ReasonWrongRequester},
		"another signer":           {with(func(r *Request) { r.CSR.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName }), Deny, ReasonWrongSigner},
		"another node":             {request(func() []byte { return kubeletPEM(p256(), "worker-2") }), Deny, ReasonWrongSubject},
		"another node, not signed": {request(raw{key: p256(), signer: otherKey(), subject: pkix.RDNSequence{nodes(), one(value(oidCommonName, "x"))}}.pem), Deny, ReasonWrongSubject},
		"a bad signature":          {request(raw{key: p256(), signer: otherKey()}.pem), Deny, ReasonUnexpectedAttributes},
		"another usage":            {with(func(r *Request) { r.CSR.Spec.Usages = nil }), Deny, ReasonUnexpectedAttributes},
		"ten years":                {with(func(r *Request) { r.CSR.Spec.ExpirationSeconds = new(int32(10 * maxDurationSeconds)) }), Deny, ReasonUnexpectedAttributes},
	})

	s := goodServing()
	s.CSR.Spec.Username = "system:node:worker-2"
	strangeMetadata["a finalizer"](&s.CSR.ObjectMeta)
	if got := EvaluateServing(s); got.Verdict != Leave || got.Reason != ReasonNotOurs {
		t.Errorf("another node's CSR: got verdict %d, %s", got.Verdict, got.Reason)
	}
	s = goodServing()
	s.Declared = nil
	strangeMetadata["a finalizer"](&s.CSR.ObjectMeta)
	if got := EvaluateServing(s); got.Verdict != Leave || got.Reason != ReasonNoAddressesDeclared {
		t.Errorf("a node without addresses: got verdict %d, %s", got.Verdict, got.Reason)
	}
}
