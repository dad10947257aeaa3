// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// ca returns a self-signed certificate that expires at a time.
func ca(t *testing.T, notAfter time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: notAfter.Add(-24 * time.Hour), NotAfter: notAfter,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "a CA"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func clusterInfo(t *testing.T, server string, ca []byte) *corev1.ConfigMap {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	out, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: "cluster-info"},
		Data:       map[string]string{"kubeconfig": string(out)},
	}
}

// A NodeBootstrap of four lines uses cluster-info: no token is created before it exists, and its changes reach the kubeconfig.
func TestClusterInfoIsFollowed(t *testing.T) {
	const name = "four-lines"
	cluster.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonServerUnknown)
	for _, word := range []string{"spec.cluster.server", "--cluster-server", "cluster-info"} {
		if !strings.Contains(env.ReadyMessage(nb), word) {
			t.Errorf("the message does not say %s: %s", word, env.ReadyMessage(nb))
		}
	}
	if tokens, err := cluster.TokenSecrets(t.Context(), name); err != nil || len(tokens) > 0 {
		t.Errorf("got %d tokens (%v)", len(tokens), err)
	}

	info := clusterInfo(t, cluster.Server(), cluster.ServerCA())
	cluster.Create(t, info)
	before, _ := cluster.WaitAwaited(t, name)

	bundle := append(ca(t, time.Now().Add(time.Hour)), cluster.ServerCA()...)
	moved := clusterInfo(t, "https://moved.example.com:6443", bundle)
	env.Change(t, cluster, info, func(cm *corev1.ConfigMap) { cm.Data = moved.Data })
	env.Eventually(t, "the changed kubeconfig", func() error {
		s := kubeconfigSecret(t, name)
		cfg, err := clientcmd.RESTConfigFromKubeConfig(s.Data[kubeconfig.Key])
		if err == nil && (cfg.Host != "https://moved.example.com:6443" || !bytes.Equal(s.Data[kubeconfig.CAKey], bundle)) {
			err = fmt.Errorf("it points at %s", cfg.Host)
		}
		return err
	})
	if nb, _ := cluster.WaitAwaited(t, name); nb.Status.Token.ID != before.Status.Token.ID {
		t.Error("a token was created for a changed endpoint")
	}
}

// An unusable endpoint or CA is reported, with the place to fix it, and no token is created.
func TestUnusableClusterInfo(t *testing.T) {
	expired := ca(t, time.Now().Add(-time.Hour))
	for name, c := range map[string]struct {
		server string
		ca     []byte
		reason string
	}{
		"http":        {"http://api.example.com:6443", cluster.ServerCA(), v1alpha1.ReasonServerInvalid},
		"no-host":     {"https://:6443", cluster.ServerCA(), v1alpha1.ReasonServerInvalid},
		"credentials": {"https://someone:password@api.example.com", cluster.ServerCA(), v1alpha1.ReasonServerInvalid},
		"query":       {"https://api.example.com?x=y", cluster.ServerCA(), v1alpha1.ReasonServerInvalid},
		"not-pem":     {cluster.Server(), []byte("no PEM"), v1alpha1.ReasonCAInvalid},
		"expired":     {cluster.Server(), expired, v1alpha1.ReasonCAExpired},
	} {
		t.Run(name, func(t *testing.T) {
			node := "unusable-" + name
			cluster.Create(t, clusterInfo(t, c.server, c.ca))
			cluster.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}})
			nb := cluster.WaitReady(t, node, metav1.ConditionFalse, c.reason)
			if message := env.ReadyMessage(nb); !strings.Contains(message, "cluster-info") || strings.Contains(message, "password") {
				t.Errorf("the message is %s", message)
			}
			if tokens, err := cluster.TokenSecrets(t.Context(), node); err != nil || len(tokens) > 0 {
				t.Errorf("got %d tokens (%v)", len(tokens), err)
			}
		})
	}
}

// After the credential is published, a source that becomes invalid changes only the condition.
func TestCredentialOutlivesItsSource(t *testing.T) {
	const name = "outlives"
	info := clusterInfo(t, cluster.Server(), cluster.ServerCA())
	cluster.Create(t, info)
	cluster.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	_, before := cluster.WaitAwaited(t, name)
	env.Change(t, cluster, info, func(cm *corev1.ConfigMap) { cm.Data = clusterInfo(t, "http://x", nil).Data })
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonServerInvalid)
	if now := kubeconfigSecret(t, name).Data[kubeconfig.Key]; !bytes.Equal(now, before) {
		t.Error("the kubeconfig was changed")
	}
	if _, err := whoIs(t.Context(), before); err != nil {
		t.Errorf("the credential is no longer accepted: %v", err)
	}
}
