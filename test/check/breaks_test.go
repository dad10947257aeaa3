// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

func deployment() *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "nodebootstrap-manager"}}
}

// settle waits until the Deployment in the cluster has its Pods.
func settle(t *testing.T) {
	t.Helper()
	d := deployment()
	env.Must(t, cluster.Client.Get(context.WithoutCancel(t.Context()), client.ObjectKeyFromObject(d), d))
	playPods(t, d)
}

func setImage(t *testing.T, image string) {
	t.Helper()
	kubectl(t, "set", "image", "-n", operator.Namespace, "deployment/nodebootstrap-manager", "manager="+image)
	settle(t)
}

// withCluster is a NodeBootstrap with a server and a CA.
func withCluster(name, server string, ca []byte) *v1alpha1.NodeBootstrap {
	return &v1alpha1.NodeBootstrap{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NodeBootstrapSpec{Cluster: v1alpha1.ClusterSpec{Server: server, CABundle: string(ca)}},
	}
}

// pinned is a NodeBootstrap with a pinned key, which is always the same.
func pinned(name string) *v1alpha1.NodeBootstrap {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	nb.Spec.ClientCertificate.KeyFingerprint = "SHA256:" + strings.Repeat("0123456789abcdef", 4)
	return nb
}

// setReady changes the condition Ready in a status.
func setReady(t *testing.T, name string, status metav1.ConditionStatus, reason string) {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", name, &nb)
	meta.SetStatusCondition(&nb.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: "changed by a test", ObservedGeneration: nb.Generation,
	})
	env.Must(t, cluster.Client.Status().Update(t.Context(), &nb))
}

// kubeletRequest is a CSR for a client certificate.
func kubeletRequest(t *testing.T, node string, seconds *int32) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	r, err := env.KubeletRequest(node)
	env.Must(t, err)
	r.Spec.ExpirationSeconds = seconds
	return r
}

// send sends a CSR as a user, and deletes it when the test is over.
func send(t *testing.T, user, group string, r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	config := cluster.AdminConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{group, "system:authenticated"}}
	clients, err := kubernetes.NewForConfig(config)
	env.Must(t, err)
	var sent *certificatesv1.CertificateSigningRequest
	env.Eventually(t, "sending a CSR as "+user, func() error { // the authorizer may not have seen the binding
		var err error
		sent, err = clients.CertificatesV1().CertificateSigningRequests().Create(t.Context(), r, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() { cluster.DeleteAfter(t, sent) })
	return sent
}

// stopSigning leaves a CSR that was approved two minutes ago without a certificate.
func stopSigning(t *testing.T) {
	env.Must(t, cluster.StopControllerManager())
	t.Cleanup(func() { _ = cluster.StartControllerManager(context.WithoutCancel(t.Context()), nil) }) // it may run already
	clients, err := kubernetes.NewForConfig(cluster.AdminConfig())
	env.Must(t, err)
	r := send(t, "system:node:"+member, "system:nodes", kubeletRequest(t, member, nil))
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", LastTransitionTime: metav1.NewTime(time.Now().Add(-2 * time.Minute)),
	}}
	_, err = clients.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), r.Name, r, metav1.UpdateOptions{})
	env.Must(t, err)
}

// server is a TLS server with a CA of its own.
type server struct {
	url string
	ca  []byte
}

// newServer starts a server whose certificate is valid for an hour, and whose CA is valid for some time.
func newServer(t *testing.T, life time.Duration) server {
	t.Helper()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another CA"}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca, caKey := certificate(t, template, nil, nil)
	leaf, leafKey := certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "server"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return server{s.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})}
}

// certificate signs a certificate with a new key; by itself without a parent.
func certificate(t *testing.T, template, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := env.Key(t)
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	env.Must(t, err)
	parsed, err := x509.ParseCertificate(der)
	env.Must(t, err)
	return parsed, key
}

// forward is another URL of the API server.
func forward(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	env.Must(t, err)
	t.Cleanup(func() { listener.Close() })
	to := strings.TrimPrefix(cluster.Server(), "https://")
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in) }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return "https://" + listener.Addr().String()
}

// answerer changes the answers of the API server.
type answerer struct {
	version string
	ahead   time.Duration
}

// apiProxy is before the API server, with its certificate, and an administrator's access.
type apiProxy struct {
	kubeconfig string
	with       atomic.Pointer[answerer]
}

func (p *apiProxy) answer(a answerer) { p.with.Store(&a) }

func newProxy(t *testing.T) *apiProxy {
	t.Helper()
	p := &apiProxy{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	p.answer(answerer{})
	transport, err := rest.TransportFor(cluster.AdminConfig())
	env.Must(t, err)
	target, err := url.Parse(cluster.Server())
	env.Must(t, err)
	s := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:      transport,
		ModifyResponse: p.modify,
	})
	pair, err := tls.LoadX509KeyPair(filepath.Join(cluster.Dir(), "apiserver", "apiserver.crt"), filepath.Join(cluster.Dir(), "apiserver", "apiserver.key"))
	env.Must(t, err)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	config := clientcmdapi.NewConfig()
	config.Clusters["proxy"] = &clientcmdapi.Cluster{Server: s.URL, CertificateAuthorityData: cluster.ServerCA()}
	config.Contexts["proxy"] = &clientcmdapi.Context{Cluster: "proxy"}
	config.CurrentContext = "proxy"
	env.Must(t, clientcmd.WriteToFile(*config, p.kubeconfig))
	return p
}

func (p *apiProxy) modify(r *http.Response) error {
	with := p.with.Load()
	if date, err := http.ParseTime(r.Header.Get("Date")); err == nil {
		r.Header.Set("Date", date.Add(with.ahead).Format(http.TimeFormat))
	}
	if r.Request.URL.Path != "/version" || with.version == "" {
		return nil
	}
	body, err := json.Marshal(version.Info{GitVersion: with.version})
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	r.Header.Del("Content-Length")
	return err
}

// documentedRole is a file with the ClusterRole of the documentation, bound to the group checkers.
func documentedRole(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	env.Must(t, err)
	for _, block := range strings.Split(string(page), "```")[1:] {
		if _, manifest, isYAML := strings.Cut(block, "yaml\n"); isYAML && strings.Contains(manifest, "name: nodebootstrap-check") {
			file := filepath.Join(t.TempDir(), "role.yaml")
			env.Must(t, os.WriteFile(file, []byte(manifest), 0o600))
			return file
		}
	}
	t.Fatal("docs/operations.md has no ClusterRole nodebootstrap-check")
	return ""
}
