// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// startKubelet runs a stock kubelet until the test is over.
func startKubelet(t *testing.T, name string, kubeconfig []byte) *localcluster.Kubelet {
	t.Helper()
	kubelet, err := cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kubelet.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(kubelet.LogFile())
			t.Logf("the log of the kubelet %s ends with:\n%s", name, log[max(0, len(log)-4000):])
		}
		err := cluster.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	return kubelet
}

// waitNodeReady waits for a node of a kubelet that heartbeats.
func waitNodeReady(t *testing.T, name string) *corev1.Node {
	t.Helper()
	var node corev1.Node
	env.Eventually(t, "node "+name, func() error {
		if err := cluster.Client.Get(t.Context(), client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not Ready")
	})
	return &node
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
	if err := cluster.NothingLeft(t.Context(), name); err != nil {
		t.Error(err)
	}
	return nb
}

func kubectlAs(t *testing.T, kubeconfig []byte, args ...string) (string, error) {
	t.Helper()
	kubectl, err := cluster.Binary("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubeconfig, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), kubectl, append([]string{"--kubeconfig", path}, args...)...).CombinedOutput()
	return string(out), err
}

// The whole story of one node: joined with the published kubeconfig as it is, after which that kubeconfig is worth nothing.
func TestNodeJoinsAndCredentialIsGone(t *testing.T) {
	const name = "worker-a"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)

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
	env.Eventually(t, "the second kubelet being refused", func() error {
		log, err := os.ReadFile(thief.LogFile())
		if err == nil && !bytes.Contains(log, []byte("Unauthorized")) {
			err = errors.New("its log does not say so")
		}
		return err
	})
	if err := cluster.Absent(t.Context(), "", "thief", &corev1.Node{}); err != nil {
		t.Error(err)
	}
	if now := waitNodeReady(t, name); now.UID != node.UID {
		t.Error("the node was replaced")
	}
	if requests := sentWith(t, nb.Status.Token.ID); len(requests) != 1 {
		t.Errorf("%d requests were sent with the token, want 1", len(requests))
	}
}

func sentWith(t *testing.T, tokenID string) []certificatesv1.CertificateSigningRequest {
	t.Helper()
	requests, err := cluster.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(requests, func(r certificatesv1.CertificateSigningRequest) bool {
		return bootstrap.TokenIDOfUser(r.Spec.Username) != tokenID
	})
}

// Two kubelets join as themselves at the same time.
func TestTwoNodesJoinAtOnce(t *testing.T) {
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

// A node that joined by the means of old, before its NodeBootstrap existed, gets no credential.
func TestMemberBeforeItsNodeBootstrap(t *testing.T) {
	const name, group = "member", "system:bootstrappers:by-hand"
	cluster.Create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: bootstrap.TokenNamespace, Name: bootstrap.TokenSecretName("byhand")},
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
		cluster.Create(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: binding},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})
	}
	kubeconfig, err := cluster.TokenKubeconfig("byhand.0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	startKubelet(t, name, kubeconfig)
	waitNodeReady(t, name)
	before, err := audit.Writes()
	if err != nil {
		t.Fatal(err)
	}

	cluster.Create(t, cluster.NodeBootstrap(name))
	waitJoined(t, name)
	after, err := audit.Writes()
	if err != nil {
		t.Fatal(err)
	}
	for _, write := range after[len(before):] {
		if write.ObjectRef.Resource == "secrets" {
			t.Errorf("a credential was written for a member: %s", write)
		}
	}
}

// A reinstalled machine joins under its name while the old Node object is still there.
func TestReissueForReinstalledMachine(t *testing.T) {
	const name = "reinstalled"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	old := startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
	node := waitNodeReady(t, name)
	if err := old.Stop(); err != nil {
		t.Fatal(err)
	}

	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	})
	_, fresh := cluster.WaitAwaited(t, name)
	if bytes.Equal(fresh, kubeconfig) {
		t.Fatal("the reissued kubeconfig is the old one")
	}
	startKubelet(t, name, fresh)
	joined := waitJoined(t, name)
	if joined.Status.LastHandledReissueAt != "once" {
		t.Errorf("status.lastHandledReissueAt is %q", joined.Status.LastHandledReissueAt)
	}
	if now := waitNodeReady(t, name); now.UID != node.UID {
		t.Error("this was to be tried with the old Node object, which is gone")
	}
}

// A kubelet with another node's kubeconfig gets no certificate, and its request is denied.
func TestKubeletOfAnotherNameIsDenied(t *testing.T) {
	const name = "victim"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, "impostor", kubeconfig)
	env.Eventually(t, "the denial", func() error {
		for _, r := range sentWith(t, nb.Status.Token.ID) {
			for _, c := range r.Status.Conditions {
				if c.Type == certificatesv1.CertificateDenied && strings.Contains(c.Message, "system:node:impostor") {
					return nil
				}
			}
		}
		return errors.New("no request is denied")
	})
	if err := cluster.Absent(t.Context(), "", "impostor", &corev1.Node{}); err != nil {
		t.Error(err)
	}
}

func TestApprovalClusterWideAndManual(t *testing.T) {
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
	if _, err := operator.Kubectl(t.Context(), cluster.Cluster, "certificate", "approve", requests[0].Name); err != nil {
		t.Fatal(err)
	}
	waitJoined(t, manual.Name)
}

// Deleting the NodeBootstrap before the node has joined leaves nothing, and deleting the last one takes the bindings along.
func TestDeletedBeforeJoining(t *testing.T) {
	const name = "never-joins"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	cluster.Delete(t, nb)
	env.Eventually(t, "everything being gone", func() error { return cluster.NothingLeft(t.Context(), name) })
	env.Eventually(t, "the token being refused", func() error {
		if out, err := kubectlAs(t, kubeconfig, "auth", "whoami"); err == nil {
			return fmt.Errorf("kubectl says %s", out)
		}
		return nil
	})
	waitNoBindings(t)
}

func waitNoBindings(t *testing.T) {
	t.Helper()
	env.Eventually(t, "the bindings being gone", func() error {
		for _, binding := range bootstrap.BindingNames {
			if err := cluster.Absent(t.Context(), "", binding, &rbacv1.ClusterRoleBinding{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// What was deleted while no manager ran is cleaned up by the next one, a request that waits included.
func TestDeletedWhileTheManagerIsDown(t *testing.T) {
	const name = "deleted-meanwhile"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	awaited, kubeconfig := cluster.WaitAwaited(t, name)
	startKubelet(t, name, kubeconfig)
	cluster.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonAwaitingApproval)
	if err := killManager(); err != nil {
		t.Fatal(err)
	}
	cluster.Delete(t, nb)
	if err := startManager(t.Context()); err != nil {
		t.Fatal(err)
	}
	env.Eventually(t, "everything being gone", func() error {
		if requests := sentWith(t, awaited.Status.Token.ID); len(requests) > 0 {
			return fmt.Errorf("%d requests are left", len(requests))
		}
		return cluster.NothingLeft(t.Context(), name)
	})
	waitNoBindings(t)
}

// The manager is killed at each step of a node's way, and the end is the same.
func TestManagerKilledAtEachStep(t *testing.T) {
	for step, happened := range map[string]func(watch.Event) bool{
		"resource-applied":     func(e watch.Event) bool { _, ok := e.Object.(*v1alpha1.NodeBootstrap); return ok },
		"token-minted":         isSecret(bootstrap.TokenNamespace, watch.Added),
		"kubeconfig-published": isSecret(operator.Namespace, watch.Added),
		"csr-seen":             isRequest(func(*certificatesv1.CertificateSigningRequest) bool { return true }),
		"csr-approved":         isRequest(func(r *certificatesv1.CertificateSigningRequest) bool { return len(r.Status.Conditions) > 0 }),
		"node-registered":      func(e watch.Event) bool { _, ok := e.Object.(*corev1.Node); return ok },
		"token-revoked":        isSecret(bootstrap.TokenNamespace, watch.Deleted),
	} {
		t.Run(step, func(t *testing.T) {
			name := "killed-at-" + step
			crashed := crashWhen(t, name, happened)
			cluster.Create(t, cluster.NodeBootstrap(name))
			_, kubeconfig := cluster.WaitAwaited(t, name)
			startKubelet(t, name, kubeconfig)
			waitNodeReady(t, name)
			select {
			case err := <-crashed:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(env.Limit):
				t.Fatal("the step was not seen")
			}
			waitJoined(t, name)
		})
	}
}

func isSecret(namespace string, kind watch.EventType) func(watch.Event) bool {
	return func(e watch.Event) bool {
		s, ok := e.Object.(*corev1.Secret)
		return ok && s.Namespace == namespace && e.Type == kind
	}
}

func isRequest(is func(*certificatesv1.CertificateSigningRequest) bool) func(watch.Event) bool {
	return func(e watch.Event) bool {
		r, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
		return ok && is(r)
	}
}

// crashWhen kills the manager the first time that something happens to what is for a node, and starts it again.
func crashWhen(t *testing.T, node string, happened func(watch.Event) bool) <-chan error {
	t.Helper()
	events := make(chan watch.Event)
	for _, list := range []client.ObjectList{
		&v1alpha1.NodeBootstrapList{}, &corev1.SecretList{}, &certificatesv1.CertificateSigningRequestList{}, &corev1.NodeList{},
	} {
		w, err := cluster.Client.Watch(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for e := range w.ResultChan() {
				select {
				case events <- e:
				case <-t.Context().Done():
				}
			}
		}()
	}
	crashed := make(chan error, 1)
	began := time.Now().Truncate(time.Second)
	go func() {
		for {
			select {
			case e := <-events:
				o, ok := e.Object.(client.Object)
				if !ok || !concerns(o, node, began) || !happened(e) {
					continue
				}
				crashed <- crashManager(context.WithoutCancel(t.Context()))
				return
			case <-t.Context().Done():
				return
			}
		}
	}()
	return crashed
}

func concerns(o client.Object, node string, since time.Time) bool {
	if r, ok := o.(*certificatesv1.CertificateSigningRequest); ok {
		return slices.Contains(r.Spec.Groups, bootstrap.Group) && !r.CreationTimestamp.Time.Before(since)
	}
	return o.GetName() == node || bootstrap.NodeOfChild(o) == node
}

// A settled cluster sees no writes from the operator, and the operator never asks for what it may not do.
func TestSettledClusterSeesNoWrites(t *testing.T) {
	const awaited, joined = "settled-awaited", "settled-joined"
	cluster.Create(t, cluster.NodeBootstrap(awaited))
	cluster.Create(t, cluster.NodeBootstrap(joined))
	_, kubeconfig := cluster.WaitAwaited(t, joined)
	startKubelet(t, joined, kubeconfig)
	waitJoined(t, joined)
	cluster.WaitAwaited(t, awaited)
	if err := crashManager(t.Context()); err != nil { // a restart settles too
		t.Fatal(err)
	}
	before := settledWrites(t)
	select { // not a wait for something: the time in which nothing may happen, with several heartbeats of the node in it
	case <-time.After(25 * time.Second):
	case <-t.Context().Done():
	}
	after := settledWrites(t)
	for _, write := range after[len(before):] {
		t.Errorf("a write in a settled cluster: %s", write)
	}
	entries, err := audit.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Forbidden() {
			t.Errorf("the operator's RBAC does not allow what it does: %s", e)
		}
	}
}

// settledWrites is the record once it has stopped growing.
func settledWrites(t *testing.T) []env.Entry {
	t.Helper()
	last, quiet := -1, 0
	var writes []env.Entry
	env.Eventually(t, "the record of writes", func() error {
		var err error
		if writes, err = audit.Writes(); err != nil {
			return err
		}
		if len(writes) != last {
			last, quiet = len(writes), 0
		}
		if quiet++; quiet < 40 { // a second
			return fmt.Errorf("still growing, at %d", last)
		}
		return nil
	})
	return writes
}
