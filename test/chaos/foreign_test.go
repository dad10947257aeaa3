// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509/pkix"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

const foreignTokenID, foreignGroup = "theirs", "system:bootstrappers:theirs"

// plantForeign creates objects that look like the operator's and are not.
func (s *suite) plantForeign() []client.Object {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	planted := []client.Object{
		&corev1.Secret{
			ObjectMeta: meta(token.Namespace, token.SecretName(foreignTokenID)),
			Type:       bootstrapapi.SecretTypeBootstrapToken,
			StringData: map[string]string{
				bootstrapapi.BootstrapTokenIDKey: foreignTokenID, bootstrapapi.BootstrapTokenSecretKey: "0123456789abcdef",
				bootstrapapi.BootstrapTokenUsageAuthentication: "true", bootstrapapi.BootstrapTokenExtraGroupsKey: foreignGroup,
			},
		},
		&corev1.Secret{ObjectMeta: meta(operator.Namespace, "foreign"), StringData: map[string]string{"key": "value"}},
		&corev1.Secret{ObjectMeta: meta(operator.Namespace, owned.KubeconfigSecretName("foreign")), StringData: map[string]string{"kubeconfig": "theirs"}},
		&corev1.ConfigMap{ObjectMeta: meta(operator.Namespace, "foreign"), Data: map[string]string{"key": "value"}},
		binding("foreign", foreignGroup, "system:node-bootstrapper"),
		binding("foreign-wide", token.ClusterWideGroup+"r", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"),
	}
	for _, o := range planted {
		if err := s.env.Client.Create(s.ctx, o); err != nil {
			s.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
	return append(planted, s.plantRequest(canaryNode), s.plantRequest("foreign"))
}

func binding(name, group, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}

// plantRequest sends a kubelet's CSR with someone else's token.
func (s *suite) plantRequest(node string) client.Object {
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	asked, err := cert.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	kubeconfig, err := s.env.TokenKubeconfig(foreignTokenID + ".0123456789abcdef")
	if err != nil {
		s.t.Fatal(err)
	}
	_, c, err := connect(kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	var sent *certificatesv1.CertificateSigningRequest
	s.admin.insist(s.ctx, "sending a foreign request", func(ctx context.Context) error { // the API server accepts the token after a moment
		sent, err = c.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "foreign-"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: asked, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Usages: kubeletUsages,
			},
		}, metav1.CreateOptions{})
		return err
	})
	return sent
}

// checkForeign checks that the planted objects are unchanged.
func (s *suite) checkForeign(planted []client.Object) {
	for _, o := range planted {
		now := o.DeepCopyObject().(client.Object)
		err := s.env.Client.Get(s.t.Context(), client.ObjectKeyFromObject(o), now)
		switch {
		case err != nil:
			s.t.Error(invariants.Foreign.Violated("%T %s: %v", o, o.GetName(), err))
		case now.GetUID() != o.GetUID() || now.GetResourceVersion() != o.GetResourceVersion():
			s.t.Error(invariants.Foreign.Violated("%T %s was changed: %+v is now %+v", o, o.GetName(), o, now))
		}
	}
}
