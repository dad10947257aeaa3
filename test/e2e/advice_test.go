// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
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

	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The quotations of docs/troubleshooting.md are in the log of a stock kubelet, and its advice works.

// quoted fails unless docs/troubleshooting.md quotes a text.
func quoted(t *testing.T, text string) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), text) {
		t.Errorf("docs/troubleshooting.md does not quote %q", text)
	}
}

// withServer is a kubeconfig with another server, and another CA unless that is nil.
func withServer(t *testing.T, kubeconfig []byte, server string, ca []byte) []byte {
	t.Helper()
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range config.Clusters {
		c.Server = server
		if ca != nil {
			c.CertificateAuthorityData = ca
		}
	}
	out, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
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
				if err != nil {
					t.Fatal(err)
				}
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
			cluster.Create(t, cluster.NodeBootstrap(name))
			_, kubeconfig := cluster.WaitAwaited(t, name)
			kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: tc.spoil(t, kubeconfig), ExtraArgs: tc.args})
			logMatches(t, kubelet, tc.log)
			if err := kubelet.Stop(); err != nil {
				t.Fatal(err)
			}
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
			cluster.Create(t, cluster.NodeBootstrap(name))
			nb, kubeconfig := cluster.WaitAwaited(t, name)
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
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
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
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue is a serving certificate for a name and IPs, valid between two times relative to now.
func (ca *testCA) issue(t *testing.T, from, to time.Duration, ips ...net.IP) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"api.example.com"}, IPAddresses: ips,
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}
}
