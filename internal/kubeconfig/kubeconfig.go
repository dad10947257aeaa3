// SPDX-License-Identifier: Apache-2.0

// Package kubeconfig finds and validates the API server's URL and CA, and renders the bootstrap kubeconfig.
package kubeconfig

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

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
