// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// startKubelet runs a stock kubelet until the test is over.
func startKubelet(t *testing.T, name string, kubeconfig []byte) *localcluster.Kubelet {
	t.Helper()
	return startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig})
}

// startKubeletWith runs a kubelet with another configuration until the test is over.
func startKubeletWith(t *testing.T, config localcluster.KubeletConfig) *localcluster.Kubelet {
	t.Helper()
	name := config.NodeName
	kubelet, err := cluster.StartKubelet(t.Context(), config)
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, kubelet.Stop())
		if t.Failed() {
			log, _ := os.ReadFile(kubelet.LogFile())
			t.Logf("the log of the kubelet %s ends with:\n%s", name, log[max(0, len(log)-4000):])
		}
		env.Check(t, forget(context.Background(), name))
	})
	return kubelet
}

// forget deletes a Node and the CSRs that it has sent, so that they are not taken for those of another node of the name.
func forget(ctx context.Context, name string) error {
	errs := []error{cluster.Client.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})}
	var list certificatesv1.CertificateSigningRequestList
	errs = append(errs, cluster.Client.List(ctx, &list))
	for _, r := range list.Items {
		if r.Spec.Username == nodeUser(name) {
			errs = append(errs, cluster.Client.Delete(ctx, &r))
		}
	}
	for i := range errs {
		errs[i] = client.IgnoreNotFound(errs[i])
	}
	return errors.Join(errs...)
}

func nodeUser(name string) string { return "system:node:" + name }

// waitNodeReady waits for a Node that a kubelet reports as Ready.
func waitNodeReady(t *testing.T, name string) *corev1.Node {
	t.Helper()
	var node corev1.Node
	env.Eventually(t, "node "+name, func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		return nodeIsReady(&node)
	})
	return &node
}

// nodeIsReady is nil if a kubelet reports a Node as Ready.
func nodeIsReady(node *corev1.Node) error {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("it is not Ready")
}

// waitJoined waits until a node has joined and nothing of its credential is left.
func waitJoined(t *testing.T, name string) *v1alpha1.NodeBootstrap {
	t.Helper()
	waitNodeReady(t, name)
	nb := cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	if !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined) {
		t.Errorf("the condition Joined is not True: %+v", nb.Status.Conditions)
	}
	if nb.Status.Token != nil || nb.Status.KubeconfigSecretRef != nil {
		t.Errorf("the status still names a credential: %+v", nb.Status)
	}
	env.Check(t, cluster.NothingLeft(t.Context(), name))
	return nb
}

// waitJoinedAgain waits until a reinstalled machine, whose kubelet was just started, has joined while its old Node exists.
func waitJoinedAgain(t *testing.T, name string, node *corev1.Node) *v1alpha1.NodeBootstrap {
	t.Helper()
	// The old kubelet might still renew the Lease: only after a minute does a renewal prove that the new one has joined.
	started := time.Now()
	env.Eventually(t, "the minute after the approval", func() error {
		if passed := time.Since(started); passed < 50*time.Second {
			return fmt.Errorf("%s have passed", passed)
		}
		return nil
	})
	nb := waitJoined(t, name)
	if now := waitNodeReady(t, name); now.UID != node.UID {
		t.Error("the old Node no longer exists, so that the test proves nothing")
	}
	return nb
}

// kubectl runs kubectl as the administrator.
func kubectl(t *testing.T, args ...string) error {
	t.Helper()
	_, err := operator.Kubectl(t.Context(), cluster.Cluster, args...)
	return err
}

func kubectlAs(t *testing.T, kubeconfig []byte, args ...string) (string, error) {
	t.Helper()
	kubectl, err := cluster.Binary("kubectl")
	env.Must(t, err)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	env.Must(t, os.WriteFile(path, kubeconfig, 0o600))
	out, err := exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", path}, args...)...).CombinedOutput()
	return string(out), err
}

// waitUnknown waits until the API server no longer authenticates a kubeconfig.
func waitUnknown(t *testing.T, kubeconfig []byte) {
	t.Helper()
	holder := env.Clientset(t, kubeconfig)
	env.Eventually(t, "the kubeconfig being refused", func() error {
		who, err := holder.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		switch {
		case apierrors.IsUnauthorized(err):
			return nil
		case err != nil:
			return err
		}
		return fmt.Errorf("it authenticates as %s", who.Status.UserInfo.Username)
	})
}

func sentWith(t *testing.T, tokenID string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	requests, err := cluster.Requests(t.Context())
	env.Must(t, err)
	return slices.DeleteFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool {
		return token.IDOfUser(r.Spec.Username) != tokenID
	})
}

// sentBy are the CSRs that a node has sent to a signer with its certificate, the oldest first.
func sentBy(t *testing.T, node, signer string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	var list certificatesv1.CertificateSigningRequestList
	env.Must(t, cluster.Client.List(t.Context(), &list))
	out := slices.DeleteFunc(list.Items, func(r certificatesv1.CertificateSigningRequest) bool {
		return r.Spec.Username != nodeUser(node) || r.Spec.SignerName != signer
	})
	slices.SortStableFunc(out, func(a, b certificatesv1.CertificateSigningRequest) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return out
}

func parseRequest(t *testing.T, r *certificatesv1.CertificateSigningRequest) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		t.Fatalf("the CSR %s is not PEM", r.Name)
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	env.Must(t, err)
	return parsed
}

// approvedFor is the reason of a CSR's approval; empty if it was not approved.
func approvedFor(r *certificatesv1.CertificateSigningRequest) string {
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateApproved {
			return c.Reason
		}
	}
	return ""
}

// wasDenied reports whether a CSR was denied for a reason, with these texts in the message.
func wasDenied(r *certificatesv1.CertificateSigningRequest, reason string, texts ...string) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		lacks := func(text string) bool { return !strings.Contains(c.Message, text) }
		return c.Type == certificatesv1.CertificateDenied && c.Reason == reason && !slices.ContainsFunc(texts, lacks)
	})
}

// oneDenied is nil if a CSR that was sent with a token was denied for a reason, with these texts in the message.
func oneDenied(t *testing.T, tokenID, reason string, texts ...string) error {
	t.Helper()
	if !slices.ContainsFunc(sentWith(t, tokenID), func(r certificatesv1.CertificateSigningRequest) bool { return wasDenied(&r, reason, texts...) }) {
		return errors.New("no request is denied")
	}
	return nil
}

// noAlarm fails if a status has an alarm.
func noAlarm(t *testing.T, nb *v1alpha1.NodeBootstrap) {
	t.Helper()
	if c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); c != nil {
		t.Errorf("there is an alarm: %+v", c)
	}
}

// recorded is nil if a status has the approval of a CSR.
func recorded(nb *v1alpha1.NodeBootstrap, r *certificatesv1.CertificateSigningRequest, reason string) error {
	key, err := csr.Fingerprint(r)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == r.UID && d.SignerName == r.Spec.SignerName && d.Verdict == v1alpha1.VerdictApproved && d.Reason == reason && d.KeyFingerprint == key
	}) {
		return fmt.Errorf("the approval of %s with the key %s is not among the decisions %+v", r.Name, key, nb.Status.Certificates)
	}
	return nil
}

// isIssued reports whether a certificate is the one that was issued to a CSR.
func isIssued(r *certificatesv1.CertificateSigningRequest, certificate *x509.Certificate) bool {
	block, _ := pem.Decode(r.Status.Certificate)
	return block != nil && bytes.Equal(block.Bytes, certificate.Raw)
}
