// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A certificate of another cluster in --cert-dir keeps a kubelet from joining, with "Unauthorized" in its log, although the
// kubeconfig is valid. The advice of docs/troubleshooting.md works: without that file the same kubeconfig joins.
func TestStaleClientCertificate(t *testing.T) {
	t.Parallel()
	const name = "stale-certificate"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	const file = "pki/kubelet-client-current.pem"
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig,
		Files: map[string][]byte{file: ofAnotherCluster(t, name)}})
	logHas(t, kubelet, "Unauthorized")
	if err := errors.Join(kubelet.Stop(), os.Remove(filepath.Join(kubelet.Dir(), file))); err != nil {
		t.Fatal(err)
	}
	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	waitJoined(t, name)
}

// A kubelet with registerNode: false gets its certificate and never registers. The status says so, and without that setting the
// same machine joins.
func TestKubeletThatNeverRegisters(t *testing.T) {
	t.Parallel()
	const name = "registers-never"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
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
	if err := kubelet.Stop(); err != nil {
		t.Fatal(err)
	}
	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir()})
	waitJoined(t, name)
}

func logHas(t *testing.T, kubelet *localcluster.Kubelet, text string) {
	t.Helper()
	env.Eventually(t, text+" in the kubelet's log", func() error {
		log, err := os.ReadFile(kubelet.LogFile())
		if err == nil && !bytes.Contains(log, []byte(text)) {
			err = errors.New("it is not there")
		}
		return err
	})
}

// ofAnotherCluster is a certificate for a node, with its key, from the CA of another cluster.
func ofAnotherCluster(t *testing.T, node string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: nodeUser(node)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), private...)
}
