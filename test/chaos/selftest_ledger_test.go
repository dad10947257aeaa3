// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
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
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// history makes changes of what is stored.
type history struct {
	t       *testing.T
	changes []change
}

func (h *history) store(key string, o runtime.Object) {
	h.t.Helper()
	value, err := runtime.Encode(clientgoscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion, certificatesv1.SchemeGroupVersion), o)
	if err != nil {
		h.t.Fatal(err)
	}
	h.changes = append(h.changes, change{revision: int64(len(h.changes) + 1), at: made.Add(time.Minute), key: key, value: value})
}

func (h *history) forget(key string) {
	h.changes = append(h.changes, change{revision: int64(len(h.changes) + 1), at: made.Add(time.Minute), key: key})
}

func tokenKey(id string) string {
	return secretsPrefix + "kube-system/" + bootstrapapi.BootstrapTokenSecretPrefix + id
}

// token stores a token of node-a that was made so long after the beginning and lives a day.
func (h *history) token(id, owner string, after time.Duration) {
	h.t.Helper()
	h.store(tokenKey(id), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: bootstrapapi.BootstrapTokenSecretPrefix + id, CreationTimestamp: metav1.NewTime(made.Add(after)),
			Annotations:     map[string]string{bootstrap.NodeNameAnnotation: "node-a"},
			OwnerReferences: []metav1.OwnerReference{{UID: types.UID(owner), Controller: new(true)}},
		},
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey: []byte(id), bootstrapapi.BootstrapTokenSecretKey: []byte("0123456789" + id),
			bootstrapapi.BootstrapTokenExpirationKey: []byte(made.Add(after + 24*time.Hour).Format(time.RFC3339)),
		},
	})
}

// publish stores the kubeconfig of node-a with a token.
func (h *history) publish(id string) {
	h.t.Helper()
	kubeconfig := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1"}}],"users":[{"name":"u","user":{"token":"%s.0123456789%[1]s"}}]}`, id)
	name := bootstrap.KubeconfigSecretName("node-a")
	h.store(secretsPrefix+operator.Namespace+"/"+name, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{bootstrap.ManagedByLabel: bootstrap.ManagedBy}},
		Data:       map[string][]byte{bootstrap.KubeconfigKey: []byte(kubeconfig)},
	})
}

// bootstrap stores the NodeBootstrap of node-a with a wish for a reissue, and the one that was handled last.
func (h *history) bootstrap(wish, handled string) {
	h.t.Helper()
	h.status(wish, v1alpha1.NodeBootstrapStatus{LastHandledReissueAt: handled})
}

// joined stores the NodeBootstrap of node-a with a status that says that it has joined.
func (h *history) joined() {
	h.t.Helper()
	h.status("", v1alpha1.NodeBootstrapStatus{Conditions: []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonJoined},
	}})
}

func (h *history) status(wish string, status v1alpha1.NodeBootstrapStatus) {
	h.t.Helper()
	value, err := json.Marshal(&v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "1", Annotations: map[string]string{v1alpha1.ReissueRequestedAtAnnotation: wish}},
		Status:     status,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.changes = append(h.changes, change{revision: int64(len(h.changes) + 1), at: made.Add(time.Minute), key: bootstrapsPrefix + "node-a", value: value})
}

// asked is a request for a node's certificate that was sent with a token, and approved.
func (h *history) asked(name, node, id string, key *ecdsa.PrivateKey) *certificatesv1.CertificateSigningRequest {
	h.t.Helper()
	request, err := cert.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Username: bootstrapapi.BootstrapUserPrefix + id, Groups: []string{bootstrap.Group},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue},
		}},
	}
}

func (h *history) approve(name, node, id string, key *ecdsa.PrivateKey) {
	h.t.Helper()
	h.store(requestsPrefix+name, h.asked(name, node, id, key))
}

// issue stores an approved request for node-a with a certificate for another name.
func (h *history) issue(name, id, issuedTo string, key *ecdsa.PrivateKey) {
	h.t.Helper()
	r := h.asked(name, "node-a", id, key)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + issuedTo}}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, key.Public(), key)
	if err != nil {
		h.t.Fatal(err)
	}
	r.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	h.store(requestsPrefix+name, r)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The ledger finds each kind of violation, and nothing else.
func TestLedgerFindsViolations(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, c := range map[string]struct {
		tell    func(*history)
		overlap bool
		want    string
	}{
		"good": {tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.issue("x", "aaaaaa", "node-a", a)
			h.forget(tokenKey("aaaaaa"))
			h.token("bbbbbb", "1", time.Second)
			h.approve("y", "node-a", "bbbbbb", b)
		}},
		"same key twice": {tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.approve("y", "node-a", "aaaaaa", a)
		}},
		"renewed": {tell: func(h *history) { h.token("aaaaaa", "1", 0); h.token("bbbbbb", "1", 18*time.Hour) }},
		"two live tokens": {want: "live tokens", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
		}},
		"renewed twice": {want: "live tokens", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", 18*time.Hour)
			h.token("cccccc", "1", 19*time.Hour)
		}},
		"tokens of two NodeBootstraps": {want: "live tokens", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "2", 18*time.Hour)
		}},
		"a token of a NodeBootstrap that was deleted just before": {tell: func(h *history) {
			h.bootstrap("", "")
			h.token("aaaaaa", "1", 0)
			h.forget(bootstrapsPrefix + "node-a")
			h.token("bbbbbb", "2", time.Minute)
		}},
		"a token of a NodeBootstrap that was deleted long before": {want: "live tokens", tell: func(h *history) {
			h.bootstrap("", "")
			h.token("aaaaaa", "1", 0)
			h.forget(bootstrapsPrefix + "node-a")
			h.token("bbbbbb", "2", time.Minute)
			h.changes[3].at = h.changes[3].at.Add(grace + time.Second)
		}},
		"two live tokens by a manager of the past": {overlap: true, tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
			h.forget(tokenKey("aaaaaa"))
		}},
		"two live tokens that stay": {overlap: true, want: "now, node-a has the live tokens", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.token("bbbbbb", "1", time.Hour)
			h.forget("/registry/anything")
			h.changes[2].at = h.changes[2].at.Add(doubleLimit + time.Second)
		}},
		"id given again": {want: "given again", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.token("aaaaaa", "1", time.Second)
		}},
		"a token for a NodeBootstrap that is no more": {want: "after its NodeBootstrap was deleted", tell: func(h *history) {
			h.bootstrap("", "")
			h.forget(bootstrapsPrefix + "node-a")
			h.token("aaaaaa", "1", time.Hour)
			h.changes[2].at = h.changes[2].at.Add(grace + time.Second)
		}},
		"a reissue that leaves the token": {want: "published before", tell: func(h *history) {
			h.bootstrap("", "")
			h.token("aaaaaa", "1", 0)
			h.publish("aaaaaa")
			h.bootstrap("wish", "")
			h.bootstrap("wish", "wish")
		}},
		"a reissue": {tell: func(h *history) {
			h.bootstrap("", "")
			h.token("aaaaaa", "1", 0)
			h.bootstrap("wish", "")
			h.publish("aaaaaa")
			h.forget(tokenKey("aaaaaa"))
			h.token("bbbbbb", "1", 0)
			h.publish("bbbbbb")
			h.bootstrap("wish", "wish")
		}},
		"joined": {tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.forget(tokenKey("aaaaaa"))
			h.joined()
		}},
		"joined, and the token is there": {want: "and the token", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.joined()
		}},
		"approved long after its token was gone": {want: "was gone for", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			r := h.asked("x", "node-a", "aaaaaa", a)
			r.Status.Conditions = nil
			h.store(requestsPrefix+"x", r)
			h.forget(tokenKey("aaaaaa"))
			h.approve("x", "node-a", "aaaaaa", a)
			h.changes[3].at = h.changes[3].at.Add(grace + time.Second)
		}},
		"another node's name": {want: "approved for CN=system:node:node-b", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-b", "aaaaaa", a)
		}},
		"another node's certificate": {want: "was issued to", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.issue("x", "aaaaaa", "node-b", a)
		}},
		"second key": {want: "second key", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			h.approve("x", "node-a", "aaaaaa", a)
			h.approve("y", "node-a", "aaaaaa", b)
		}},
		"another signer": {want: "for the signer", tell: func(h *history) {
			h.token("aaaaaa", "1", 0)
			r := h.asked("x", "node-a", "aaaaaa", a)
			r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
			h.store(requestsPrefix+"x", r)
		}},
		"unknown token": {want: "there never was", tell: func(h *history) { h.approve("x", "node-a", "aaaaaa", a) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{t: t}
			c.tell(h)
			l := newLedger(t.Logf, leeway{overlap: func() bool { return c.overlap }, lag: func() time.Duration { return 0 }})
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
