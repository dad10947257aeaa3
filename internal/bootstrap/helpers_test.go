// SPDX-License-Identifier: Apache-2.0

package bootstrap

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
)

const (
	testNode      = "worker-1"
	testNamespace = "nodebootstrap-system"
	testServer    = "https://api.example.com:6443"
	testUID       = types.UID("6b0f3a52-3a2c-4a3e-9a38-0c9f6d5b7e11")
	formerUID     = types.UID("00000000-3a2c-4a3e-9a38-0c9f6d5b7e11")
	// canary is the secret part of tokens: wherever it turns up, a token has leaked.
	canary = "canarycanary0123"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nodeBootstrap was made an hour ago and never seen by the operator.
func nodeBootstrap() *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{
		Name: testNode, UID: testUID, Generation: 3, CreationTimestamp: ago(time.Hour),
	}}
}

// fresh is what is known of a node that nothing was done for yet.
func fresh() *Facts {
	return &Facts{
		Name:          testNode,
		Namespace:     testNamespace,
		NodeBootstrap: nodeBootstrap(),
		Cluster:       Cluster{Server: testServer, CA: []byte("CA"), CAExpires: now.Add(10 * 365 * 24 * time.Hour)},
	}
}

// nthID is the nth id that the operator gives, from 1 on.
func nthID(n int) string {
	id := ""
	for range n {
		id = NextTokenID(testUID, id)
	}
	return id
}

// tokenSecret is the nth token's Secret, made a while ago with the default ttl.
func tokenSecret(n int, age time.Duration) *corev1.Secret {
	return tokenSecretOf(nodeBootstrap(), n, age)
}

// tokenSecretOf is the same with what a NodeBootstrap asks for now.
func tokenSecretOf(nb *v1alpha1.NodeBootstrap, n int, age time.Duration) *corev1.Secret {
	s := TokenSecret(nb, nthID(n), canary, now.Add(-age).Add(v1alpha1.DefaultTokenTTL))
	s.CreationTimestamp = ago(age)
	s.UID = types.UID("token-" + nthID(n))
	return s
}

// token is a token as it is read from tokenSecret.
func token(n int, age time.Duration) Token {
	t, ok := ParseToken(tokenSecret(n, age))
	if !ok {
		panic("no token")
	}
	return t
}

// kubeconfigSecret carries the nth token.
func kubeconfigSecret(n int) *corev1.Secret {
	return must(KubeconfigSecret(nodeBootstrap(), testNamespace, fresh().Cluster, token(n, 0)))
}

// statusOf is the status while the nth token is live and the node is waited for.
func statusOf(n int, age time.Duration) v1alpha1.NodeBootstrapStatus {
	return v1alpha1.NodeBootstrapStatus{
		ObservedGeneration:  3,
		Token:               &v1alpha1.TokenStatus{ID: nthID(n), ExpirationTime: metav1.NewTime(token(n, age).Expires)},
		LastTokenID:         nthID(n),
		KubeconfigSecretRef: &v1alpha1.SecretReference{Namespace: testNamespace, Name: KubeconfigSecretName(testNode)},
		Server:              testServer,
		AwaitingSince:       new(ago(time.Hour)),
		Conditions:          []metav1.Condition{{Type: v1alpha1.ConditionCredentialsAvailable, Status: metav1.ConditionTrue, LastTransitionTime: ago(time.Hour)}},
	}
}

// awaited is what is known of a node that waits with its nth token, made a while ago.
func awaited(n int, age time.Duration) *Facts {
	f := fresh()
	f.TokenSecrets = []*corev1.Secret{tokenSecret(n, age)}
	f.Kubeconfig = kubeconfigSecret(n)
	f.NodeBootstrap.Status = statusOf(n, age)
	return f
}

// joinedBefore is what is known of a node that has joined half an hour ago.
func joinedBefore() *Facts {
	f := fresh()
	f.Node = nodeMade(30 * time.Minute)
	f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{
		ObservedGeneration: 3,
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionJoined, Status: metav1.ConditionTrue, LastTransitionTime: ago(29 * time.Minute)},
			{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonJoined, LastTransitionTime: ago(29 * time.Minute)},
		},
		LastTokenID:  nthID(1),
		NodeUID:      f.Node.UID,
		Certificates: []v1alpha1.CertificateDecision{approvedDecision("csr-1", 1, 31*time.Minute)},
	}
	return f
}

// decide is Decide as it follows gathering: a status of an earlier version is upgraded first. Many tests write such a status.
func decide(f *Facts, now time.Time) Plan {
	if f.NodeBootstrap != nil {
		f.UpgradeStatus()
	}
	return Decide(f, now)
}

// nodeMade is a Node that was created a while ago.
func nodeMade(age time.Duration) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: testNode, UID: types.UID("made " + age.String() + " ago"), CreationTimestamp: ago(age)}}
}

// worksSince has a kubelet work as the node, whose Node was created a while ago and whose Lease was last renewed then.
func worksSince(age time.Duration) func(*Facts) {
	return func(f *Facts) { f.Node, f.NodeReported, f.LeaseRenewed = nodeMade(age), true, now.Add(-age) }
}

// approvedDecision is the record of a request that was approved and issued a while ago.
func approvedDecision(name string, n int, age time.Duration) v1alpha1.CertificateDecision {
	return v1alpha1.CertificateDecision{
		Name: name, UID: types.UID(name), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, TokenID: nthID(n),
		KeyFingerprint: "SHA256:00", Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient,
		Time: ago(age), IssuedTime: new(ago(age)),
	}
}

// claimOf is the key that was first approved with a token, and when.
func claimOf(f *Facts, tokenID string) (string, time.Time) {
	for _, c := range claimsOf(f, tokenID, nil) {
		return c.key, c.at
	}
	return "", time.Time{}
}

func deniedDecision(name string, n int, age time.Duration) v1alpha1.CertificateDecision {
	d := approvedDecision(name, n, age)
	d.Verdict, d.Reason, d.IssuedTime = v1alpha1.VerdictDenied, csr.ReasonSecondKey, nil
	return d
}

// keys are made once, by name.
var keys sync.Map

func key(name string) crypto.Signer {
	k, ok := keys.Load(name)
	if !ok {
		k, _ = keys.LoadOrStore(name, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	}
	return k.(crypto.Signer)
}

// request is what a kubelet sent with the nth token a while ago; its key is named as the request, up to a slash.
func request(name string, n int, age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	keyName, _, _ := strings.Cut(name, "/")
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(age)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Username:   "system:bootstrap:" + nthID(n),
			Groups:     []string{"system:bootstrappers", "system:authenticated", Group},
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			Request:    kubeletPEM(keyName, testNode),
		},
	}
	for _, e := range edit {
		e(r)
	}
	return r
}

func kubeletPEM(keyName, node string) []byte {
	return must(certutil.MakeCSR(key(keyName), &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil))
}

func decided(c certificatesv1.RequestConditionType, age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: c, Status: corev1.ConditionTrue, LastUpdateTime: ago(age),
		})
	}
}

func approved(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return decided(certificatesv1.CertificateApproved, age)
}

func withCertificate(r *certificatesv1.CertificateSigningRequest) {
	r.Status.Certificate = []byte("certificate")
}

// certificate is a CA's, valid for a while.
func certificate(from, to time.Time) []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key("ca").Public(), key("ca")))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func goodCA() []byte { return certificate(now.Add(-time.Hour), now.Add(time.Hour)) }

// inBase64 is what every text has in it that holds some bytes in base64, whatever is in front of them and behind them: one
// for each number of bytes, modulo three, that may be in front.
func inBase64(text string) []string {
	var out []string
	for offset := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("xxx"[:offset] + text))
		out = append(out, encoded[[]int{0, 2, 3}[offset]:8*(offset+len(text))/6])
	}
	return out
}

// leaks fails when a text holds the secret part of a token, plain or as fmt and encoding/json write bytes.
func leaks(t *testing.T, what, text string) {
	t.Helper()
	decimal := strings.Trim(fmt.Sprintf("%d", []byte(canary)), "[]")
	forms := append(inBase64(canary), canary, decimal, fmt.Sprintf("%x", canary), strings.ReplaceAll(decimal, " ", ", "))
	for _, form := range forms {
		if strings.Contains(text, form) {
			t.Errorf("%s gives the secret part of a token away: %.300s", what, text)
			return
		}
	}
}
