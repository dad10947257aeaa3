// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// awaitedAt creates a NodeBootstrap whose node reaches the API server at a URL, and waits until its kubeconfig is published.
func awaitedAt(t *testing.T, name, server string, addresses ...string) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := cluster.NodeBootstrap(name)
	nb.Spec.Cluster.Server = server
	nb.Spec.ServingCertificate.Addresses = addresses
	cluster.Create(t, nb)
	cluster.WaitAwaited(t, name)
	return nb
}

// refused sends a CSR for a serving certificate and waits until the condition has the reason AddressReserved and its message
// says who reserves the address.
func refused(t *testing.T, node, by string, addresses ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	request := askServing(t, node, addresses...)
	env.Eventually(t, "the refusal of "+strings.Join(addresses, ", "), func() error {
		cluster.Get(t, "", request.Name, request)
		if len(request.Status.Conditions) > 0 {
			t.Fatalf("a node serves as %v: %+v", addresses, request.Status.Conditions)
		}
		if c := servingCondition(t, node); c.Status != metav1.ConditionFalse || c.Reason != csr.ReasonAddressReserved || !strings.Contains(c.Message, by) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	return request
}

// servingCondition returns the current condition ServingCertificateApproved.
func servingCondition(t *testing.T, node string) metav1.Condition {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", node, &nb)
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionServingCertificateApproved); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// Each rack has its own load balancer. A node in one rack got a certificate for the load balancer of another rack.
func TestNoNodeServesAsAnotherRacksLoadBalancer(t *testing.T) {
	awaitedAt(t, "rack-a", "https://LB.rack-a.example:6443")
	awaitedAt(t, "rack-a-ip", "https://[2001:DB8:a::1]:6443")
	awaitedAt(t, "rack-a-unicode", "https://lb.räck.example:6443")
	const name = "rack-b"
	addresses := []string{name, "lb.rack-a.example", "2001:db8:a::1", "xn--lb-rack.example", "lb.xn--rck-qla.example"}
	awaitedAt(t, name, "https://lb.rack-b.example:6443", addresses...)
	for address, by := range map[string]string{
		"lb.rack-a.example":      "the NodeBootstrap rack-a",
		"LB.Rack-A.Example":      "the NodeBootstrap rack-a",
		"2001:db8:a::1":          "the NodeBootstrap rack-a-ip",
		"lb.xn--rck-qla.example": "the NodeBootstrap rack-a-unicode",
	} {
		t.Run(address, func(t *testing.T) { cluster.Delete(t, refused(t, name, by, name, address)) })
	}
	waitCondition(t, askServing(t, name, name, "xn--lb-rack.example"), certificatesv1.CertificateApproved)
}

// A node may still use the server of a kubeconfig that it got earlier, whatever its NodeBootstrap says now. A change of the
// server while the CSR was pending got it approved.
func TestServersOfBeforeStayReserved(t *testing.T) {
	const name = "moves"
	nb := awaitedAt(t, name, "https://lb.before.example:6443", name, "lb.before.example")
	request := refused(t, name, "the NodeBootstrap moves", name, "lb.before.example")
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://lb.after.example:6443" })
	env.Eventually(t, "the new server", func() error {
		cluster.Get(t, "", name, nb)
		if nb.Status.Server != nb.Spec.Cluster.Server {
			return fmt.Errorf("it is %s", nb.Status.Server)
		}
		return nil
	})
	for range 2 { // once the second one is approved, the operator has reconciled the first one after the change
		waitCondition(t, askServing(t, name, name), certificatesv1.CertificateApproved)
	}
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Errorf("a node serves as the previous load balancer: %+v", request.Status.Conditions)
	}
	const other = "moved-in"
	awaitedAt(t, other, "https://lb.after.example:6443", other, "lb.before.example")
	refused(t, other, "the NodeBootstrap moves", "lb.before.example")
}

// The Service of the API server can have more addresses than its cluster IP.
func TestNoNodeServesAsTheServiceOfTheAPIServer(t *testing.T) {
	const name = "serves-as-service"
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}}
	env.Change(t, cluster, service, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.77"} })
	t.Cleanup(func() {
		service.Spec.ExternalIPs = nil
		if err := cluster.Client.Update(context.Background(), service); err != nil {
			t.Error(err)
		}
	})
	awaitedAt(t, name, cluster.Server(), name, "198.51.100.77")
	refused(t, name, "the Service kubernetes", name, "198.51.100.77")
}

// The host of the flag was only reserved for NodeBootstraps that use it. And a load balancer that terminates TLS has names in
// its certificate that appear nowhere else.
func TestNoNodeServesAsTheHostOfTheFlagOrOfTheCertificate(t *testing.T) {
	lb := behindLoadBalancer(t, controllers.Options{ClusterServer: "https://api.prod.example:6443"})
	const name = "res-b"
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	nb.Spec.Cluster.Server = "https://elsewhere.example:6443"
	nb.Spec.ServingCertificate.Addresses = []string{name, "api.prod.example", "lb.certificate.example", "192.0.2.66", "any.wild.example", "of.any.wild.example"}
	cluster.Create(t, nb)
	cluster.WaitAwaited(t, name)
	for address, by := range map[string]string{
		"api.prod.example":       "--cluster-server",
		"API.prod.example":       "--cluster-server",
		"lb.certificate.example": "certificate",
		"192.0.2.66":             "certificate",
		"any.wild.example":       "certificate",
	} {
		t.Run(address, func(t *testing.T) { cluster.Delete(t, refused(t, name, by, name, address)) })
	}
	waitCondition(t, askServing(t, name, name, "of.any.wild.example"), certificatesv1.CertificateApproved)
	t.Run("another CA", func(t *testing.T) { lb.movesToAnotherCA(t, name) })
}

// movesToAnotherCA updates the ConfigMap before the certificate: nodes are reconciled as soon as the API server presents the
// new one.
func (lb *balancer) movesToAnotherCA(t *testing.T, node string) {
	info := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "kube-root-ca.crt"}}
	env.Change(t, cluster, info, func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = string(lb.nextCA) })
	cluster.WaitReady(t, node, metav1.ConditionFalse, v1alpha1.ReasonCADoesNotVerify)
	lb.presented.Store(&lb.next)
	lb.CloseClientConnections()
	cluster.WaitReady(t, node, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	env.Eventually(t, "the new CA", func() error {
		if s := kubeconfigSecret(t, node); !bytes.Equal(s.Data[kubeconfig.CAKey], lb.nextCA) {
			return fmt.Errorf("it is %s", s.Data[kubeconfig.CAKey])
		}
		return nil
	})
}

// behindLoadBalancer switches the test to another cluster, whose API server the operator reaches through a load balancer that
// terminates TLS with its own certificate. Its CA is in kube-root-ca.crt.
func behindLoadBalancer(t *testing.T, o controllers.Options) *balancer {
	t.Helper()
	e, err := env.Start(t.Context(), localcluster.Config{NoControllerManager: true})
	if err != nil {
		t.Fatal(err)
	}
	before := cluster
	cluster = e
	t.Cleanup(func() {
		cluster = before
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := operator.Config(t.Context(), e.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	lb := loadBalancer(t, cfg, "lb.certificate.example", "*.wild.example")
	through := rest.AnonymousClientConfig(cfg)
	through.Host, through.CAData = lb.URL, slices.Concat(lb.ca, lb.nextCA)
	through.BearerToken, through.QPS = cfg.BearerToken, cfg.QPS
	o.Clock, o.Registry = apiserver.NewClock(clock.RealClock{}), prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(t.Context())
	mgr, err := newManagerWith(ctx, through, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	cluster.Create(t, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: "kube-root-ca.crt"},
		Data:       map[string]string{"ca.crt": string(lb.ca)},
	})
	return lb
}

// balancer is a load balancer that terminates TLS, with two certificates of two CAs. It presents the first until the test
// switches to the second.
type balancer struct {
	*httptest.Server
	presented  atomic.Pointer[tls.Certificate]
	next       tls.Certificate
	ca, nextCA []byte
}

// loadBalancer starts a balancer on loopback that forwards to the API server.
func loadBalancer(t *testing.T, to *rest.Config, names ...string) *balancer {
	t.Helper()
	backend, err := url.Parse(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := rest.TLSConfigFor(rest.AnonymousClientConfig(to))
	if err != nil {
		t.Fatal(err)
	}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(192, 0, 2, 66)}
	lb := &balancer{}
	var first tls.Certificate
	first, lb.ca = servingCertificate(t, ips, names...)
	lb.next, lb.nextCA = servingCertificate(t, ips)
	lb.presented.Store(&first)
	quiet := log.New(io.Discard, "", 0)
	lb.Server = httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		Transport:     &http.Transport{TLSClientConfig: tlsConfig},
		FlushInterval: -1, // watches
		ErrorLog:      quiet,
	})
	lb.Config.ErrorLog = quiet
	lb.TLS = &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{*lb.presented.Load()}, MinVersion: tls.VersionTLS12}, nil
		},
		MinVersion: tls.VersionTLS12,
	}
	lb.StartTLS()
	t.Cleanup(func() {
		lb.CloseClientConnections()
		lb.Close()
	})
	return lb
}

// servingCertificate returns a certificate of a new CA, and the CA in PEM.
func servingCertificate(t *testing.T, ips []net.IP, names ...string) (tls.Certificate, []byte) {
	t.Helper()
	caKey, key := newKey(t), newKey(t)
	sign := func(template, parent *x509.Certificate, public any) []byte {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "load balancers"}, IsCA: true, BasicConstraintsValid: true}
	ca := sign(parent, parent, caKey.Public())
	leaf := sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, IPAddresses: ips}, parent, key.Public())
	return tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})
}
