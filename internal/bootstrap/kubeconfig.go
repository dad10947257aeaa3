// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	if t := cluster.template; t != nil && plainInYAML(token.bearer()) {
		return slices.Concat(t.before, []byte(token.bearer()), t.after), nil
	}
	out, err := renderKubeconfig(cluster, token.bearer())
	if err != nil {
		return nil, fmt.Errorf("rendering the bootstrap kubeconfig with %s: %w", token, err)
	}
	return out, nil
}

func renderKubeconfig(cluster Cluster, bearer string) ([]byte, error) {
	const name, user = "kubernetes", "kubelet-bootstrap"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: cluster.Server, CertificateAuthorityData: cluster.CA}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: bearer}
	config.Contexts[user] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = user
	return clientcmd.Write(*config)
}

// kubeconfigTemplate is a kubeconfig around the token, which is all that differs between the nodes of a cluster: clientcmd takes
// as long for one as everything else that is decided about a node.
type kubeconfigTemplate struct{ before, after []byte }

// newKubeconfigTemplate is nil when there cannot be one, as when rendering fails.
func newKubeconfigTemplate(cluster Cluster) *kubeconfigTemplate {
	const anyToken = "aaaaaa.aaaaaaaaaaaaaaaa"
	text, err := renderKubeconfig(cluster, anyToken)
	at := bytes.LastIndex(text, []byte(anyToken)) // the token is written last; the server may be anything
	if err != nil || at < 0 {
		return nil
	}
	return &kubeconfigTemplate{before: text[:at], after: text[at+len(anyToken):]}
}

// plainInYAML reports whether a token is sure to be written without quotes: nothing but digits and an e may be a number.
func plainInYAML(bearer string) bool { return strings.ContainsAny(bearer, "abcdfghijklmnopqrstuvwxyz") }

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

const (
	// digestKey is no key that the API server would take.
	digestKey = "(digest)"
	// maxDigestTokens bounds a digest. A kubeconfig of ours carries one token; one that carries more is written again.
	maxDigestTokens = 16
)

// Digest is what is held in memory of the data of a kubeconfig Secret: a SHA-256 of it, and the tokens in the kubeconfig, by
// which Carries and RedactSecrets go. The digest of a digest is that digest.
func Digest(data map[string][]byte) map[string][]byte {
	if _, is := data[digestKey]; is {
		return data
	}
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(sum, "%q=%d:", key, len(data[key]))
		sum.Write(data[key])
	}
	digest := sum.Sum(nil)
	for _, token := range findTokens(data[KubeconfigKey], maxDigestTokens) {
		digest = append(append(digest, '\n'), token[0]...)
	}
	return map[string][]byte{digestKey: digest}
}

// tokensIn is a text with the tokens in a kubeconfig Secret, be it whole or a digest.
func tokensIn(s *corev1.Secret) []byte {
	if digest, is := s.Data[digestKey]; is {
		return digest
	}
	return s.Data[KubeconfigKey]
}

// RestoredKubeconfig is Restored for a Secret of which there are digests alone.
func RestoredKubeconfig(have, want *corev1.Secret) *corev1.Secret {
	digested := *want
	digested.Data = Digest(want.Data)
	out := Restored(have, &digested)
	if out != nil {
		out.Data = want.Data
	}
	return out
}

// Immovable reports whether a Secret of ours, which may have the Digest of its data only, cannot be brought to its wanted content by an
// update, so that it has to be deleted and created again. One that is immutable and has that content is good.
func Immovable(have, want *corev1.Secret) bool {
	return have.Type != want.Type || immutable(have) && !maps.EqualFunc(Digest(have.Data), Digest(want.Data), bytes.Equal)
}

func immutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
