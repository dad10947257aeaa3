// SPDX-License-Identifier: Apache-2.0

package csr_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// facts are the inputs that a fuzz target varies in addition to the certificate request. The zero value is what comes with a stock
// kubelet's CSR.
type facts struct {
	// usages is a set of someUsages, by their bits, if it is not 0; the two highest bits repeat one and reverse the order.
	usages uint8
	// expiration is in seconds, if it is not 0.
	expiration int32
	// groups chooses from a list, and claimed a fingerprint that was approved before.
	groups, claimed uint8
	// spoil is a set of the functions in spoilClient or spoilServing.
	spoil uint16
	// metadata is a set of the functions in spoilMetadata. spoil has no room for them, and the targets that use it keep their corpora.
	metadata uint16
	// other chooses one of otherNodes.
	other uint8
}

var someUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth,
	certificatesv1.UsageServerAuth, certificatesv1.UsageAny, "Client Auth"}

func usagesOf(set uint8) []certificatesv1.KeyUsage {
	var usages []certificatesv1.KeyUsage
	for i, usage := range someUsages {
		if set&(1<<i) != 0 {
			usages = append(usages, usage)
		}
	}
	if set&0x40 != 0 && len(usages) > 0 {
		usages = append(usages, usages[0])
	}
	if set&0x80 != 0 {
		for i, j := 0, len(usages)-1; i < j; i, j = i+1, j-1 {
			usages[i], usages[j] = usages[j], usages[i]
		}
	}
	return usages
}

const (
	bootstrappers = "system:bootstrappers"
	tokenGroup    = "system:bootstrappers:nodebootstrap"
	mayHave       = "system:bootstrappers:kubeadm:default-node-token"
	authenticated = "system:authenticated"
	nodes         = "system:nodes"
	masters       = "system:masters"
)

var (
	clientGroups = [][]string{
		{bootstrappers, tokenGroup, authenticated},
		{authenticated, mayHave, tokenGroup, bootstrappers},
		{bootstrappers, authenticated},
		{tokenGroup, authenticated},
		{bootstrappers, tokenGroup},
		{bootstrappers, tokenGroup, authenticated, masters},
		{bootstrappers, tokenGroup, authenticated, authenticated, tokenGroup},
		nil,
		{bootstrappers, mayHave, authenticated},
		{bootstrappers, tokenGroup, authenticated, ""},
		{bootstrappers, strings.ToUpper(tokenGroup), authenticated},
		{bootstrappers, tokenGroup, authenticated, nodes},
		{bootstrappers, bootstrappers, authenticated},
	}
	servingGroups = [][]string{
		{nodes, authenticated},
		{authenticated, nodes},
		{nodes, authenticated, authenticated},
		{nodes},
		{authenticated},
		{nodes, authenticated, masters},
		nil,
		{nodes, nodes},
		{nodes, authenticated, bootstrappers},
	}
)

// spoilClient are changes of what comes with a CSR for a client certificate; some of them are harmless.
var spoilClient = []func(*csr.Request){
	func(r *csr.Request) { r.CSR.Spec.Username = "system:bootstrap:abcdeg" },
	func(r *csr.Request) { r.CSR.Spec.Username = "system:node:" + r.NodeName },
	func(r *csr.Request) { r.CSR.Spec.UID = "1" },
	func(r *csr.Request) {
		r.CSR.Spec.Extra = map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": nil}
	},
	func(r *csr.Request) { r.CSR.Spec.SignerName = "kubernetes.io/kubelet-serving" },
	func(r *csr.Request) { r.CSR.Spec.SignerName = "kubernetes.io/kube-apiserver-client" },
	func(r *csr.Request) { r.CSR.CreationTimestamp = metav1.NewTime(r.TokenCreated.Add(-10 * time.Second)) },
	func(r *csr.Request) {
		r.CSR.CreationTimestamp = metav1.NewTime(r.TokenCreated.Add(-10*time.Second - time.Nanosecond))
	},
	func(r *csr.Request) { r.Now = r.TokenExpires },
	func(r *csr.Request) { r.Now = r.TokenExpires.Add(-time.Nanosecond) },
	func(r *csr.Request) { r.TokenExpires = time.Time{} },
	func(r *csr.Request) { r.CSR.CreationTimestamp = metav1.Time{} },
	func(r *csr.Request) { r.TokenGroup = "system:bootstrappers:another" },
	func(r *csr.Request) { r.MayHave = nil },
	func(r *csr.Request) { r.TokenID = "Abcdef" },
	func(r *csr.Request) { r.CSR.Spec.SignerName = "" },
}

// spoilServing are changes of what comes with a CSR for a serving certificate; some of them are harmless.
var spoilServing = []func(*csr.ServingRequest){
	func(r *csr.ServingRequest) { r.CSR.Spec.Username = "system:node:worker-2.example.org" },
	func(r *csr.ServingRequest) { r.CSR.Spec.Username = "system:bootstrap:abcdef" },
	func(r *csr.ServingRequest) { r.CSR.Spec.UID = "1" },
	func(r *csr.ServingRequest) { r.CSR.Spec.Extra = nil },
	func(r *csr.ServingRequest) { r.CSR.Spec.Extra = map[string]certificatesv1.ExtraValue{"scopes": {"x"}} },
	func(r *csr.ServingRequest) {
		r.CSR.Spec.Extra = map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": nil, "": nil}
	},
	func(r *csr.ServingRequest) { r.CSR.Spec.SignerName = "kubernetes.io/kube-apiserver-client-kubelet" },
	func(r *csr.ServingRequest) { r.CSR.Spec.SignerName = "example.org/kubelet-serving" },
	func(r *csr.ServingRequest) { r.Declared = nil },
	func(r *csr.ServingRequest) { r.Declared = []string{""} },
	func(r *csr.ServingRequest) { r.Reserved = nil },
	func(r *csr.ServingRequest) { r.Elsewhere = nil },
	func(r *csr.ServingRequest) {
		r.Elsewhere = map[string]string{"192.0.2.10": "b", "2001:db8::7": "b", testNode: "b"}
	},
	func(r *csr.ServingRequest) {
		r.Reserved = reserve("::ffff:192.0.2.10", "2001:DB8:0::7", strings.ToUpper(testNode)+".")
	},
	func(r *csr.ServingRequest) {
		r.Declared = []string{"::ffff:192.0.2.10", "::ffff:10.0.0.0/104", "fe80::1%eth0", strings.ToUpper(testNode), "10.1.0.1."}
	},
	func(r *csr.ServingRequest) { r.Declared = []string{"0.0.0.0/0", "::/0", "10.0.0.1", "*.example.org"} },
}

// spoilMetadata are changes of the metadata of a CSR of either kind. No kubelet sends the first half; the rest is harmless.
var spoilMetadata = []func(*metav1.ObjectMeta){
	func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, "example.org/protect") },
	func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, "kubernetes.io/pv-protection") },
	func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, metav1.FinalizerDeleteDependents) },
	func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, "") },
	func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, make([]string, 1000)...) },
	func(m *metav1.ObjectMeta) {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: testNode, UID: "1"})
	},
	func(m *metav1.ObjectMeta) {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{Controller: new(true), BlockOwnerDeletion: new(true)})
	},
	func(m *metav1.ObjectMeta) { m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{}) },
	func(m *metav1.ObjectMeta) {
		m.Labels = map[string]string{"finalizers": "example.org/protect", "nodebootstrap.io/node": "worker-2.example.org"}
	},
	func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"": strings.Repeat("x", 2000)} },
	func(m *metav1.ObjectMeta) { m.GenerateName = "csr-" },
	func(m *metav1.ObjectMeta) { m.DeletionTimestamp = new(metav1.NewTime(now)) },
	func(m *metav1.ObjectMeta) { m.Name, m.UID, m.ResourceVersion, m.Generation = "node-csr-1", "1", "1", 7 },
	func(m *metav1.ObjectMeta) { m.Namespace = "kube-system" },
	func(m *metav1.ObjectMeta) {
		m.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "f:metadata f:finalizers", Operation: metav1.ManagedFieldsOperationApply}}
	},
	func(m *metav1.ObjectMeta) { m.DeletionGracePeriodSeconds = new(int64(1 << 40)) },
}

// harmful are the functions in spoilMetadata after which a CSR is denied.
const harmful = 1<<8 - 1

// otherNodes are the nodes that the key of a CSR can be claimed for; the first one is none.
var otherNodes = []string{"", "worker-2.example.org", testNode, " ", strings.Repeat("a", 2000), "\x00"}

// glance reads a certificate request without checking its key and its signature, so that a bad RSA key is not denied for its usages.
func glance(text []byte) (content certificationRequest, isRSA bool) {
	der, err := readPEM(text)
	if err != nil {
		return content, false
	}
	algorithm, _ := hex.DecodeString(algorithmRSA)
	content, _ = readStructure(der)
	return content, bytes.Contains(der, algorithm)
}

// client is a CSR for a client certificate with these facts.
func (f facts) client(text []byte, node string) csr.Request {
	content, isRSA := glance(text)
	r := clientRequest(text, isRSA)
	r.NodeName = nodeName(node)
	f.apply(r.CSR, clientGroups)
	fingerprint := oracleFingerprint(content.spki)
	pick(claimsOf(fingerprint, r.CSR.CreationTimestamp.Time), f.claimed)(&r)
	r.OtherNode = pick(otherNodes, f.other)
	for i, change := range spoilClient {
		if f.spoil&(1<<i) != 0 {
			change(&r)
		}
	}
	return r
}

// claimsOf are keys that may have been approved with the token before the CSR with a key was sent, or pinned. The first two of them deny nothing,
// and the next four do, as strings that are not the key.
func claimsOf(key string, sent time.Time) []func(*csr.Request) {
	claimed := func(replacements int, keys ...string) func(*csr.Request) {
		return func(r *csr.Request) { r.ClaimedKeys, r.ClaimedAt, r.Replacements = keys, sent, replacements }
	}
	pinned := func(pin string, keys ...string) func(*csr.Request) {
		return func(r *csr.Request) { r.PinnedKey, r.ClaimedKeys, r.ClaimedAt, r.ClaimUsed = pin, keys, sent, true }
	}
	used := func(r *csr.Request) { claimed(7, "SHA256:")(r); r.ClaimUsed = true }
	late := func(r *csr.Request) { claimed(7, "SHA256:")(r); r.ClaimedAt = sent.Add(time.Second) }
	return []func(*csr.Request){
		claimed(0), claimed(0, key), claimed(0, "SHA256:"), claimed(0, strings.ToUpper(key)), claimed(0, strings.TrimPrefix(key, "SHA256:")), claimed(0, key+"0"),
		claimed(1, "SHA256:"), claimed(1, "SHA256:", key), claimed(1, "SHA256:", key+"0"), used, late,
		pinned(key), pinned(key, "SHA256:"), pinned("SHA256:", key), pinned(strings.ToUpper(key)), pinned(key+"0", key),
	}
}

// serving is a CSR for a serving certificate with these facts.
func (f facts) serving(text []byte, node string) csr.ServingRequest {
	_, isRSA := glance(text)
	r := servingRequest(text, isRSA)
	r.NodeName, r.CSR.Spec.Username = nodeName(node), "system:node:"+nodeName(node)
	f.apply(r.CSR, servingGroups)
	for i, change := range spoilServing {
		if f.spoil&(1<<i) != 0 {
			change(&r)
		}
	}
	return r
}

func (f facts) apply(r *certificatesv1.CertificateSigningRequest, groups [][]string) {
	r.Spec.Groups = pick(groups, f.groups)
	if f.expiration != 0 {
		r.Spec.ExpirationSeconds = &f.expiration
	}
	if f.usages != 0 {
		r.Spec.Usages = usagesOf(f.usages)
	}
	f.changeMetadata(&r.ObjectMeta)
}

func (f facts) changeMetadata(m *metav1.ObjectMeta) {
	for i, change := range spoilMetadata {
		if f.metadata&(1<<i) != 0 {
			change(m)
		}
	}
}
