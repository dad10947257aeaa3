// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// Two machines with one disk image, whose kubelets do not rotate their certificates, send CSRs with one key. The second CSR is
// denied, and the denial names both nodes. The advice in it works: without the files in pki, the kubelet creates a key of its own
// and joins.
func TestClonedMachine(t *testing.T) {
	t.Parallel()
	const name, clone = "cloned", "clone"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	start := func(node string, dir string, kubeconfig []byte) *localcluster.Kubelet {
		config := localcluster.KubeletConfig{NodeName: node, BootstrapKubeconfig: kubeconfig, Dir: dir,
			ExtraConfig: map[string]any{"rotateCertificates": false}}
		if dir == "" {
			config.Files = map[string][]byte{"pki/kubelet-client.key.tmp": keyPEM}
		}
		return startKubeletWith(t, config)
	}
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.Create(t, cluster.NodeBootstrap(clone))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	start(name, "", kubeconfig)
	waitJoined(t, name)

	nb, kubeconfig := cluster.WaitAwaited(t, clone)
	kubelet := start(clone, "", kubeconfig)
	env.Eventually(t, "the denial", func() error { return deniedAsKeyOf(t, nb.Status.Token.ID, name, clone) })
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Absent(t.Context(), "", clone, &corev1.Node{}); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(kubelet.Dir(), "pki")); err != nil {
		t.Fatal(err)
	}
	start(clone, kubelet.Dir(), nil)
	waitJoined(t, clone)
}

// A renamed node sends a CSR with its existing key. Once the old NodeBootstrap and the denied CSR are deleted it gets its
// certificate: a kubelet names its CSR by key and subject, and would find the denied one again.
func TestRenamedNode(t *testing.T) {
	t.Parallel()
	const name, renamed = "old-name", "new-name"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	cluster.Create(t, cluster.NodeBootstrap(renamed))
	rotatesNothing := map[string]any{"rotateCertificates": false}
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: rotatesNothing})
	waitJoined(t, name)
	if err := errors.Join(kubelet.Stop(), os.Remove(kubelet.Kubeconfig())); err != nil {
		t.Fatal(err)
	}

	fresh, kubeconfig := cluster.WaitAwaited(t, renamed)
	again := localcluster.KubeletConfig{NodeName: renamed, BootstrapKubeconfig: kubeconfig, Dir: kubelet.Dir(), ExtraConfig: rotatesNothing}
	kubelet = startKubeletWith(t, again)
	env.Eventually(t, "the denial", func() error { return deniedAsKeyOf(t, fresh.Status.Token.ID, name, renamed) })
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	cluster.Delete(t, nb)
	for _, r := range sentWith(t, fresh.Status.Token.ID) {
		cluster.Delete(t, &r)
	}
	startKubeletWith(t, again)
	waitJoined(t, renamed)
}

// deniedAsKeyOf is nil if a CSR of a token is denied because another node has its key, and the denial names both.
func deniedAsKeyOf(t *testing.T, tokenID, other, node string) error {
	t.Helper()
	for _, r := range sentWith(t, tokenID) {
		for _, c := range r.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied && c.Reason == csr.ReasonKeyOfAnotherNode &&
				strings.Contains(c.Message, "the node "+other+",") && strings.Contains(c.Message, "the node "+node+":") {
				return nil
			}
		}
	}
	return errors.New("no request is denied")
}
