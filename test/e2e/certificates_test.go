// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A kubelet creates an ECDSA key. If it does not rotate its certificate it uses the key that it finds, which can be an RSA
// key, and then also requests key encipherment (pkg/kubelet/certificate/bootstrap).
func TestKindsOfClientKeys(t *testing.T) {
	t.Parallel()
	planted, err := rsa.GenerateKey(rand.Reader, 2048)
	env.Must(t, err)
	plantedPEM, err := keyutil.MarshalPrivateKeyToPEM(planted)
	env.Must(t, err)
	kinds := map[string]struct {
		kubelet   localcluster.KubeletConfig
		algorithm x509.PublicKeyAlgorithm
		usages    []certificatesv1.KeyUsage
	}{
		"key-ecdsa": {algorithm: x509.ECDSA, usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}},
		"key-rsa": {
			kubelet: localcluster.KubeletConfig{
				Files:       map[string][]byte{"pki/kubelet-client.key.tmp": plantedPEM},
				ExtraConfig: map[string]any{"rotateCertificates": false},
			},
			algorithm: x509.RSA,
			usages:    []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment},
		},
	}
	tokens := map[string]string{}
	for name := range kinds {
		cluster.Create(t, cluster.NodeBootstrap(name))
	}
	for name, kind := range kinds {
		nb, kubeconfig := cluster.WaitAwaited(t, name)
		tokens[name] = nb.Status.Token.ID
		kind.kubelet.NodeName, kind.kubelet.BootstrapKubeconfig = name, kubeconfig
		startKubeletWith(t, kind.kubelet)
	}
	for name, kind := range kinds {
		joined := waitJoined(t, name)
		requests := sentWith(t, tokens[name])
		if len(requests) != 1 || len(joined.Status.Certificates) != 1 {
			t.Fatalf("%s: the requests are %+v, the decisions %+v, want one of each", name, requests, joined.Status.Certificates)
		}
		request, parsed := &requests[0], parseRequest(t, &requests[0])
		if parsed.PublicKeyAlgorithm != kind.algorithm {
			t.Errorf("%s: the key is of the kind %s", name, parsed.PublicKeyAlgorithm)
		}
		if usages := slices.Sorted(slices.Values(request.Spec.Usages)); !slices.Equal(usages, kind.usages) {
			t.Errorf("%s: the usages are %q", name, usages)
		}
		if kind.algorithm == x509.RSA && !planted.PublicKey.Equal(parsed.PublicKey) {
			t.Errorf("%s: the kubelet did not use the planted key", name)
		}
		if reason := approvedFor(request); reason != csr.ReasonKubeletClient {
			t.Errorf("%s: the request is approved for %q: %+v", name, reason, request.Status)
		}
		env.Check(t, recorded(joined, request, csr.ReasonKubeletClient))
	}
}

// A kubelet serves with the certificate that the operator has approved; one that requests more than was declared waits until
// that is declared too. No address that a kubelet requests is reserved here: the API server advertises 127.0.0.1, and is in
// no EndpointSlice.
func TestServingCertificates(t *testing.T) {
	t.Parallel()
	const name, late = "serving", "serving-late"
	ip, subnet := machineAddress(t)
	declared := map[string][]string{name: {name, subnet}, late: {late}} // a subnet, since DHCP assigns the address
	for node, addresses := range declared {
		nb := cluster.NodeBootstrap(node)
		nb.Spec.ServingCertificate.Addresses = addresses
		cluster.Create(t, nb)
	}
	for node := range declared {
		_, kubeconfig := cluster.WaitAwaited(t, node)
		startServing(t, node, ip, kubeconfig)
	}
	for node := range declared {
		waitJoined(t, node)
	}

	joined := waitServing(t, name, metav1.ConditionTrue, csr.ReasonKubeletServing)
	request := soleServingRequest(t, name)
	if parsed := parseRequest(t, request); !slices.Equal(parsed.DNSNames, []string{name}) ||
		len(parsed.IPAddresses) != 1 || parsed.IPAddresses[0].String() != ip {
		t.Errorf("the kubelet has requested %q and %q", parsed.DNSNames, parsed.IPAddresses)
	}
	env.Check(t, recorded(joined, request, csr.ReasonKubeletServing))
	waitServedWith(t, name, request)

	waiting := waitServing(t, late, metav1.ConditionFalse, csr.ReasonAddressNotDeclared)
	if c := meta.FindStatusCondition(waiting.Status.Conditions, v1alpha1.ConditionServingCertificateApproved); !strings.Contains(c.Message, strconv.Quote(ip)) {
		t.Errorf("the message does not name %s: %s", ip, c.Message)
	}
	undecided := soleServingRequest(t, late)
	if len(undecided.Status.Conditions) > 0 || len(undecided.Status.Certificate) > 0 {
		t.Errorf("a request for an address that is not declared has the status %+v", undecided.Status)
	}
	if _, err := servedBy(t.Context(), late); err == nil || !strings.Contains(err.Error(), "remote error: tls") {
		t.Errorf("a kubelet without a certificate must refuse to serve, but the error is %v", err)
	}

	env.Change(t, cluster, waiting, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ServingCertificate.Addresses = append(nb.Spec.ServingCertificate.Addresses, subnet)
	})
	joined = waitServing(t, late, metav1.ConditionTrue, csr.ReasonKubeletServing)
	waitServedWith(t, late, undecided)
	env.Check(t, recorded(joined, undecided, csr.ReasonKubeletServing))
}

// machineAddress is the address that kubelets on this machine use for their nodes, and its subnet. It is one that a kubelet
// accepts (validateNodeIP in pkg/kubelet): not the loopback address.
func machineAddress(t *testing.T) (ip, subnet string) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	env.Must(t, err)
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		bits := min(p.Bits(), p.Addr().BitLen()-8) // a subnet of one address would be the node's own
		return p.Addr().String(), netip.PrefixFrom(p.Addr(), bits).Masked().String()
	}
	t.Skip("without a network a kubelet has no address to ask for a serving certificate for")
	return "", ""
}

// startServing runs a kubelet that requests its serving certificate.
func startServing(t *testing.T, name, ip string, kubeconfig []byte) *localcluster.Kubelet {
	t.Helper()
	return startKubeletWith(t, localcluster.KubeletConfig{
		NodeName: name, BootstrapKubeconfig: kubeconfig, ServerTLSBootstrap: true, ExtraArgs: map[string]string{"node-ip": ip},
	})
}

// waitServing waits until the condition of a node's serving certificate has a reason.
func waitServing(t *testing.T, name string, status metav1.ConditionStatus, reason string) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := &v1alpha1.NodeBootstrap{}
	env.Eventually(t, "the condition of the serving certificate of "+name, func() error {
		cluster.Get(t, "", name, nb)
		c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionServingCertificateApproved)
		if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != nb.Generation {
			return fmt.Errorf("it is %+v, want %s %s", c, status, reason)
		}
		return nil
	})
	return nb
}

// servingRequests are the CSRs for serving certificates that a node has sent.
func servingRequests(t *testing.T, node string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	return sentBy(t, node, certificatesv1.KubeletServingSignerName)
}

func soleServingRequest(t *testing.T, node string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	requests := servingRequests(t, node)
	if len(requests) != 1 {
		t.Fatalf("the node %s has sent %d requests for serving certificates, want 1", node, len(requests))
	}
	return &requests[0]
}

// servedBy connects to a node's kubelet and returns its serving certificate, which must be of the cluster's CA and for the
// node's name and IP.
func servedBy(ctx context.Context, name string) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, env.Limit)
	defer cancel()
	var node corev1.Node
	if err := cluster.Client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
	if i < 0 {
		return nil, errors.New("the node reports no IP")
	}
	ip, port := node.Status.Addresses[i].Address, strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.ClientCA())
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
	connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(ip, port))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	leaf := connection.(*tls.Conn).ConnectionState().PeerCertificates[0]
	return leaf, leaf.VerifyHostname(ip)
}

// waitServedWith waits until a node's kubelet serves with the certificate that was issued to a CSR.
func waitServedWith(t *testing.T, node string, request *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	env.Eventually(t, "what the kubelet "+node+" serves with", func() error {
		served, err := servedBy(t.Context(), node)
		if err != nil {
			return err
		}
		cluster.Get(t, "", request.Name, request)
		if !isIssued(request, served) {
			return fmt.Errorf("it is not the certificate of the request %s", request.Name)
		}
		return nil
	})
}

// signingDuration is how long certificates are valid that kubelets should renew soon. The signer sets their start five minutes
// into the past, and a kubelet renews after 70 to 90 % of the whole, counted from there (pkg/controller/certificates/signer,
// k8s.io/client-go/util/certificate): between 45 s before the issue and 29 s after it. So each certificate is renewed within
// 29 s, most of them at once, and a kubelet stays far below the 20 CSRs in an hour on which the operator decides. The test
// takes a random 5 to 60 s.
const signingDuration = 65 * time.Second

// A kubelet renews both of its certificates, and needs no token for it. kube-controller-manager approves the
// client certificate, through a binding of the operator's, and the operator the serving certificate.
func TestKubeletRenewsItsCertificates(t *testing.T) {
	const name = "renewing"
	ip, _ := machineAddress(t)
	signFor(t, signingDuration)
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ServingCertificate.Addresses = []string{name, ip}
	cluster.Create(t, nb)
	awaited, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{
		NodeName: name, BootstrapKubeconfig: kubeconfig, ServerTLSBootstrap: true, ExtraArgs: map[string]string{"node-ip": ip},
	})
	waitJoined(t, name)
	first := certificateOf(t, &sentWith(t, awaited.Status.Token.ID)[0])
	var servedFirst, served *x509.Certificate
	env.Eventually(t, "the first serving certificate", func() (err error) {
		servedFirst, err = servedBy(t.Context(), name)
		return err
	})
	waitRecorded(t, name, servedFirst)

	env.Eventually(t, "another client certificate", func() error {
		path := filepath.Join(kubelet.Dir(), "pki", "kubelet-client-current.pem")
		current, err := tls.LoadX509KeyPair(path, path)
		if err == nil && current.Leaf.Equal(first) {
			err = errors.New("it is still the first one")
		}
		return err
	})
	env.Eventually(t, "another serving certificate", func() (err error) {
		served, err = servedBy(t.Context(), name)
		if err == nil && served.Equal(servedFirst) {
			err = errors.New("it is still the first one")
		}
		return err
	})
	waitRecorded(t, name, served)
	// Each CSR names the credential with which it was sent, which shows that a certificate is in use.
	var since time.Time
	env.Eventually(t, "a request sent with another client certificate than the first one", func() error {
		for _, r := range append(clientRenewals(t, name), servingRequests(t, name)...) {
			if id := r.Spec.Extra[credentialID]; len(id) == 1 && id[0] != credential(first) {
				since = r.CreationTimestamp.Time
				return nil
			}
		}
		return errors.New("there is none")
	})
	env.Eventually(t, "a heartbeat after that", func() error {
		var lease coordinationv1.Lease
		cluster.Get(t, corev1.NamespaceNodeLease, name, &lease)
		if !lease.Spec.RenewTime.After(since) {
			return fmt.Errorf("the last one was at %s, before %s", lease.Spec.RenewTime, since)
		}
		return nil
	})

	waitJoined(t, name)
	for _, r := range clientRenewals(t, name) {
		if reason := approvedFor(&r); len(r.Status.Certificate) > 0 && reason != "AutoApproved" { // the reason that kube-controller-manager sets
			t.Errorf("the renewal %s is approved for %q", r.Name, reason)
		}
	}
	t.Logf("%d client certificates and %d serving certificates were requested with a certificate", len(clientRenewals(t, name)), len(servingRequests(t, name)))
}

// signFor changes the duration of issued certificates until the test is over.
func signFor(t *testing.T, duration time.Duration) {
	t.Helper()
	restart := func(ctx context.Context, args map[string]string) error {
		if err := cluster.StopControllerManager(); err != nil {
			return err
		}
		return cluster.StartControllerManager(ctx, args)
	}
	t.Cleanup(func() {
		env.Check(t, restart(context.Background(), nil))
	})
	env.Must(t, restart(t.Context(), map[string]string{"cluster-signing-duration": duration.String()}))
}

// clientRenewals are the CSRs for client certificates that a node has sent with its existing one.
func clientRenewals(t *testing.T, node string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	return sentBy(t, node, certificatesv1.KubeAPIServerClientKubeletSignerName)
}

// waitRecorded waits until a status has the operator's approval of the CSR to which a serving certificate was issued.
func waitRecorded(t *testing.T, node string, certificate *x509.Certificate) {
	t.Helper()
	requests := servingRequests(t, node)
	i := slices.IndexFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool { return isIssued(&r, certificate) })
	if i < 0 {
		t.Fatalf("no CSR of the node %s has the serving certificate of its kubelet", node)
	}
	env.Eventually(t, "the record of the approval", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", node, &nb)
		return recorded(&nb, &requests[i], csr.ReasonKubeletServing)
	})
}

// credentialID is the field in which a CSR names the client certificate with which it was sent
// (staging/src/k8s.io/apiserver/pkg/authentication/request/x509).
const credentialID = "authentication.kubernetes.io/credential-id"

func credential(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return "X509SHA256=" + hex.EncodeToString(sum[:])
}

// certificateOf is the certificate that was issued to a CSR.
func certificateOf(t *testing.T, r *certificatesv1.CertificateSigningRequest) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(r.Status.Certificate)
	if block == nil {
		t.Fatalf("the request %s has no certificate: %+v", r.Name, r.Status)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	env.Must(t, err)
	return certificate
}
