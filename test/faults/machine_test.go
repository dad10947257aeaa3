// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"net"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	certutil "k8s.io/client-go/util/cert"

	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// machine runs a kubelet, or is a thief's.
type machine struct {
	w    *world
	node string
	// disk is how often it was installed: each installation has a new key.
	disk int
	// image is the image from which the machine was cloned: clones share one key. Empty for none.
	image string
	// finalizers are those of its CSRs.
	finalizers []string
	// bearer is the token in its kubeconfig.
	bearer string
	// request is the name of its pending CSR.
	request string
	// certified reports that it has collected a certificate.
	certified bool
	// ahead is how far its clock is ahead of the API server's.
	ahead time.Duration
}

func (w *world) machine(node string) *machine { return w.installed(node, 1) }

// installed is a machine with the key of its nth installation.
func (w *world) installed(node string, disk int) *machine {
	return &machine{w: w, node: node, disk: disk}
}

func (m *machine) String() string { return fmt.Sprintf("machine %s/%d", m.node, m.disk) }

// wipe reinstalls the machine.
func (m *machine) wipe() { *m = machine{w: m.w, node: m.node, disk: m.disk + 1, ahead: m.ahead} }

// give copies the kubeconfig onto the machine, once a working one exists: kubectl wait --for=condition=Ready.
func (m *machine) give() bool {
	if !m.w.isReady(m.node) {
		return false
	}
	bearer := m.w.published(m.node)
	if m.w.tokenOf(bearer) == nil {
		return false
	}
	m.bearer = bearer
	return true
}

// published is the token in the kubeconfig Secret of a node; empty for none.
func (w *world) published(node string) string {
	s := get[*corev1.Secret](w.store, namespace, owned.KubeconfigSecretName(node))
	if s == nil {
		return ""
	}
	return invariants.Bearer(s)
}

// ask sends the CSR for a client certificate as the user of the token. That requires a live token, and the binding to the
// role.
func (m *machine) ask() bool {
	return m.askAs(m.node, certificatesv1.KubeAPIServerClientKubeletSignerName)
}

func (m *machine) askAs(name, signer string) bool {
	token := m.w.tokenOf(m.bearer)
	if token == nil {
		return false
	}
	user, groups := identity(token)
	if ok, _ := m.w.bound(roleNodeBootstrapper, user, groups); !ok {
		return false
	}
	key := m.String()
	if m.image != "" {
		key = m.image
	}
	content := clientRequest(key, name)
	sum := sha256.Sum256([]byte(key + name + signer))
	m.request = "node-csr-" + hex.EncodeToString(sum[:6])
	err := m.w.create(m.String(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: m.request, Finalizers: m.finalizers},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content, SignerName: signer, Username: user, Groups: groups,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	})
	if !apierrors.IsAlreadyExists(err) { // a kubelet resumes its own CSR
		m.w.must(err)
	}
	return true
}

// collect fetches the certificate, which requires the token again.
func (m *machine) collect() bool {
	r := get[*certificatesv1.CertificateSigningRequest](m.w.store, "", m.request)
	if r == nil || len(r.Status.Certificate) == 0 || m.w.tokenOf(m.bearer) == nil {
		return false
	}
	m.certified = true
	return true
}

// register creates the Node, or updates it, as the kubelet does with its certificate.
func (m *machine) register() bool {
	if get[*corev1.Node](m.w.store, "", m.node) == nil {
		m.w.add(m.String(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.node}})
	}
	edit(m.w.store, m.String(), "", m.node, func(n *corev1.Node) {
		n.Status.NodeInfo.KubeletVersion = "v1.37.2"
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(m.w.now().Add(m.ahead))}}
	})
	return true
}

// beat renews the Lease, by the clock of the machine. The API server records when.
func (m *machine) beat() bool {
	m.becomeReady()
	now, stored := metav1.NewMicroTime(m.w.now().Add(m.ahead)), metav1.NewTime(m.w.now().Truncate(time.Second))
	if get[*coordinationv1.Lease](m.w.store, corev1.NamespaceNodeLease, m.node) == nil {
		m.w.add(m.String(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: m.node}})
	}
	edit(m.w.store, m.String(), corev1.NamespaceNodeLease, m.node, func(l *coordinationv1.Lease) {
		l.Spec.RenewTime = &now
		l.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", Time: &stored, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:renewTime":{}}}`)}}
	})
	return true
}

// becomeReady reports the Node as Ready, by the clock of the machine.
func (m *machine) becomeReady() {
	node := get[*corev1.Node](m.w.store, "", m.node)
	if node == nil || len(node.Status.Conditions) == 0 || node.Status.Conditions[0].Status == corev1.ConditionTrue {
		return
	}
	edit(m.w.store, m.String(), "", m.node, func(n *corev1.Node) {
		n.Status.Conditions[0].Status, n.Status.Conditions[0].LastTransitionTime = corev1.ConditionTrue, metav1.NewTime(m.w.now().Add(m.ahead))
	})
}

// askServing requests a serving certificate, or with another signer a new client certificate, as the node itself.
func (m *machine) askServing(signer string, usage certificatesv1.KeyUsage, seed string, names ...string) bool {
	if !m.certified {
		return false
	}
	var ips []net.IP
	if len(names) > 0 {
		ips = []net.IP{net.IPv4(192, 0, 2, 7)}
	}
	content := certificateRequest(seed, m.node, names, ips)
	sum := sha256.Sum256([]byte(m.String() + seed + signer))
	m.request = "csr-" + hex.EncodeToString(sum[:6])
	err := m.w.create(m.String(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: m.request},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: content, SignerName: signer, Username: "system:node:" + m.node, Groups: []string{"system:nodes", "system:authenticated"},
			Extra:  map[string]certificatesv1.ExtraValue{"authentication.kubernetes.io/credential-id": {"X509SHA256=00"}},
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	})
	if !apierrors.IsAlreadyExists(err) {
		m.w.must(err)
	}
	return true
}

var (
	privateKeys sync.Map // by seed
	contents    sync.Map // of CSRs, which take a while to sign
)

// privateKey is the key of a machine, the same in each run.
func privateKey(seed string) *ecdsa.PrivateKey {
	if k, ok := privateKeys.Load(seed); ok {
		return k.(*ecdsa.PrivateKey)
	}
	sum := sha256.Sum256([]byte("key of " + seed))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	if err != nil {
		panic(err)
	}
	out, _ := privateKeys.LoadOrStore(seed, k)
	return out.(*ecdsa.PrivateKey)
}

// clientRequest is a kubelet's CSR, created by the function that a kubelet calls.
func clientRequest(seed, node string) []byte { return certificateRequest(seed, node, nil, nil) }

func certificateRequest(seed, node string, names []string, ips []net.IP) []byte {
	id := fmt.Sprint(seed, node, names, ips)
	if c, ok := contents.Load(id); ok {
		return c.([]byte)
	}
	subject := &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}
	c, err := certutil.MakeCSR(privateKey(seed), subject, names, ips)
	if err != nil {
		panic(err)
	}
	out, _ := contents.LoadOrStore(id, c)
	return out.([]byte)
}
