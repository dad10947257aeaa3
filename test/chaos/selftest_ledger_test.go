// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"crypto/ecdsa"
	cryptorand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/util/cert"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var beginning = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// storageWriter stores changes, all at the same time unless a test advances it.
type storageWriter struct {
	t       *testing.T
	now     time.Time
	nb      v1alpha1.NodeBootstrap // of node-a
	changes []change
}

func (h *storageWriter) put(key string, value []byte) {
	h.changes = append(h.changes, change{revision: int64(len(h.changes) + 1), at: h.now, key: key, value: value})
}

func (h *storageWriter) store(key string, o runtime.Object) {
	h.t.Helper()
	value, err := runtime.Encode(clientgoscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion, certificatesv1.SchemeGroupVersion), o)
	env.Must(h.t, err)
	h.put(key, value)
}

func (h *storageWriter) forget(key string) { h.put(key, nil) }

// joinedAsNode stores the Node of node-a, and that it has joined.
func (h *storageWriter) joinedAsNode() {
	h.t.Helper()
	h.store(nodesPrefix+"node-a", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "9"}})
	h.nb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionJoined, Status: metav1.ConditionTrue}}
	h.nb.Status.NodeUID = "9"
	h.bootstrap("", "")
}

func (h *storageWriter) advance(d time.Duration) { h.now = h.now.Add(d) }

func tokenKey(id string) string {
	return secretsPrefix + "kube-system/" + bootstrapapi.BootstrapTokenSecretPrefix + id
}

// token stores a token of node-a that is created so long after the beginning and lives a day.
func (h *storageWriter) token(id, owner string, after time.Duration) {
	h.t.Helper()
	h.now = beginning.Add(after)
	h.store(tokenKey(id), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: bootstrapapi.BootstrapTokenSecretPrefix + id, CreationTimestamp: metav1.NewTime(beginning.Add(after)),
			Labels: map[string]string{owned.ManagedByLabel: owned.ManagedBy}, Annotations: map[string]string{owned.NodeNameAnnotation: "node-a"},
			OwnerReferences: []metav1.OwnerReference{{UID: types.UID(owner), Controller: new(true)}},
		},
		Type: bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"), bootstrapapi.BootstrapTokenIDKey: []byte(id), bootstrapapi.BootstrapTokenSecretKey: []byte("0123456789" + id),
			bootstrapapi.BootstrapTokenExpirationKey: []byte(beginning.Add(after + 24*time.Hour).Format(time.RFC3339)),
		},
	})
}

// publish stores the kubeconfig of node-a with a token.
func (h *storageWriter) publish(id string) {
	h.t.Helper()
	text := fmt.Sprintf("users:\n- user:\n    token: %s.0123456789%[1]s\n", id)
	name := owned.KubeconfigSecretName("node-a")
	h.store(secretsPrefix+operator.Namespace+"/"+name, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{owned.ManagedByLabel: owned.ManagedBy}, Annotations: map[string]string{owned.NodeNameAnnotation: "node-a"}},
		Data:       map[string][]byte{kubeconfig.Key: []byte(text)},
	})
}

// bootstrap stores the NodeBootstrap of node-a with a reissue request, and the one that was handled last.
func (h *storageWriter) bootstrap(requested, handled string) {
	h.t.Helper()
	h.nb.Name, h.nb.UID = "node-a", "1"
	h.nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: requested}
	h.nb.Status.LastHandledReissueAt = handled
	value, err := json.Marshal(&h.nb)
	env.Must(h.t, err)
	h.put(bootstrapsPrefix+"node-a", value)
}

// joined stores that the node has joined.
func (h *storageWriter) joined() {
	h.t.Helper()
	h.nb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonJoined}}
	h.bootstrap("", "")
}

// another stores another NodeBootstrap of the name.
func (h *storageWriter) another() {
	h.t.Helper()
	h.nb = v1alpha1.NodeBootstrap{}
	h.bootstrap("", "")
	last := &h.changes[len(h.changes)-1]
	last.value = []byte(strings.Replace(string(last.value), `"uid":"1"`, `"uid":"2"`, 1))
}

// asked is a CSR for a node's certificate that was sent with a token, and approved.
func (h *storageWriter) asked(name, node, id string, key *ecdsa.PrivateKey) *certificatesv1.CertificateSigningRequest {
	h.t.Helper()
	request, err := cert.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	env.Must(h.t, err)
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Username: bootstrapapi.BootstrapUserPrefix + id, Groups: []string{token.Group},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue},
		}},
	}
}

// approve stores the approval in the status, and then in the CSR.
func (h *storageWriter) approve(name, node, id string, key *ecdsa.PrivateKey) {
	h.t.Helper()
	h.claimed(h.asked(name, node, id, key))
}

func (h *storageWriter) claimed(r *certificatesv1.CertificateSigningRequest) {
	h.t.Helper()
	fingerprint, err := csr.Fingerprint(r)
	env.Must(h.t, err)
	h.nb.Status.Tokens = append(h.nb.Status.Tokens, v1alpha1.LiveToken{ID: token.IDOfUser(r.Spec.Username), CSRs: []v1alpha1.DecidedCSR{
		{UID: r.UID, Verdict: v1alpha1.VerdictApproved, KeyFingerprint: fingerprint}}})
	h.bootstrap("", "")
	h.store(requestsPrefix+r.Name, r)
}

// issue stores an approved CSR for node-a with a certificate.
func (h *storageWriter) issue(name, id, issuedTo string, key *ecdsa.PrivateKey) {
	h.t.Helper()
	r := h.asked(name, "node-a", id, key)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + issuedTo}}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	env.Must(h.t, err)
	r.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	h.claimed(r)
}

// The ledger finds each kind of violation, and nothing else.
func TestLedgerFindsViolations(t *testing.T) {
	a, b := env.Key(t), env.Key(t)
	for name, c := range map[string]struct {
		write   func(*storageWriter)
		overlap bool
		behind  time.Duration
		want    string
	}{
		"good": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.issue("x", "aaaaaa", "node-a", a)
			h.forget(tokenKey("aaaaaa"))
			h.token("bbbbbb", "1", time.Second)
			h.approve("y", "node-a", "bbbbbb", b)
		}},
		"same key twice": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.approve("y", "node-a", "aaaaaa", a)
		}},
		"renewed": {write: func(h *storageWriter) { h.token("aaaaaa", "1", 0); h.token("bbbbbb", "1", 18*time.Hour) }},
		"two live tokens": {want: "live tokens", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
		}},
		"renewed twice": {want: "live tokens", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", 18*time.Hour)
			h.token("cccccc", "1", 19*time.Hour)
		}},
		"a token of a NodeBootstrap that was deleted just before": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(bootstrapsPrefix + "node-a")
			h.another()
			h.token("bbbbbb", "2", time.Second)
		}},
		"a token of a NodeBootstrap that was deleted long before": {want: "live tokens", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(bootstrapsPrefix + "node-a")
			h.another()
			h.token("bbbbbb", "2", grace+time.Second)
		}},
		"a token that would expire, of a NodeBootstrap that was deleted long before": {want: "of another NodeBootstrap", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(bootstrapsPrefix + "node-a")
			h.another()
			h.token("bbbbbb", "2", 18*time.Hour)
		}},
		"two live tokens because of a superseded manager": {overlap: true, write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
			h.forget(tokenKey("aaaaaa"))
		}},
		"two live tokens that stay": {overlap: true, want: "now, node-a has 2 live tokens", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
			h.advance(doubleLimit + time.Second)
			h.forget("/registry/anything")
		}},
		"ID used again": {want: "used again", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.token("aaaaaa", "1", time.Second)
		}},
		"the secret part changes": {want: "has changed", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.token("aaaaaa", "1", 0)
			h.changes[2].value = []byte(strings.Replace(string(h.changes[2].value), "MDEyMzQ1Njc4OWFhYWFhYQ", "MDEyMzQ1Njc4OWFhYWFhYg", 1))
		}},
		"a token for a deleted NodeBootstrap": {want: "for a NodeBootstrap that no longer exists", write: func(h *storageWriter) {
			h.forget(bootstrapsPrefix + "node-a")
			h.token("aaaaaa", "1", grace+time.Second)
		}},
		"a token after misuse": {want: "although a token was misused", write: func(h *storageWriter) {
			h.nb.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue}}
			h.bootstrap("", "")
			h.token("aaaaaa", "1", grace+time.Second)
		}},
		"a kubeconfig with a deleted token": {want: "which is not live", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.advance(grace + time.Second)
			h.publish("aaaaaa")
		}},
		"a kubeconfig with a deleted token, while the watches were cut": {behind: reconnectLimit, write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.advance(grace + time.Second)
			h.publish("aaaaaa")
		}},
		"the first token of a NodeBootstrap that is just deleted, whose Node the cache shows as deleted": {write: func(h *storageWriter) {
			h.joinedAsNode()
			h.advance(grace + time.Second)
			h.forget(bootstrapsPrefix + "node-a")
			h.forget(nodesPrefix + "node-a")
			h.token(token.NextID("1", ""), "1", grace+time.Second)
		}},
		"a later token of a NodeBootstrap that is just deleted": {want: "for a NodeBootstrap that no longer exists", write: func(h *storageWriter) {
			h.joinedAsNode()
			h.advance(grace + time.Second)
			h.forget(bootstrapsPrefix + "node-a")
			h.forget(nodesPrefix + "node-a")
			h.token("aaaaaa", "1", grace+time.Second)
		}},
		"a reissue that leaves the token": {want: "was published before", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.publish("aaaaaa")
			h.bootstrap("requested", "")
			h.bootstrap("requested", "requested")
		}},
		"a reissue": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.bootstrap("requested", "")
			h.publish("aaaaaa")
			h.forget(tokenKey("aaaaaa"))
			h.token("bbbbbb", "1", 0)
			h.publish("bbbbbb")
			h.bootstrap("requested", "requested")
		}},
		"joined": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.joined()
		}},
		"joined, and the token still exists": {want: "counts as joined, and", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.joined()
		}},
		"approved long after its token was deleted": {want: "for a token that no longer exists", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.advance(grace + time.Second)
			h.approve("x", "node-a", "aaaaaa", a)
		}},
		"approved just after its token was deleted": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.advance(grace + time.Second)
			h.forget(tokenKey("aaaaaa"))
			h.approve("x", "node-a", "aaaaaa", a)
		}},
		"approved just after its young token was deleted": {write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.approve("x", "node-a", "aaaaaa", a)
		}},
		"approved before the status has the approval": {want: "does not have the approval", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.store(requestsPrefix+"x", h.asked("x", "node-a", "aaaaaa", a))
		}},
		"approved although it could not be revoked": {want: "could not be revoked", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			r := h.asked("x", "node-a", "aaaaaa", a)
			r.Finalizers = []string{"example.com/stay"}
			h.claimed(r)
		}},
		"another node's name": {want: "names CN=system:node:node-b", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-b", "aaaaaa", a)
		}},
		"another node's certificate": {want: "was issued for another name", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.issue("x", "aaaaaa", "node-b", a)
		}},
		"second key": {want: "key 2 is approved", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.approve("y", "node-a", "aaaaaa", b)
		}},
		"another signer": {want: "has the signer kubernetes.io/kube-apiserver-client", write: func(h *storageWriter) {
			h.token("aaaaaa", "1", 0)
			r := h.asked("x", "node-a", "aaaaaa", a)
			r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
			h.store(requestsPrefix+"x", r)
		}},
		"unknown token": {want: "the operator did not create", write: func(h *storageWriter) { h.approve("x", "node-a", "aaaaaa", a) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := &storageWriter{t: t, now: beginning}
			h.bootstrap("", "")
			c.write(h)
			l := newLedger(t.Logf, leeway{overlap: func() bool { return c.overlap }, lag: func() time.Duration { return 0 }, behind: func() time.Duration { return c.behind }})
			var violations []string
			for _, change := range h.changes {
				violations = append(violations, l.see(change)...)
			}
			if c.want == "" && len(violations) > 0 || c.want != "" && !strings.Contains(strings.Join(violations, "\n"), c.want) {
				t.Errorf("the violations are %q, want %q", violations, c.want)
			}
		})
	}
}
