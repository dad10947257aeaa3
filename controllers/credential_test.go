// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// whoIs authenticates with a kubeconfig.
func whoIs(ctx context.Context, kubeconfig []byte) (authenticationv1.UserInfo, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	review, err := cs.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}

func theToken(t *testing.T, node string) *corev1.Secret {
	t.Helper()
	tokens, err := cluster.TokenSecrets(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if len(tokens) != 1 {
		t.Fatalf("%d token Secrets for %s, want 1", len(tokens), node)
	}
	return &tokens[0]
}

func kubeconfigSecret(t *testing.T, node string) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	cluster.Get(t, operator.Namespace, owned.KubeconfigSecretName(node), &s)
	return &s
}

func TestCredentialIsPublished(t *testing.T) {
	const name = "published.example.com"
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb, text := cluster.WaitAwaited(t, name)

	user, err := whoIs(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if want := bootstrapapi.BootstrapUserPrefix + nb.Status.Token.ID; user.Username != want {
		t.Errorf("the kubeconfig authenticates as %s, want %s", user.Username, want)
	}
	for _, o := range []client.Object{theToken(t, name), kubeconfigSecret(t, name)} {
		owner := metav1.GetControllerOf(o)
		if owner == nil || owner.UID != nb.UID || owner.BlockOwnerDeletion != nil {
			t.Errorf("%s has the owner %+v", o.GetName(), owner)
		}
		if o.GetLabels()[owned.ManagedByLabel] != owned.ManagedBy {
			t.Errorf("%s has the labels %v", o.GetName(), o.GetLabels())
		}
	}
	if ca := kubeconfigSecret(t, name).Data[kubeconfig.CAKey]; !bytes.Equal(ca, cluster.ServerCA()) {
		t.Errorf("ca.crt is %q", ca)
	}
	if nb.Status.Server != cluster.Server() || nb.Status.ObservedGeneration != nb.Generation {
		t.Errorf("the status is %+v", nb.Status)
	}
}

// Changes of child objects by others are undone, except the deletion of a token Secret, which revokes the token.
func TestChildrenAreRestored(t *testing.T) {
	t.Parallel()
	const name = "restored"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)

	for what, change := range map[string]func(text, token *corev1.Secret){
		"kubeconfig-data":        func(k, _ *corev1.Secret) { k.Data[kubeconfig.Key] = []byte("edited") },
		"kubeconfig-extra-key":   func(k, _ *corev1.Secret) { k.Data["more"] = []byte("edited") },
		"kubeconfig-ca":          func(k, _ *corev1.Secret) { delete(k.Data, kubeconfig.CAKey) },
		"kubeconfig-label":       func(k, _ *corev1.Secret) { k.Labels = nil },
		"kubeconfig-annotation":  func(k, _ *corev1.Secret) { k.Annotations = nil },
		"kubeconfig-other-owner": func(k, _ *corev1.Secret) { k.OwnerReferences[0].UID = "another" },
		"token-label":            func(_, s *corev1.Secret) { s.Labels = nil },
		"token-annotation":       func(_, s *corev1.Secret) { s.Annotations = nil },
		"token-groups": func(_, s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte("system:bootstrappers:else")
		},
		"token-expiration": func(_, s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte("2099-01-01T00:00:00Z")
		},
		"token-never-expires": func(_, s *corev1.Secret) { delete(s.Data, bootstrapapi.BootstrapTokenExpirationKey) },
		"token-usage": func(_, s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenUsageSigningKey] = []byte("true")
		},
	} {
		t.Run(what, func(t *testing.T) {
			text, token := kubeconfigSecret(t, name), theToken(t, name)
			wantKubeconfig, wantToken := text.DeepCopy(), token.DeepCopy()
			change(text, token)
			for _, s := range []*corev1.Secret{text, token} {
				if err := cluster.Client.Update(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			env.Eventually(t, "restoring", func() error {
				var have corev1.Secret
				cluster.Get(t, wantToken.Namespace, wantToken.Name, &have)
				return errors.Join(sameSecret(kubeconfigSecret(t, name), wantKubeconfig), sameSecret(&have, wantToken))
			})
		})
	}
}

func sameSecret(have, want *corev1.Secret) error {
	if !equality.Semantic.DeepEqual(have.Data, want.Data) || !equality.Semantic.DeepEqual(have.Labels, want.Labels) ||
		!equality.Semantic.DeepEqual(have.Annotations, want.Annotations) || !equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences) {
		return fmt.Errorf("%s is not as it was", have.Name)
	}
	return nil
}

func TestDeletedKubeconfigIsRestoredExactly(t *testing.T) {
	const name = "restored-kubeconfig"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	want := kubeconfigSecret(t, name)
	cluster.Delete(t, want.DeepCopy())
	env.Eventually(t, "restoring", func() error { return sameAgain(t.Context(), want) })
}

// sameAgain compares a Secret with the current one, if it exists: between a deletion and a creation it does not.
func sameAgain(ctx context.Context, want *corev1.Secret) error {
	var have corev1.Secret
	if err := cluster.Client.Get(ctx, client.ObjectKeyFromObject(want), &have); err != nil {
		return err
	}
	return sameSecret(&have, want)
}

// An immutable Secret of ours cannot be updated: it is recreated.
func TestImmutableKubeconfigIsRecreated(t *testing.T) {
	const name = "immutable"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	want := kubeconfigSecret(t, name)
	env.Change(t, cluster, kubeconfigSecret(t, name), func(s *corev1.Secret) {
		s.Data[kubeconfig.Key], s.Immutable = []byte("edited"), new(true)
	})
	env.Eventually(t, "the new Secret", func() error { return sameAgain(t.Context(), want) })
}

// Deleting a token's Secret revokes the token: the next one has another id and another secret part.
func TestDeletedTokenIsReplaced(t *testing.T) {
	t.Parallel()
	const name = "replaced"
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, old := cluster.WaitAwaited(t, name)
	cluster.Delete(t, theToken(t, name))
	env.Eventually(t, "another token", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if nb.Status.Token == nil || nb.Status.Token.ID == before.Status.Token.ID {
			return fmt.Errorf("the token is %+v", nb.Status.Token)
		}
		user, err := whoIs(t.Context(), kubeconfigSecret(t, name).Data[kubeconfig.Key])
		if err == nil && user.Username != bootstrapapi.BootstrapUserPrefix+nb.Status.Token.ID {
			err = fmt.Errorf("the kubeconfig authenticates as %s", user.Username)
		}
		return err
	})
	env.Eventually(t, "the end of the old token", func() error {
		if _, err := whoIs(t.Context(), old); err == nil {
			return errors.New("it is accepted")
		}
		return nil
	})
}

func TestForeignKubeconfigSecretIsUntouched(t *testing.T) {
	const name = "foreign-kubeconfig"
	foreign := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(name)},
		StringData: map[string]string{"mine": "yes"},
	}
	cluster.Create(t, foreign)
	cluster.Create(t, cluster.NodeBootstrap(name))
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonObjectNotOurs)
	if got := env.ReadyMessage(nb); !strings.Contains(got, foreign.Name) || !strings.Contains(got, "delete it") || strings.Contains(got, "rename") {
		t.Errorf("the message does not name the Secret, or advises an impossible change: %s", got)
	}
	if !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("it is not Stalled: %+v", nb.Status.Conditions)
	}
	if now := kubeconfigSecret(t, name); now.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written")
	}
	if tokens, err := cluster.TokenSecrets(t.Context(), name); err != nil || len(tokens) > 0 {
		t.Errorf("got %d tokens (%v)", len(tokens), err)
	}
	cluster.Delete(t, foreign.DeepCopy())
	cluster.WaitAwaited(t, name)
}

// The id of the first token is someone else's: the next one is taken.
func TestForeignTokenSecretIsSkipped(t *testing.T) {
	const name = "foreign-token"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.Cluster.Server = ""
	cluster.Create(t, nb)
	cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonServerUnknown)
	id := token.NextID(nb.UID, "")
	foreign := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName(id)},
		StringData: map[string]string{"mine": "yes"},
	}
	cluster.Create(t, foreign)
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = cluster.Server() })
	nb, _ = cluster.WaitAwaited(t, name)
	if want := token.NextID(nb.UID, id); nb.Status.Token.ID != want {
		t.Errorf("the token is %s, want %s", nb.Status.Token.ID, want)
	}
	var have corev1.Secret
	cluster.Get(t, foreign.Namespace, foreign.Name, &have)
	if have.ResourceVersion != foreign.ResourceVersion {
		t.Error("the foreign Secret was written")
	}
}

// poke triggers a reconcile, since the test's clock does not move.
func poke(t *testing.T, name string) {
	t.Helper()
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Labels = map[string]string{"poked": fmt.Sprint(len(nb.Labels["poked"])) + nb.Labels["poked"]}
	})
}

// at moves the operator's clock for the duration of a test.
func at(t *testing.T, later time.Duration) {
	t.Helper()
	now.SetTime(time.Now().Add(later))
	t.Cleanup(func() { now.SetTime(time.Now()) })
}

// Before a token expires, another takes its place in the kubeconfig, and both are accepted for a while.
func TestTokenIsRenewed(t *testing.T) {
	const name = "renewed"
	cluster.Create(t, cluster.NodeBootstrap(name))
	before, old := cluster.WaitAwaited(t, name)
	at(t, 22*time.Hour)
	poke(t, name)
	env.Eventually(t, "the next token", func() error {
		var nb v1alpha1.NodeBootstrap
		cluster.Get(t, "", name, &nb)
		if want := token.NextID(nb.UID, before.Status.Token.ID); nb.Status.Token.ID != want {
			return fmt.Errorf("the token is %s, want %s", nb.Status.Token.ID, want)
		}
		return env.HasReady(&nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	})
	for what, text := range map[string][]byte{"old": old, "new": kubeconfigSecret(t, name).Data[kubeconfig.Key]} {
		if _, err := whoIs(t.Context(), text); err != nil {
			t.Errorf("the %s kubeconfig: %v", what, err)
		}
	}
}

func TestReissueReplacesTheToken(t *testing.T) {
	t.Parallel()
	const name = "reissued"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, old := cluster.WaitAwaited(t, name)
	for _, request := range []string{"first", "second"} {
		env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
			nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: request}
		})
		env.Eventually(t, "the reissue", func() error {
			cluster.Get(t, "", name, nb)
			if nb.Status.LastHandledReissueAt != request || nb.Status.Token.ID == before.Status.Token.ID {
				return fmt.Errorf("the status is %+v", nb.Status)
			}
			return env.HasReady(nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
		})
		if id := theToken(t, name).Data[bootstrapapi.BootstrapTokenIDKey]; string(id) != nb.Status.Token.ID {
			t.Errorf("the one token is %s, want %s", id, nb.Status.Token.ID)
		}
		before = nb.DeepCopy()
	}
	env.Eventually(t, "the end of the old token", func() error {
		if _, err := whoIs(t.Context(), old); err == nil {
			return errors.New("it is accepted")
		}
		return nil
	})
}

// An API server without --enable-bootstrap-token-auth is detected and reported.
func TestTokensNotAccepted(t *testing.T) {
	t.Parallel()
	k := clocktesting.NewFakePassiveClock(time.Now())
	e, stop, err := startOperator(t.Context(), localcluster.Config{
		NoControllerManager: true, APIServerArgs: map[string]string{"enable-bootstrap-token-auth": "false"},
	}, k, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	if err := e.Client.Create(t.Context(), e.NodeBootstrap("unheard")); err != nil {
		t.Fatal(err)
	}
	e.WaitReady(t, "unheard", metav1.ConditionFalse, v1alpha1.ReasonVerifying)
	k.SetTime(time.Now().Add(time.Minute))
	nb := e.WaitReady(t, "unheard", metav1.ConditionFalse, v1alpha1.ReasonTokensNotAccepted)
	if !strings.Contains(env.ReadyMessage(nb), "--enable-bootstrap-token-auth") {
		t.Errorf("the message does not say what to do: %s", env.ReadyMessage(nb))
	}
}
