// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/test/env"
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
			if key, err = env.NewKey(); err != nil {
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

// leaseInterval is how often a machine renews its Lease. A kubelet does so every ten seconds.
const leaseInterval = 2 * time.Second

// work is what a kubelet does with its certificate: it registers its Node, or updates the existing one, and renews its
// Lease.
func (m *machine) work(ctx context.Context, config *rest.Config) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		m.s.fail("connecting as the node %s: %v", m.node, err)
		return
	}
	var node *corev1.Node
	m.s.admin.insist(ctx, "registering the Node "+m.node, func(ctx context.Context) error {
		node, err = register(ctx, client, m.node)
		return err
	})
	// A kubelet's first Lease comes up to ten seconds after the registration.
	wait(ctx, time.Duration(m.rnd.Int64N(int64(leaseInterval))))
	for ctx.Err() == nil {
		m.s.admin.insist(ctx, "renewing the Lease of "+m.node, func(ctx context.Context) error { return renew(ctx, client, node) })
		wait(ctx, leaseInterval)
	}
}

func register(ctx context.Context, client kubernetes.Interface, name string) (*corev1.Node, error) {
	now := metav1.Now()
	status := corev1.NodeStatus{
		NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.0.0-simulated"},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return node, err
	}
	if node, err = client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, err
	}
	node.Status.NodeInfo, node.Status.Conditions = status.NodeInfo, status.Conditions
	return client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
}

func renew(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		seconds := int32(40)
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID,
			}}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// theft is what a thief with someone else's kubeconfig requests.
type theft struct {
	what   string
	node   func(own, other string) string
	signer string
	times  int
}

// thefts begin with the worst.
var thefts = []theft{
	{"another node's certificate", func(_, other string) string { return other }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"the certificate of a node that nobody knows", func(own, _ string) string { return own + "-unknown" }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"the node's own certificate, with a key of his", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientKubeletSignerName, 1},
	{"a client certificate of another kind", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientSignerName, 1},
	{"many certificates", func(own, _ string) string { return own }, certificatesv1.KubeAPIServerClientKubeletSignerName, 12},
}

// steal sends the CSRs of a theft with a kubeconfig, and does not wait for the outcome, which the ledger checks. It tries each
// once; the API server accepts a deleted token for ten seconds more.
func (s *suite) steal(ctx context.Context, t theft, kubeconfig []byte, own, other string) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	_, client, err := connect(kubeconfig)
	if err != nil {
		s.fail("reading a kubeconfig: %v", err)
		return
	}
	s.line.note("%s: a thief asks for %s", own, t.what)
	for range t.times {
		request, err := env.NewRequest(t.node(own, other), t.signer, certificatesv1.UsageClientAuth)
		if err != nil {
			s.fail("creating a CSR: %v", err)
			return
		}
		if _, err := client.CertificatesV1().CertificateSigningRequests().Create(ctx, request, metav1.CreateOptions{}); err != nil {
			s.line.note("%s: the thief gets no answer: %v", own, err)
			return
		}
	}
}
