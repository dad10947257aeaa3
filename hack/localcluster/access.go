// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// serviceAccountTokenSeconds is how long ServiceAccountConfig's tokens are valid.
const serviceAccountTokenSeconds = 24 * 60 * 60

// contextName names cluster, user and context in the kubeconfigs written here.
const contextName = "localcluster"

// Server returns the API server's address, as https://127.0.0.1:PORT.
func (c *Cluster) Server() string {
	return c.apiServer.SecureServing.URL("https", "").String()
}

// EtcdURL returns etcd's address, as http://127.0.0.1:PORT, to read stored data
// without the API server. etcd requires no credentials.
func (c *Cluster) EtcdURL() string { return c.etcdServer.URL.String() }

// ServerCA returns the CA of the API server's certificate, in PEM.
func (c *Cluster) ServerCA() []byte { return slices.Clone(c.apiServer.CA) }

// ClientCA returns, in PEM, the CA that the API server trusts for clients and
// that kube-controller-manager signs with, kubelets' serving certificates too.
func (c *Cluster) ClientCA() []byte { return slices.Clone(c.ca.certPEM) }

// AdminConfig returns the configuration of a member of system:masters, without
// client-side rate limits. The caller may change it.
func (c *Cluster) AdminConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// ConfigFor returns the configuration of any user, by a client certificate that
// is valid for a year, without client-side rate limits.
func (c *Cluster) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	cfg, err := c.ca.AddUser(envtest.User{Name: user, Groups: groups}, c.anonymousConfig())
	if err != nil {
		return nil, fmt.Errorf("creating a client configuration for %q: %w", user, err)
	}
	return cfg, nil
}

// KubeconfigFor returns ConfigFor's configuration as a kubeconfig file's content.
func (c *Cluster) KubeconfigFor(user string, groups ...string) ([]byte, error) {
	cfg, err := c.ConfigFor(user, groups...)
	if err != nil {
		return nil, err
	}
	return encodeKubeconfig(cfg, "")
}

// WriteAdminKubeconfig stores AdminConfig as a kubeconfig in the cluster's
// directory, readable only by its owner, and returns its path. Only the first call
// writes, because others may be reading the file.
func (c *Cluster) WriteAdminKubeconfig() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	path := filepath.Join(c.dir, "admin.kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	content, err := encodeKubeconfig(c.admin, "")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("storing the admin's kubeconfig: %w", err)
	}
	return path, nil
}

// ServiceAccountConfig returns the configuration of a ServiceAccount, which must
// exist, by a token that is valid for 24 hours, without client-side rate limits.
func (c *Cluster) ServiceAccountConfig(ctx context.Context, namespace, name string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return nil, fmt.Errorf("creating a client: %w", err)
	}
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(serviceAccountTokenSeconds))},
	}
	answer, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a token for ServiceAccount %s/%s: %w", namespace, name, err)
	}
	cfg := c.anonymousConfig()
	cfg.BearerToken = answer.Status.Token
	return cfg, nil
}

// ServiceAccountKubeconfig returns ServiceAccountConfig's configuration as a
// kubeconfig file's content, with the ServiceAccount's namespace as default.
func (c *Cluster) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) ([]byte, error) {
	cfg, err := c.ServiceAccountConfig(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return encodeKubeconfig(cfg, namespace)
}

// TokenKubeconfig returns a kubeconfig file's content with a bearer token: given
// ID.SECRET of a bootstrap token, it is a bootstrap kubeconfig.
func (c *Cluster) TokenKubeconfig(token string) ([]byte, error) {
	cfg := c.anonymousConfig()
	cfg.BearerToken = token
	return encodeKubeconfig(cfg, "")
}

// anonymousConfig knows the server but no user.
func (c *Cluster) anonymousConfig() *rest.Config {
	return &rest.Config{
		Host:            c.Server(),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ServerCA()},
		QPS:             -1, // client-go's own limit is 5 requests a second.
	}
}

func encodeKubeconfig(cfg *rest.Config, namespace string) ([]byte, error) {
	content, err := clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{contextName: {
			Server: cfg.Host, CertificateAuthorityData: cfg.CAData,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{contextName: {
			ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, Token: cfg.BearerToken,
		}},
		Contexts: map[string]*clientcmdapi.Context{contextName: {
			Cluster: contextName, AuthInfo: contextName, Namespace: namespace,
		}},
		CurrentContext: contextName,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding a kubeconfig: %w", err)
	}
	return content, nil
}
