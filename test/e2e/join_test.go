// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A node joins with the published kubeconfig as it is, and after that the kubeconfig is worthless.
func TestNodeJoinsAndCredentialIsGone(t *testing.T) {
	t.Parallel()
	const name = "worker-a"
	nb, kubeconfig := cluster.CreateAwaited(t, name)

	who, err := kubectlAs(t, kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if want := bootstrapapi.BootstrapUserPrefix + nb.Status.Token.ID; err != nil || who != want {
		t.Errorf("with the published kubeconfig kubectl is %q (%v), want %s", who, err, want)
	}

	startKubelet(t, name, kubeconfig)
	joined := waitJoined(t, name)
	if len(joined.Status.Certificates) != 1 {
		t.Fatalf("the status has these decisions: %+v", joined.Status.Certificates)
	}
	decision := joined.Status.Certificates[0]
	if decision.Verdict != v1alpha1.VerdictApproved || decision.TokenID != nb.Status.Token.ID || decision.KeyFingerprint == "" {
		t.Errorf("the decision is recorded as %+v", decision)
	}

	node := waitNodeReady(t, name)
	thief := startKubelet(t, "thief", kubeconfig)
	// The API server may accept the token for some ten seconds more, long enough for a thief's CSR.
	waitUnknown(t, kubeconfig)
	env.Eventually(t, "no request of the thief's", func() error {
		if requests := sentWith(t, nb.Status.Token.ID); len(requests) != 1 || requests[0].Name != decision.Name {
			return fmt.Errorf("%d CSRs that were sent with the token exist, want only %s", len(requests), decision.Name)
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join(thief.Dir(), "pki", "kubelet-client-current.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the thief has a certificate (%v)", err)
	}
	env.Check(t, cluster.Absent(t.Context(), "", "thief", &corev1.Node{}))
	if now := waitNodeReady(t, name); now.UID != node.UID {
		t.Error("the node was replaced")
	}
}

// Two kubelets join as themselves at the same time.
func TestTwoNodesJoinAtOnce(t *testing.T) {
	t.Parallel()
	names := []string{"pair-1", "pair-2"}
	for _, name := range names {
		cluster.Create(t, cluster.NodeBootstrap(name))
	}
	for _, name := range names {
		_, kubeconfig := cluster.WaitAwaited(t, name)
		startKubelet(t, name, kubeconfig)
	}
	for _, name := range names {
		waitJoined(t, name)
	}
}

// A node that joined with another bootstrap token, before its NodeBootstrap existed, gets no credential.
func TestMemberBeforeItsNodeBootstrap(t *testing.T) {
	t.Parallel()
	const name, group = "member", "system:bootstrappers:by-hand"
	cluster.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName("byhand")},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey: "byhand", bootstrapapi.BootstrapTokenSecretKey: "0123456789abcdef",
			bootstrapapi.BootstrapTokenUsageAuthentication: "true", bootstrapapi.BootstrapTokenExtraGroupsKey: group,
		},
	})
	for role, binding := range map[string]string{
		"system:node-bootstrapper": "by-hand-create",
		"system:certificates.k8s.io:certificatesigningrequests:nodeclient": "by-hand-approve",
	} {
		cluster.Create(t, env.Binding(binding, role, rbacv1.GroupKind, group))
	}
	kubeconfig, err := cluster.TokenKubeconfig("byhand.0123456789abcdef")
	env.Must(t, err)
	startKubelet(t, name, kubeconfig)
	waitNodeReady(t, name)

	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	waitJoined(t, name)
	writes, err := audit.Writes()
	env.Must(t, err)
	credential := []string{owned.KubeconfigSecretName(name), token.SecretName(token.NextID(nb.UID, ""))}
	for _, write := range writes {
		if slices.Contains(credential, write.ObjectRef.Name) {
			t.Errorf("a credential was written for a member: %s", write)
		}
	}
}

// A reinstalled machine joins under its name while the old Node still exists.
func TestReissueForReinstalledMachine(t *testing.T) {
	t.Parallel()
	const name = "reinstalled"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	old := startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
	node := waitNodeReady(t, name)
	env.Must(t, old.Stop())

	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	})
	_, fresh := cluster.WaitAwaited(t, name)
	if bytes.Equal(fresh, kubeconfig) {
		t.Fatal("the reissued kubeconfig is the old one")
	}
	startKubelet(t, name, fresh)
	joined := waitJoinedAgain(t, name, node)
	if joined.Status.LastHandledReissueAt != "once" {
		t.Errorf("status.lastHandledReissueAt is %q", joined.Status.LastHandledReissueAt)
	}
	decisions := joined.Status.Certificates
	if len(decisions) != 2 {
		t.Fatalf("the status has these decisions: %+v", decisions)
	}
	for _, d := range decisions {
		if d.Verdict != v1alpha1.VerdictApproved || d.KeyFingerprint == "" {
			t.Errorf("a decision is recorded as %+v", d)
		}
	}
	if decisions[0].KeyFingerprint == decisions[1].KeyFingerprint || decisions[0].TokenID == decisions[1].TokenID {
		t.Errorf("the reinstalled machine has a new key, requested with a new token, but the record is %+v", decisions)
	}
}

func TestApprovalClusterWideAndManual(t *testing.T) {
	t.Parallel()
	wide, manual := cluster.NodeBootstrap("approved-wide"), cluster.NodeBootstrap("approved-manually")
	wide.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	manual.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	for _, nb := range []*v1alpha1.NodeBootstrap{wide, manual} {
		cluster.Create(t, nb)
		_, kubeconfig := cluster.WaitAwaited(t, nb.Name)
		startKubelet(t, nb.Name, kubeconfig)
	}
	joined := waitJoined(t, wide.Name)
	if len(joined.Status.Certificates) != 1 || joined.Status.Certificates[0].Reason != "ApprovedElsewhere" {
		t.Errorf("what kube-controller-manager approved is recorded as %+v", joined.Status.Certificates)
	}

	waiting := cluster.WaitReady(t, manual.Name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	requests := sentWith(t, waiting.Status.Token.ID)
	if len(requests) != 1 || len(requests[0].Status.Conditions) > 0 {
		t.Fatalf("the requests are %+v, want one that waits", requests)
	}
	env.Must(t, kubectl(t, "certificate", "approve", requests[0].Name))
	waitJoined(t, manual.Name)
}
