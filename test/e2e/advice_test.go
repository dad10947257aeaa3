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
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// What docs/troubleshooting.md quotes is in the log of a stock kubelet, and what it advises works.

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

// A kubelet that was given a kubeconfig with a server of another name, with no server behind it, or with another CA says so, and joins
// with the right one.
func TestKubeconfigsThatAreWrong(t *testing.T) {
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

// A certificate that is not valid yet, or not any more, by the node's clock is refused. The log has the node's time and that of the
// certificate. When the clock is right, as when the certificate is, the kubelet goes on without a restart.
func TestClockOfTheNode(t *testing.T) {
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

// forwardFrom forwards connections to the API server from another address, and returns that.
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

// serveAPI serves the API with a certificate that may change, and returns the URL.
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

// issue is a serving certificate for a name and IPs that is valid from one time to another, from now.
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

// A kubelet with a valid certificate at --kubeconfig sends no request, whatever its bootstrap kubeconfig is. Without that file and
// --cert-dir it does.
func TestValidCertificateOfAnEarlierLife(t *testing.T) {
	const name = "earlier-life"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "reinstalled"}
	})
	reissued, fresh := cluster.WaitAwaited(t, name)
	again := localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir(), BootstrapKubeconfig: fresh}
	kubelet = startKubeletWith(t, again)
	logMatches(t, kubelet, "Successfully registered node")
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	if sent := sentWith(t, reissued.Status.Token.ID); len(sent) > 0 {
		t.Fatalf("it has sent %s", sent[0].Name)
	}
	if err := errors.Join(os.Remove(kubelet.Kubeconfig()), os.RemoveAll(filepath.Join(kubelet.Dir(), "pki"))); err != nil {
		t.Fatal(err)
	}
	startKubeletWith(t, again)
	env.Eventually(t, "the kubelet's request being approved", func() error {
		for _, r := range sentWith(t, reissued.Status.Token.ID) {
			if approvedFor(&r) != "" {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// After a denial the kubeconfig is still good: a kubelet that is restarted sends another request. One that does not rotate its
// certificates would send the same again, so that the denied one has to be deleted first.
func TestRestartAfterADenial(t *testing.T) {
	for name, rotates := range map[string]bool{"denied-rotating": true, "denied-not-rotating": false} {
		t.Run(name, func(t *testing.T) {
			nb := cluster.NodeBootstrap(name)
			nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
			cluster.Create(t, nb)
			awaited, kubeconfig := cluster.WaitAwaited(t, name)
			config := localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: map[string]any{"rotateCertificates": rotates}}
			kubelet := startKubeletWith(t, config)
			first := pendingRequest(t, awaited.Status.Token.ID)
			if out, err := kubectl(t, "certificate", "deny", first.Name); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			env.Eventually(t, "Ready telling of the denial", func() error {
				var nb v1alpha1.NodeBootstrap
				cluster.Get(t, "", name, &nb)
				if got := env.ReadyMessage(&nb); !strings.Contains(got, "last CSR "+first.Name+" was denied: DeniedElsewhere") {
					return fmt.Errorf("it says %q", got)
				}
				return nil
			})
			logHas(t, kubelet, "certificate signing request is denied")
			if err := kubelet.Stop(); err != nil {
				t.Fatal(err)
			}
			config.Dir, config.BootstrapKubeconfig = kubelet.Dir(), nil
			if !rotates {
				findsItsDeniedRequest(t, config, first)
				cluster.Delete(t, first)
			}
			startKubeletWith(t, config)
			second := pendingRequest(t, awaited.Status.Token.ID)
			if second.UID == first.UID {
				t.Fatal("the kubelet has sent nothing new")
			}
			if out, err := kubectl(t, "certificate", "approve", second.Name); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			waitJoined(t, name)
		})
	}
}

// findsItsDeniedRequest starts a kubelet that ends, since its request is denied already.
func findsItsDeniedRequest(t *testing.T, config localcluster.KubeletConfig, denied *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	kubelet := startKubeletWith(t, config)
	select {
	case <-kubelet.Done():
	case <-time.After(env.Limit):
		t.Error("the kubelet goes on")
	}
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, r := range sentWith(t, bootstrap.TokenIDOfUser(denied.Spec.Username)) {
		if r.UID != denied.UID {
			t.Errorf("it has sent another request, %s", r.Name)
		}
	}
}

// pendingRequest waits for a request that was sent with a token and has no verdict.
func pendingRequest(t *testing.T, tokenID string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var found *certificatesv1.CertificateSigningRequest
	env.Eventually(t, "a pending request", func() error {
		for _, r := range sentWith(t, tokenID) {
			if len(r.Status.Conditions) == 0 {
				found = &r
				return nil
			}
		}
		return errors.New("there is none")
	})
	return found
}

func kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return kubectlAs(t, content, args...)
}

// While the operator is stopped somebody uses the token for another node's name, and somebody else denies that request. That nobody
// got a certificate is no reason to keep the token: whoever sent the request has it.
func TestDenialOfEvidenceWhileTheOperatorIsStopped(t *testing.T) {
	const name = "denied-evidence"
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, kubeconfig := cluster.WaitAwaited(t, name)
	if err := killManager(); err != nil {
		t.Fatal(err)
	}
	request := send(t, kubeconfig, "another-node")
	out, denied := kubectl(t, "certificate", "deny", request.Name)
	if err := startManager(t.Context()); err != nil || denied != nil {
		t.Fatalf("%v, %v: %s", err, denied, out)
	}
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused)
	if alarm == nil || alarm.Reason != csr.ReasonWrongSubject || !strings.Contains(alarm.Message, request.Name) || !strings.Contains(alarm.Message, "someone else denied it first") {
		t.Errorf("the alarm is %+v", alarm)
	}
	if len(nb.Status.Certificates) != 1 || nb.Status.Certificates[0].UID != request.UID || nb.Status.Certificates[0].Verdict != v1alpha1.VerdictDenied {
		t.Errorf("the record is %+v", nb.Status.Certificates)
	}
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}

	// The command that the denial suggests works as it is.
	command := regexp.MustCompile(`kubectl annotate nodebootstrap \S+ --overwrite \S+="\$\(date [^)]*\)"`).FindString(alarm.Message)
	if out, err := shell(t, command); command == "" || err != nil {
		t.Fatalf("%q, of the message %q: %v: %s", command, alarm.Message, err, out)
	}
	again, _ := cluster.WaitAwaited(t, name)
	if again.Status.Token.ID == before.Status.Token.ID || meta.FindStatusCondition(again.Status.Conditions, v1alpha1.ConditionTokenMisused) != nil {
		t.Errorf("after the reissue the status is %+v", again.Status)
	}
}

// shell runs a command line as an administrator would.
func shell(t *testing.T, command string) (string, error) {
	t.Helper()
	path, err := cluster.Binary("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
