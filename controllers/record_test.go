// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// logged are the lines that the managers of the suite log at the default level.
var logged logLines

type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, prefix+" "+args)
	}, funcr.Options{})
}

// with returns the lines that contain all of the texts.
func (l *logLines) with(texts ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(line string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) })
	})
}

// field returns a field as in a log line.
func field(name, value string) string { return fmt.Sprintf("%q=%q", name, value) }

// isLoggedOnce waits for a line with a message and fields.
func isLoggedOnce(t *testing.T, msg string, fields ...string) {
	t.Helper()
	texts := []string{field("msg", msg)}
	for i := 0; i < len(fields); i += 2 {
		texts = append(texts, field(fields[i], fields[i+1]))
	}
	env.Eventually(t, "a line of the log", func() error {
		if lines := logged.with(texts...); len(lines) != 1 {
			return fmt.Errorf("%v is in the log %d times: %v", texts, len(lines), lines)
		}
		return nil
	})
}

// The log has each step that grants or revokes an identity, once, and no secret part.
func TestRecordInTheLog(t *testing.T) {
	const name = "recorded"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	first := nb.Status.Token.ID
	secrets := []string{string(theToken(t, name).Data[bootstrapapi.BootstrapTokenSecretKey])}
	isLoggedOnce(t, "created a token", "node", name, "tokenID", first, "reason", v1alpha1.ReasonAwaitingNode)

	good := ask(t, kubeconfig, name, newKey(t))
	waitCondition(t, good, certificatesv1.CertificateApproved)
	isLoggedOnce(t, "approved a CertificateSigningRequest", "node", name, "csr", good.Name, "tokenID", first,
		"keyFingerprint", fingerprintOf(t, good), "reason", csr.ReasonKubeletClient)

	bad := ask(t, kubeconfig, "another-"+name, newKey(t))
	waitCondition(t, bad, certificatesv1.CertificateDenied)
	isLoggedOnce(t, "denied a CertificateSigningRequest", "node", name, "csr", bad.Name, "tokenID", first,
		"keyFingerprint", fingerprintOf(t, bad), "reason", csr.ReasonWrongSubject)
	isLoggedOnce(t, "raised an alarm", "node", name, "condition", v1alpha1.ConditionTokenMisused, "csr", bad.Name, "tokenID", first,
		"keyFingerprint", fingerprintOf(t, bad), "reason", csr.ReasonWrongSubject)

	nb, _ = reissue(t, name, "again")
	second := nb.Status.Token.ID
	secrets = append(secrets, string(theToken(t, name).Data[bootstrapapi.BootstrapTokenSecretKey]))
	isLoggedOnce(t, "revoked a token", "node", name, "tokenID", first, "reason", v1alpha1.ReasonReissued)
	isLoggedOnce(t, "created a token", "node", name, "tokenID", second, "reason", v1alpha1.ReasonReissued)
	isLoggedOnce(t, "deleted a CertificateSigningRequest", "node", name, "csr", good.Name, "reason", decisions.ReasonTokenRevoked)

	cluster.Delete(t, nb)
	isLoggedOnce(t, "revoked a token", "node", name, "tokenID", second, "reason", lifecycle.ReasonNodeBootstrapDeleted)
	for _, line := range []string{"created a token", "revoked a token"} {
		for _, id := range []string{first, second} {
			isLoggedOnce(t, line, "tokenID", id)
		}
	}
	for _, part := range secrets {
		if lines := logged.with(part); len(lines) > 0 {
			t.Errorf("the secret part of a token is in the log: %v", lines)
		}
	}
}

// A failed write is not logged as done, however often it is retried: a quota prevents the token, which is created after the
// quota is deleted.
func TestFailedWritesAreNotInTheRecord(t *testing.T) {
	const name = "recorded-late"
	created := func() int { return len(logged.with(field("msg", "created a token"), field("node", name))) }
	before := created()
	none := corev1.ResourceList{"count/secrets": resource.MustParse("0")}
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: none},
	}
	cluster.Create(t, quota)
	quota.Status.Hard, quota.Status.Used = none, none
	if err := cluster.Client.Status().Update(t.Context(), quota); err != nil { // kube-controller-manager would do that
		t.Fatal(err)
	}
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonWriteFailed)
	env.Eventually(t, "the second attempt", func() error {
		if n := len(logged.with("Reconciler error", name)); n < 2 {
			return fmt.Errorf("got %d", n)
		}
		return nil
	})
	if created() > before {
		t.Error("a failed write is logged as done")
	}
	cluster.Delete(t, quota)
	nb, _ := cluster.WaitAwaited(t, name)
	isLoggedOnce(t, "created a token", "node", name, "tokenID", nb.Status.Token.ID)
}

// The deletion of a stray token is logged, too, and that of the CSR of a token that no longer exists.
func TestLogOfStrayTokens(t *testing.T) {
	id := fmt.Sprintf("%06d", time.Now().UnixMicro()%1_000_000)
	s := strayToken(id, labelled)
	cluster.Create(t, s)
	isLoggedOnce(t, "revoked a token", "tokenID", id, "reason", lifecycle.ReasonOwnerRemoved)

	const name = "recorded-orphan"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	request := ask(t, kubeconfig, name, newKey(t))
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	cluster.Delete(t, nb)
	isLoggedOnce(t, "denied a CertificateSigningRequest", "node", name, "csr", request.Name, "reason", decisions.ReasonTokenRevoked)
	isLoggedOnce(t, "deleted a CertificateSigningRequest", "node", name, "csr", request.Name, "reason", decisions.ReasonTokenRevoked)
}

func fingerprintOf(t *testing.T, r *certificatesv1.CertificateSigningRequest) string {
	t.Helper()
	key, err := csr.Fingerprint(r)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
