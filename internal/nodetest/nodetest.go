// SPDX-License-Identifier: Apache-2.0

// Package nodetest builds facts about nodes for tests.
package nodetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	certutil "k8s.io/client-go/util/cert"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	NodeName  = "worker-1"
	Namespace = "nodebootstrap-system"
	Server    = "https://api.example.com:6443"
	UID       = types.UID("6b0f3a52-3a2c-4a3e-9a38-0c9f6d5b7e11")
	FormerUID = types.UID("00000000-3a2c-4a3e-9a38-0c9f6d5b7e11")
	// Canary is the secret part of tokens: if it appears anywhere else, a token has leaked.
	Canary = "canarycanary0123"
)

var Now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func Ago(d time.Duration) metav1.Time { return metav1.NewTime(Now.Add(-d)) }

func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// NodeBootstrap was created an hour ago and has no status yet.
func NodeBootstrap() *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{
		Name: NodeName, UID: UID, Generation: 3, CreationTimestamp: Ago(time.Hour),
	}}
}

// Fresh is the facts about a node that the operator has not reconciled yet.
func Fresh() *lifecycle.Facts {
	return &lifecycle.Facts{
		Name:          NodeName,
		Namespace:     Namespace,
		NodeBootstrap: NodeBootstrap(),
		Cluster:       kubeconfig.Cluster{Server: Server, CA: []byte("CA"), CAExpires: Now.Add(10 * 365 * 24 * time.Hour)},
	}
}

// NthID is the nth id that the operator uses, from 1 on.
func NthID(n int) string {
	id := ""
	for range n {
		id = token.NextID(UID, id)
	}
	return id
}

// TokenSecret is the nth token's Secret, created a while ago with the default ttl.
func TokenSecret(n int, age time.Duration) *corev1.Secret {
	return TokenSecretOf(NodeBootstrap(), n, age)
}

// TokenSecretOf is TokenSecret for the current spec and annotations of a NodeBootstrap.
func TokenSecretOf(nb *v1alpha1.NodeBootstrap, n int, age time.Duration) *corev1.Secret {
	s := token.NewSecret(nb, NthID(n), Canary, Now.Add(-age).Add(v1alpha1.DefaultTokenTTL))
	s.CreationTimestamp = Ago(age)
	s.UID = types.UID("token-" + NthID(n))
	return s
}

// Token is a token as it is read from TokenSecret.
func Token(n int, age time.Duration) token.Token {
	t, ok := token.Parse(TokenSecret(n, age))
	if !ok {
		panic("no token")
	}
	return t
}

// KubeconfigSecret contains the nth token.
func KubeconfigSecret(n int) *corev1.Secret {
	return Must(kubeconfig.NewSecret(NodeBootstrap(), Namespace, Fresh().Cluster, Token(n, 0)))
}

// StatusOf is the status while the nth token is live and the node is awaited.
func StatusOf(n int, age time.Duration) v1alpha1.NodeBootstrapStatus {
	return v1alpha1.NodeBootstrapStatus{
		ObservedGeneration:  3,
		Token:               &v1alpha1.TokenStatus{ID: NthID(n), ExpirationTime: metav1.NewTime(Token(n, age).Expires)},
		LastTokenID:         NthID(n),
		KubeconfigSecretRef: &v1alpha1.SecretReference{Namespace: Namespace, Name: owned.KubeconfigSecretName(NodeName)},
		Server:              Server,
		AwaitingSince:       new(Ago(time.Hour)),
		Conditions:          []metav1.Condition{{Type: v1alpha1.ConditionCredentialsAvailable, Status: metav1.ConditionTrue, LastTransitionTime: Ago(time.Hour)}},
	}
}

// Awaited is the facts about a node that is awaited with its nth token, created a while ago.
func Awaited(n int, age time.Duration) *lifecycle.Facts {
	f := Fresh()
	f.TokenSecrets = []*corev1.Secret{TokenSecret(n, age)}
	f.Kubeconfig = KubeconfigSecret(n)
	f.NodeBootstrap.Status = StatusOf(n, age)
	return f
}

// JoinedBefore is the facts about a node that joined half an hour ago.
func JoinedBefore() *lifecycle.Facts {
	f := Fresh()
	f.Node = NodeMade(30 * time.Minute)
	f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{
		ObservedGeneration: 3,
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionJoined, Status: metav1.ConditionTrue, LastTransitionTime: Ago(29 * time.Minute)},
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonJoined, LastTransitionTime: Ago(29 * time.Minute)},
		},
		LastTokenID:  NthID(1),
		NodeUID:      f.Node.UID,
		Certificates: []v1alpha1.CertificateDecision{ApprovedDecision("csr-1", 1, 31*time.Minute)},
	}
	return f
}

// Decide is lifecycle.Decide after gathering: it upgrades a status of an earlier version first. Many tests write such a status.
func Decide(f *lifecycle.Facts, now time.Time) lifecycle.Plan {
	if f.NodeBootstrap != nil {
		f.UpgradeStatus()
	}
	return lifecycle.Decide(f, now)
}

// NodeMade is a Node that was created a while ago.
func NodeMade(age time.Duration) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: NodeName, UID: types.UID("made " + age.String() + " ago"), CreationTimestamp: Ago(age)}}
}

// WorksSince adds a working kubelet, whose Node was created a while ago and whose Lease was last renewed then.
func WorksSince(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.Node, f.NodeReported, f.LeaseRenewed = NodeMade(age), true, Now.Add(-age) }
}

// ApprovedDecision is the log entry of a CSR that was approved and issued a while ago.
func ApprovedDecision(name string, n int, age time.Duration) v1alpha1.CertificateDecision {
	return v1alpha1.CertificateDecision{
		Name: name, UID: types.UID(name), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: NthID(n),
		KeyFingerprint: "SHA256:00", Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient,
		Time: Ago(age), IssuedTime: new(Ago(age)),
	}
}

func DeniedDecision(name string, n int, age time.Duration) v1alpha1.CertificateDecision {
	d := ApprovedDecision(name, n, age)
	d.Verdict, d.Reason, d.IssuedTime = v1alpha1.VerdictDenied, csr.ReasonSecondKey, nil
	return d
}

// keys are created once, by name.
var keys sync.Map

func Key(name string) crypto.Signer {
	k, ok := keys.Load(name)
	if !ok {
		k, _ = keys.LoadOrStore(name, Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	}
	return k.(crypto.Signer)
}

// Request is the CSR that a kubelet sent with the nth token a while ago; its key has the name of the CSR up to a slash.
func Request(name string, n int, age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	keyName, _, _ := strings.Cut(name, "/")
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: Ago(age)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Username:   "system:bootstrap:" + NthID(n),
			Groups:     []string{"system:bootstrappers", "system:authenticated", token.Group},
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			Request:    KubeletPEM(keyName, NodeName),
		},
	}
	for _, e := range edit {
		e(r)
	}
	return r
}

func KubeletPEM(keyName, node string) []byte {
	return Must(certutil.MakeCSR(Key(keyName), &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil))
}

func Decided(c certificatesv1.RequestConditionType, age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: c, Status: corev1.ConditionTrue, LastUpdateTime: Ago(age),
		})
	}
}

func Approved(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return Decided(certificatesv1.CertificateApproved, age)
}

func WithCertificate(r *certificatesv1.CertificateSigningRequest) {
	r.Status.Certificate = []byte("certificate")
}

// Certificate is a CA certificate, valid for a while.
func Certificate(from, to time.Time) []byte { return CertificateFor("test", from, to) }

// CertificateFor is a CA certificate, valid for a while, that is also one of a server.
func CertificateFor(host string, from, to time.Time) []byte {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true,
	}
	der := Must(x509.CreateCertificate(rand.Reader, template, template, Key("ca "+host).Public(), Key("ca "+host)))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// inBase64 is the texts of which every base64 encoding of some bytes contains one, whatever precedes and follows them: one for each
// number of preceding bytes modulo three.
func inBase64(text string) []string {
	var out []string
	for offset := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("xxx"[:offset] + text))
		out = append(out, encoded[[]int{0, 2, 3}[offset]:8*(offset+len(text))/6])
	}
	return out
}

// Leaks fails if a text contains the secret part of a token, plain or as fmt and encoding/json write bytes.
func Leaks(t *testing.T, what, text string) {
	t.Helper()
	decimal := strings.Trim(fmt.Sprintf("%d", []byte(Canary)), "[]")
	forms := append(inBase64(Canary), Canary, decimal, fmt.Sprintf("%x", Canary), strings.ReplaceAll(decimal, " ", ", "))
	for _, form := range forms {
		if strings.Contains(text, form) {
			t.Errorf("%s gives the secret part of a token away: %.300s", what, text)
			return
		}
	}
}
