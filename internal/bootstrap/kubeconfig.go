// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	// KubeconfigKey is the key of the kubeconfig Secret that holds the file for kubelet's --bootstrap-kubeconfig.
	KubeconfigKey = "kubeconfig"
	// CAKey is the key of the kubeconfig Secret that holds the CA certificates in PEM.
	CAKey = "ca.crt"
)

// Kubeconfig renders the file that a kubelet takes as its --bootstrap-kubeconfig. The same input gives the same bytes.
func Kubeconfig(cluster Cluster, token Token) ([]byte, error) {
	const name, user = "kubernetes", "kubelet-bootstrap"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: cluster.Server, CertificateAuthorityData: cluster.CA}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token.bearer()}
	config.Contexts[user] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = user
	out, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("rendering the bootstrap kubeconfig with %s: %w", token, err)
	}
	return out, nil
}

// KubeconfigSecret is the Secret that publishes a node's bootstrap kubeconfig.
func KubeconfigSecret(nb *v1alpha1.NodeBootstrap, namespace string, cluster Cluster, token Token) (*corev1.Secret, error) {
	kubeconfig, err := Kubeconfig(cluster, token)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: childMeta(nb, namespace, KubeconfigSecretName(nb.Name)),
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{KubeconfigKey: kubeconfig, CAKey: cluster.CA},
	}, nil
}

// Restored is a Secret as it is with everything that the operator cares about as it should be, or nil when nothing
// differs. Labels and annotations of others stay.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	out := have.DeepCopy()
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	maps.Copy(out.Labels, want.Labels)
	maps.Copy(out.Annotations, want.Annotations)
	out.OwnerReferences = want.OwnerReferences
	if out.Data = have.Data; !maps.EqualFunc(have.Data, want.Data, bytes.Equal) { // DeepEqual would compare byte by byte
		out.Data = want.Data
	}
	if equality.Semantic.DeepEqual(have, out) {
		return nil
	}
	return out
}

// Immovable tells whether a Secret of ours cannot be brought to its wanted content by an update, so that it has to be
// deleted and made again.
func Immovable(have, want *corev1.Secret) bool {
	return have.Type != want.Type || immutable(have)
}

func immutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
