// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The quotations of docs/troubleshooting.md are in the log of a stock kubelet, and its advice works.

// quoted fails unless docs/troubleshooting.md quotes a text.
func quoted(t *testing.T, text string) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	env.Must(t, err)
	if !strings.Contains(string(content), text) {
		t.Errorf("docs/troubleshooting.md does not quote %q", text)
	}
}

// withServer is a kubeconfig with another server, and another CA unless that is nil.
func withServer(t *testing.T, kubeconfig []byte, server string, ca []byte) []byte {
	t.Helper()
	config, err := clientcmd.Load(kubeconfig)
	env.Must(t, err)
	for _, c := range config.Clusters {
		c.Server = server
		if ca != nil {
			c.CertificateAuthorityData = ca
		}
	}
	out, err := clientcmd.Write(*config)
	env.Must(t, err)
	return out
}

// A kubelet whose kubeconfig names a server with another name, no server, or another CA logs it, and joins with the right one.
func TestKubeconfigsThatAreWrong(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		quote, log string
		spoil      func(t *testing.T, kubeconfig []byte) []byte
		args       map[string]string
	}{
		"wrong-host": {quote: "x509: certificate is valid for X, not Y", log: `x509: certificate is valid for [^"]*, not 127\.0\.0\.2`,
			spoil: func(t *testing.T, k []byte) []byte {
				return withServer(t, k, "https://"+forwardFrom(t, "127.0.0.2:0"), nil)
			}},
		"host-without-ip": {quote: "x509: cannot validate certificate for Y because it doesn't contain any IP SANs",
			log: "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
			spoil: func(t *testing.T, k []byte) []byte {
				ca := authority(t)
				var served atomic.Pointer[tls.Certificate]
				served.Store(ca.issue(t, -time.Hour, time.Hour))
				return withServer(t, k, serveAPI(t, &served), ca.pem)
			}},
		"wrong-ca": {quote: "x509: certificate signed by unknown authority", log: "x509: certificate signed by unknown authority",
			spoil: func(t *testing.T, k []byte) []byte {
				return withServer(t, k, cluster.Server(), authority(t).pem)
			}},
		"wrong-port": {quote: "connection refused", log: "connection refused",
			spoil: func(t *testing.T, k []byte) []byte {
				port, err := localcluster.FreePort()
				env.Must(t, err)
				return withServer(t, k, fmt.Sprintf("https://127.0.0.1:%d", port), nil)
			}},
		"empty-file": {quote: "unable to load bootstrap kubeconfig", log: "unable to load bootstrap kubeconfig",
			spoil: func(*testing.T, []byte) []byte { return []byte("\n") }},
		"no-file": {quote: "unable to load bootstrap kubeconfig", log: "unable to load bootstrap kubeconfig",
			spoil: func(_ *testing.T, k []byte) []byte { return k },
			args:  map[string]string{"bootstrap-kubeconfig": filepath.Join(t.TempDir(), "nothing")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			quoted(t, tc.quote)
			_, kubeconfig := cluster.CreateAwaited(t, name)
			kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: tc.spoil(t, kubeconfig), ExtraArgs: tc.args})
			logMatches(t, kubelet, tc.log)
			env.Must(t, kubelet.Stop())
			startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir(), BootstrapKubeconfig: kubeconfig})
			waitJoined(t, name)
		})
	}
}

// A certificate that is not valid yet, or not any more, by the node's clock is refused. The log has the node's time and that of
// the certificate. Once the clock, or the certificate, is right, the kubelet continues without a restart.
func TestClockOfTheNode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		quote, log string
		from, to   time.Duration // of the certificate, from now
	}{
		"clock-slow": {"x509: certificate has expired or is not yet valid: current time T is before U",
			`x509: certificate has expired or is not yet valid: current time 20\S+ is before 20`, time.Hour, 2 * time.Hour},
		"clock-fast": {"is after U",
			`x509: certificate has expired or is not yet valid: current time 20\S+ is after 20`, -2 * time.Hour, -time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			quoted(t, tc.quote)
			nb, kubeconfig := cluster.CreateAwaited(t, name)
			ca := authority(t)
			var served atomic.Pointer[tls.Certificate]
			served.Store(ca.issue(t, tc.from, tc.to, net.IPv4(127, 0, 0, 1)))
			kubelet := startKubelet(t, name, withServer(t, kubeconfig, serveAPI(t, &served), ca.pem))
			logMatches(t, kubelet, tc.log)
			served.Store(ca.issue(t, -time.Hour, time.Hour, net.IPv4(127, 0, 0, 1)))
			env.Eventually(t, "the kubelet's request", func() error {
				if len(sentWith(t, nb.Status.Token.ID)) == 0 {
					return errors.New("there is none")
				}
				return nil
			})
		})
	}
}

func logMatches(t *testing.T, kubelet *localcluster.Kubelet, pattern string) {
	t.Helper()
	want := regexp.MustCompile(pattern)
	env.Eventually(t, pattern+" in the kubelet's log", func() error {
		content, err := os.ReadFile(kubelet.LogFile())
		if err == nil && !want.Match(content) {
			err = errors.New("it is not there")
		}
		return err
	})
}

// forwardFrom forwards connections to the API server from another address, and returns that address.
func forwardFrom(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	env.Must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				api, err := net.Dial("tcp", strings.TrimPrefix(cluster.Server(), "https://"))
				if err != nil {
					return
				}
				defer api.Close()
				go func() { _, _ = io.Copy(api, conn) }()
				_, _ = io.Copy(conn, api)
			}()
		}
	}()
	return listener.Addr().String()
}

// serveAPI serves the API with a certificate that can change, and returns the URL.
func serveAPI(t *testing.T, certificate *atomic.Pointer[tls.Certificate]) string {
	t.Helper()
	target, err := url.Parse(cluster.Server())
	env.Must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cluster.ServerCA())
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = proxy.ErrorLog
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*certificate.Load()}}, nil
	}}
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// testCA is a CA of this test.
type testCA struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func authority(t *testing.T) *testCA {
	t.Helper()
	key := env.Key(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	env.Must(t, err)
	certificate, err := x509.ParseCertificate(der)
	env.Must(t, err)
	return &testCA{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue is a serving certificate for a name and IPs, valid between two times relative to now.
func (ca *testCA) issue(t *testing.T, from, to time.Duration, ips ...net.IP) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"api.example.com"}, IPAddresses: ips,
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, ca.key.Public(), ca.key)
	env.Must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}
}

// A certificate of another cluster in --cert-dir keeps a kubelet from joining, with "Unauthorized" in its log, although the
// kubeconfig is valid. The advice of docs/troubleshooting.md works: without that file the same kubeconfig joins.
func TestStaleClientCertificate(t *testing.T) {
	t.Parallel()
	const name = "stale-certificate"
	_, kubeconfig := cluster.CreateAwaited(t, name)
	const file = "pki/kubelet-client-current.pem"
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig,
		Files: map[string][]byte{file: ofAnotherCluster(t, name)}})
	logHas(t, kubelet, "Unauthorized")
	env.Must(t, errors.Join(kubelet.Stop(), os.Remove(filepath.Join(kubelet.Dir(), file))))
	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	waitJoined(t, name)
}

// A kubelet with registerNode: false gets its certificate and never registers. The status says so, and without that setting the
// same machine joins.
func TestKubeletThatNeverRegisters(t *testing.T) {
	t.Parallel()
	const name = "registers-never"
	_, kubeconfig := cluster.CreateAwaited(t, name)
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig,
		ExtraConfig: map[string]any{"registerNode": false}})
	env.Eventually(t, "Ready saying that no Node registered", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if got := env.ReadyMessage(&nb); !bytes.Contains([]byte(got), []byte("but no Node registered; see the kubelet's log")) {
			return fmt.Errorf("it says %q", got)
		}
		return env.HasReady(&nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	})
	env.Must(t, kubelet.Stop())
	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	waitJoined(t, name)
}

func logHas(t *testing.T, kubelet *localcluster.Kubelet, text string) {
	t.Helper()
	logMatches(t, kubelet, regexp.QuoteMeta(text))
}

// ofAnotherCluster is a certificate for a node, with its key, from the CA of another cluster.
func ofAnotherCluster(t *testing.T, node string) []byte {
	t.Helper()
	key := env.Key(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: nodeUser(node)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	env.Must(t, err)
	private, err := keyutil.MarshalPrivateKeyToPEM(key)
	env.Must(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), private...)
}
