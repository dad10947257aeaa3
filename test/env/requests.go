// SPDX-License-Identifier: Apache-2.0

package env

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
)

// NewKey creates a key as a kubelet does.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Key is NewKey for a test.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := NewKey()
	Must(t, err)
	return key
}

// KubeletRequest is a kubelet's CSR for its client certificate, with a new key.
func KubeletRequest(node string) (*certificatesv1.CertificateSigningRequest, error) {
	return NewRequest(node, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
}

// NewRequest is a CSR in a node's name, with a new key.
func NewRequest(node, signer string, usage certificatesv1.KeyUsage, dnsNames ...string) (*certificatesv1.CertificateSigningRequest, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	pem, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, dnsNames, nil)
	return &certificatesv1.CertificateSigningRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: certificatesv1.SchemeGroupVersion.String(), Kind: "CertificateSigningRequest"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem, SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, err
}

// Clientset is a client with a kubeconfig.
func Clientset(t testing.TB, kubeconfig []byte) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	Must(t, err)
	c, err := kubernetes.NewForConfig(config)
	Must(t, err)
	return c
}

// Binding binds a ClusterRole to a user or a group, by their kind.
func Binding(name, role, kind, subject string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: subject}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
}
