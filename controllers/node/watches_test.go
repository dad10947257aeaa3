// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// After a token is deleted, only the reconcile of the named node sees a CSR that was sent with it and names another node.
func TestTokenEnqueuesTheNodesThatItsCSRsName(t *testing.T) {
	scheme, err := objects.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	request := func(name, tokenID, node string) client.Object {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: requestFor(t, node), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Username: "system:bootstrap:" + tokenID, Groups: []string{token.Group},
		}}
	}
	build := indexing{fake.NewClientBuilder().WithScheme(scheme).WithObjects(request("a", "abcdef", "worker-2"), request("b", "bbbbbb", "worker-3"))}
	if err := objects.AddIndexes(t.Context(), build); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Client: build.Build()}
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}
	var enqueued []string
	for _, request := range r.requestsOfSecret(t.Context(), &corev1.Secret{ObjectMeta: token.NewSecret(nb, "abcdef", "", metav1.Now().Time).ObjectMeta}) {
		enqueued = append(enqueued, request.Name)
	}
	if !slices.Equal(enqueued, []string{"worker-1", "worker-2"}) {
		t.Errorf("got requests for %q", enqueued)
	}
}

// indexing adds the operator's indexes to a fake client.
type indexing struct{ *fake.ClientBuilder }

func (i indexing) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(o, field, values)
	return nil
}

// requestFor returns the request of a kubelet, in PEM.
func requestFor(t *testing.T, node string) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// The bootstrap signer signs cluster-info again for each token with usage signing. That caused a reconcile of every
// NodeBootstrap.
func TestOnlyWhatIsUsedOfAConfigMapWakesNodes(t *testing.T) {
	configMap := func(name string, data map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: name}, Data: data}
	}
	info := func(kubeconfig, signature string) *corev1.ConfigMap {
		return configMap("cluster-info", map[string]string{"kubeconfig": kubeconfig, "jws-kubeconfig-abcdef": signature})
	}
	root := func(ca, annotation string) *corev1.ConfigMap {
		cm := configMap("kube-root-ca.crt", map[string]string{"ca.crt": ca})
		cm.Annotations = map[string]string{"kubernetes.io/description": annotation}
		return cm
	}
	for what, c := range map[string]struct {
		before, after *corev1.ConfigMap
		wakes         bool
	}{
		"a signature":          {info("a", "1"), info("a", "2"), false},
		"the first signature":  {configMap("cluster-info", map[string]string{"kubeconfig": "a"}), info("a", "2"), false},
		"nothing":              {info("a", "1"), info("a", "1"), false},
		"the kubeconfig":       {info("a", "1"), info("b", "1"), true},
		"the kubeconfig comes": {configMap("cluster-info", nil), info("a", "1"), true},
		"the kubeconfig goes":  {info("a", "1"), configMap("cluster-info", nil), true},
		"the CA":               {root("a", "1"), root("b", "1"), true},
		"an annotation":        {root("a", "1"), root("a", "2"), false},
	} {
		if got := usedConfigMap.Update(event.UpdateEvent{ObjectOld: c.before, ObjectNew: c.after}); got != c.wakes {
			t.Errorf("%s: nodes are reconciled: %t", what, got)
		}
	}
	if !usedConfigMap.Create(event.CreateEvent{Object: info("a", "1")}) || !usedConfigMap.Delete(event.DeleteEvent{Object: info("a", "1")}) {
		t.Error("a creation or deletion reconciles no node")
	}
}
