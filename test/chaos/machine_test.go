// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
)

const (
	// certificateWait is how long a machine waits for its certificate before it is restarted. A kubelet waits 15 minutes.
	certificateWait = 10 * time.Second
	// handOverDelay is how long it takes until a person notices that a machine has an old kubeconfig.
	handOverDelay = time.Second
)

// machine joins as a kubelet does, with the kubelet's own code for requesting a certificate.
type machine struct {
	s    *suite
	node string
	rnd  *rand.Rand
	stop context.CancelFunc
	done chan struct{}

	mu sync.Mutex
	// tokenID is the token with which its certificate was requested; empty while it has none.
	tokenID string
	// denied reports that its CSR was denied, so that a person must act.
	denied bool
}

// startMachine starts a machine, which joins as soon as it has a kubeconfig and works until it is stopped.
func (s *suite) startMachine(ctx context.Context, node string, rnd *rand.Rand) *machine {
	ctx, stop := context.WithCancel(ctx)
	m := &machine{s: s, node: node, rnd: rnd, stop: stop, done: make(chan struct{})}
	s.line.note("%s: its machine is started", node)
	go func() {
		defer close(m.done)
		m.run(ctx)
	}()
	return m
}

// halt stops a machine, whatever it is doing, and waits until it has stopped.
func (m *machine) halt() {
	if m == nil {
		return
	}
	m.stop()
	<-m.done
	m.s.line.note("%s: its machine is stopped", m.node)
}

func (m *machine) run(ctx context.Context) {
	// Without rotation a kubelet keeps its key when it is restarted; with rotation it creates a new one each time.
	keeps := m.rnd.IntN(3) > 0
	var key *ecdsa.PrivateKey
	used := ""
	for ctx.Err() == nil {
		kubeconfig := m.s.admin.kubeconfig(ctx, m.node)
		if kubeconfig == nil {
			return
		}
		id := tokenIDIn(kubeconfig)
		if key == nil || !keeps || id != used {
			var err error
			if key, err = ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader); err != nil {
				m.s.fail("creating a key: %v", err)
				return
			}
			used = id
		}
		config, err := m.bootstrap(ctx, kubeconfig, id, key, keeps)
		if err == nil {
			m.mu.Lock()
			m.tokenID, m.denied = id, false
			m.mu.Unlock()
			m.s.line.note("%s: its machine has its certificate, by the token %s", m.node, id)
			m.work(ctx, config)
			return
		}
		if ctx.Err() == nil {
			m.s.line.note("%s: its machine failed with the token %s: %v", m.node, id, err)
		}
		if strings.Contains(err.Error(), "is denied") {
			m.mu.Lock()
			m.denied = true
			m.mu.Unlock()
			key = nil
		}
		wait(ctx, retryInterval+time.Duration(m.rnd.IntN(500))*time.Millisecond)
	}
}

// state returns the token with which the machine's certificate was requested, and whether a person must act.
func (m *machine) state() (tokenID string, denied bool) {
	if m == nil {
		return "", false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokenID, m.denied
}

// bootstrap gets a certificate with a bootstrap kubeconfig. It gives up soon after the kubeconfig is replaced.
func (m *machine) bootstrap(ctx context.Context, kubeconfig []byte, id string, key *ecdsa.PrivateKey, keeps bool) (*rest.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateWait)
	defer cancel()
	go func() {
		if m.s.seen.until(ctx, func(l *ledger) bool { return l.kubeconfig(m.node) != id }) {
			wait(ctx, handOverDelay)
			cancel()
		}
	}()
	config, client, err := connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	name := ""
	if keeps {
		name = requestName(key)
	}
	certificate, err := request(ctx, client, name, m.node, key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	config = rest.AnonymousClientConfig(config)
	config.CertData, config.KeyData, config.QPS = certificate, keyPEM, -1
	return config, nil
}

// connect creates a client from a kubeconfig as it was handed over.
func connect(kubeconfig []byte) (*rest.Config, *kubernetes.Clientset, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	return config, client, err
}

// requestName depends only on the key, like that of a kubelet without rotation.
func requestName(key *ecdsa.PrivateKey) string {
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(public)
	return "node-csr-" + hex.EncodeToString(sum[:8])
}

var kubeletUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

// request requests a certificate in a node's name, as a kubelet does, and waits for it.
func request(ctx context.Context, client kubernetes.Interface, name, node string, key crypto.Signer) ([]byte, error) {
	asked, err := cert.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, nil, nil)
	if err != nil {
		return nil, err
	}
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, asked, name, certificatesv1.KubeAPIServerClientKubeletSignerName, nil, kubeletUsages, key)
	if err != nil {
		return nil, err
	}
	certificate, err := csr.WaitForCertificate(ctx, client, name, uid)
	if err == nil && len(certificate) == 0 {
		err = errors.New("the certificate is empty")
	}
	return certificate, err
}
