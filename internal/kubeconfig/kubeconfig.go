// SPDX-License-Identifier: Apache-2.0

// Package kubeconfig finds and validates the API server's URL and CA, and renders the bootstrap kubeconfig.
package kubeconfig

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	// Key is the key of the kubeconfig Secret that holds the file for kubelet's --bootstrap-kubeconfig.
	Key = "kubeconfig"
	// CAKey is the key of the kubeconfig Secret that holds the CA certificates in PEM.
	CAKey = "ca.crt"
)

// Render renders the file for the kubelet's --bootstrap-kubeconfig. The same input gives the same bytes.
func Render(cluster Cluster, tok token.Token) ([]byte, error) {
	if t := cluster.template; t != nil && plainInYAML(tok.Bearer()) {
		return slices.Concat(t.before, []byte(tok.Bearer()), t.after), nil
	}
	out, err := marshal(cluster, tok.Bearer())
	if err != nil {
		return nil, fmt.Errorf("rendering the bootstrap kubeconfig with %s: %w", tok, err)
	}
	return out, nil
}

func marshal(cluster Cluster, bearer string) ([]byte, error) {
	const name, user = "kubernetes", "kubelet-bootstrap"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: cluster.Server, CertificateAuthorityData: cluster.CA}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: bearer}
	config.Contexts[user] = &clientcmdapi.Context{Cluster: name, AuthInfo: user}
	config.CurrentContext = user
	return clientcmd.Write(*config)
}

// template is a kubeconfig around the token, the only difference between the nodes of a cluster: rendering with clientcmd takes as long
// as all other decisions about a node.
type template struct{ before, after []byte }

// newTemplate is nil if a template is not possible, for example if rendering fails.
func newTemplate(cluster Cluster) *template {
	const anyToken = "aaaaaa.aaaaaaaaaaaaaaaa"
	text, err := marshal(cluster, anyToken)
	at := bytes.LastIndex(text, []byte(anyToken)) // the token is written last; the server is arbitrary
	if err != nil || at < 0 {
		return nil
	}
	return &template{before: text[:at], after: text[at+len(anyToken):]}
}

// plainInYAML reports whether a token is certainly written without quotes: digits with an e could be a number.
func plainInYAML(bearer string) bool { return strings.ContainsAny(bearer, "abcdfghijklmnopqrstuvwxyz") }

// NewSecret is the Secret that publishes a node's bootstrap kubeconfig.
func NewSecret(nb *v1alpha1.NodeBootstrap, namespace string, cluster Cluster, t token.Token) (*corev1.Secret, error) {
	kubeconfig, err := Render(cluster, t)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: owned.Meta(nb, namespace, owned.KubeconfigSecretName(nb.Name)),
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{Key: kubeconfig, CAKey: cluster.CA},
	}, nil
}

const (
	// DigestKey is a key that the API server does not accept.
	DigestKey = "(digest)"
	// maxDigestTokens bounds the tokens in a digest. The operator's kubeconfigs have one token; one with more is written again.
	maxDigestTokens = 16
)

// Digest is the in-memory form of the data of a kubeconfig Secret: its SHA-256, and the tokens in the kubeconfig, for Carries and
// RedactSecrets. The digest of a digest is the same digest.
func Digest(data map[string][]byte) map[string][]byte {
	if _, is := data[DigestKey]; is {
		return data
	}
	sum := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(sum, "%q=%d:", key, len(data[key]))
		sum.Write(data[key])
	}
	digest := sum.Sum(nil)
	for _, t := range token.Find(data[Key], maxDigestTokens) {
		digest = append(append(digest, '\n'), t[0]...)
	}
	return map[string][]byte{DigestKey: digest}
}

// tokensIn is a text with the tokens in a kubeconfig Secret, complete or a digest.
func tokensIn(s *corev1.Secret) []byte {
	if digest, is := s.Data[DigestKey]; is {
		return digest
	}
	return s.Data[Key]
}

// Restored is owned.Restored for a Secret with only the Digest of its data.
func Restored(have, want *corev1.Secret) *corev1.Secret {
	digested := *want
	digested.Data = Digest(want.Data)
	out := owned.Restored(have, &digested)
	if out != nil {
		out.Data = want.Data
	}
	return out
}

// Immovable reports whether an update cannot give a Secret of the operator, which may have only the Digest of its data, its wanted
// content, so that it must be deleted and created again. An immutable Secret with that content is fine.
func Immovable(have, want *corev1.Secret) bool {
	return have.Type != want.Type || owned.Immutable(have) && !maps.EqualFunc(Digest(have.Data), Digest(want.Data), bytes.Equal)
}

// RedactSecrets is an error without the secret parts of the tokens in some Secrets, including those in kubeconfigs: an admission webhook
// sees deleted or replaced objects and can repeat them.
func RedactSecrets(err error, secrets ...*corev1.Secret) error {
	for _, s := range secrets {
		if s == nil {
			continue
		}
		parts := []string{string(s.Data[bootstrapapi.BootstrapTokenSecretKey])}
		for _, m := range token.Find(tokensIn(s), maxDigestTokens) {
			parts = append(parts, string(m[1]))
		}
		for _, part := range parts {
			err = token.RedactError(err, &token.Token{Secret: token.NewSecretPart(part)})
		}
	}
	return err
}

// Carries reports whether a kubeconfig Secret contains a token.
func Carries(s *corev1.Secret, t token.Token) bool {
	return s != nil && bytes.Contains(tokensIn(s), []byte(t.Bearer()))
}
