// SPDX-License-Identifier: Apache-2.0

package install

import (
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// widen gives the operator every permission, so that only the cage restricts it.
func widen(t *testing.T) {
	t.Helper()
	cluster.Create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "widened"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: operator.Namespace, Name: operator.ServiceAccount}},
	})
}

func caged(name string) *v1alpha1.NodeBootstrap {
	nb := cluster.NodeBootstrap(name)
	nb.UID = "6a0ae3d0-0000-4000-8000-000000000000"
	return nb
}

func expires(at string) func(*corev1.Secret) {
	return func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(at) }
}

func TestCageOfTokens(t *testing.T) {
	widen(t)
	const policy = "nodebootstrap-cage-secrets"
	good := func() *corev1.Secret {
		return token.NewSecret(caged("caged"), "abc123", "0123456789abcdef", time.Now().Add(time.Hour))
	}
	wide := caged("caged")
	wide.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	const year = 8760 * time.Hour
	for _, s := range []*corev1.Secret{
		good(),
		token.NewSecret(wide, "abc123", "0123456789abcdef", time.Now().Add(time.Hour)),
		token.NewSecret(caged("caged"), "abc123", "0123456789abcdef", time.Now().Add(-time.Hour)),
		token.NewSecret(caged("caged"), "abc123", "0123456789abcdef", time.Now().Add(year+9*time.Minute)), // by a clock that is ahead
	} {
		allowed(t, func() error { return asOperator.Create(t.Context(), s.DeepCopy()) })
	}
	for name, spoil := range map[string]func(*corev1.Secret){
		"another type": func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"a ServiceAccount's token": func(s *corev1.Secret) {
			s.Type = corev1.SecretTypeServiceAccountToken
			s.Annotations[corev1.ServiceAccountNameKey] = "clusterrole-aggregation-controller"
		},
		"no label":          func(s *corev1.Secret) { s.Labels = nil },
		"another label":     func(s *corev1.Secret) { s.Labels[owned.ManagedByLabel] = "Helm" },
		"another name":      func(s *corev1.Secret) { s.Name = "abc123" },
		"another namespace": func(s *corev1.Secret) { s.Namespace = metav1.NamespaceDefault },
		"no groups":         func(s *corev1.Secret) { delete(s.Data, bootstrapapi.BootstrapTokenExtraGroupsKey) },
		"another group": func(s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte("system:bootstrappers:kubeadm")
		},
		"one group more": func(s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte(token.Group + ",system:bootstrappers:kubeadm")
		},
		"only the wide one": func(s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte(token.ClusterWideGroup)
		},
		"a group as text": func(s *corev1.Secret) {
			s.StringData = map[string]string{bootstrapapi.BootstrapTokenExtraGroupsKey: "system:bootstrappers:kubeadm"}
		},
		"good for signing": func(s *corev1.Secret) { s.Data[bootstrapapi.BootstrapTokenUsageSigningKey] = []byte("true") },
		"never expires":    func(s *corev1.Secret) { delete(s.Data, bootstrapapi.BootstrapTokenExpirationKey) },
		"expires in 2099":  expires("2099-01-01T00:00:00Z"),
		"expires in a year and an hour": func(s *corev1.Secret) {
			expires(time.Now().Add(year + time.Hour).UTC().Format(time.RFC3339))(s)
		},
		"says that it is from 2099": func(s *corev1.Secret) {
			s.CreationTimestamp = metav1.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
			expires("2099-01-02T00:00:00Z")(s)
		},
		"expires in another time zone": expires("2026-01-01T00:00:00-09:00"),
		"expires between two seconds":  expires("2026-01-01T00:00:00.000001Z"),
		"expires on no day":            expires("2026-02-30T00:00:00Z"),
		"expires after a blank":        expires(" 2026-01-01T00:00:00"),
		"expires at no time":           expires("tomorrow at eight!!!"),
		"expires in strange digits":    expires("\u0660026-01-01T00:00:00Z"),
		"expiration is empty":          expires(""),
		"no owner":                     func(s *corev1.Secret) { s.OwnerReferences = nil },
		"another owner":                func(s *corev1.Secret) { s.OwnerReferences[0].APIVersion, s.OwnerReferences[0].Kind = "v1", "Namespace" },
		"one owner more": func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Namespace", Name: "default", UID: "1"})
		},
		"holds nothing":      func(s *corev1.Secret) { s.Data = nil },
		"holds another file": func(s *corev1.Secret) { s.Data["kubeconfig"] = []byte("x") },
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			spoil(s)
			refused(t, policy, func() error { return asOperator.Create(t.Context(), s.DeepCopy()) })
		})
	}

	t.Run("others' Secrets", func(t *testing.T) {
		for id, theirs := range map[string]*corev1.Secret{
			"tttttt": {Type: bootstrapapi.SecretTypeBootstrapToken, Data: map[string][]byte{
				bootstrapapi.BootstrapTokenExtraGroupsKey: []byte("system:bootstrappers:kubeadm:default-node-token"),
			}},
			"oooooo": {Type: corev1.SecretTypeOpaque},
		} {
			theirs.ObjectMeta = metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: token.SecretName(id)}
			cluster.Create(t, theirs)
			taken := theirs.DeepCopy()
			taken.Labels, taken.Data = good().Labels, good().Data
			refused(t, policy, func() error { return asOperator.Update(t.Context(), taken.DeepCopy()) })
			refused(t, policy, func() error { return asOperator.Delete(t.Context(), theirs.DeepCopy()) })
			refused(t, policy, func() error {
				return asOperator.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(metav1.NamespaceSystem))
			})
		}
	})

	t.Run("a token that lost its label", func(t *testing.T) {
		bare := good()
		bare.Name, bare.Labels, bare.OwnerReferences = token.SecretName("bbbbbb"), nil, nil
		cluster.Create(t, bare)
		restored := bare.DeepCopy()
		restored.Labels, restored.OwnerReferences = good().Labels, good().OwnerReferences
		allowed(t, func() error { return asOperator.Update(t.Context(), restored) })
		refused(t, policy, func() error { return asOperator.Update(t.Context(), bare.DeepCopy()) })
		allowed(t, func() error { return asOperator.Delete(t.Context(), bare.DeepCopy()) })
	})

	t.Run("own Secrets", func(t *testing.T) {
		ours := good()
		ours.OwnerReferences = nil // the garbage collector does not know such an owner
		cluster.Create(t, ours)
		ours.OwnerReferences = good().OwnerReferences
		allowed(t, func() error { return asOperator.Update(t.Context(), ours.DeepCopy()) })
		worse := ours.DeepCopy()
		worse.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = []byte("system:bootstrappers:kubeadm")
		refused(t, policy, func() error { return asOperator.Update(t.Context(), worse.DeepCopy()) })
		longer := ours.DeepCopy()
		expires(ours.CreationTimestamp.Add(year + 9*time.Minute).UTC().Format(time.RFC3339))(longer)
		allowed(t, func() error { return asOperator.Update(t.Context(), longer.DeepCopy()) })
		expires(ours.CreationTimestamp.Add(year + 11*time.Minute).UTC().Format(time.RFC3339))(longer)
		refused(t, policy, func() error { return asOperator.Update(t.Context(), longer.DeepCopy()) })
		longer.CreationTimestamp = metav1.NewTime(ours.CreationTimestamp.Add(time.Hour)) // it is not taken over
		refused(t, policy, func() error { return asOperator.Update(t.Context(), longer.DeepCopy()) })
		allowed(t, func() error { return asOperator.Delete(t.Context(), ours.DeepCopy()) })
	})
}

func TestCageOfKubeconfigs(t *testing.T) {
	widen(t)
	const policy = "nodebootstrap-cage-secrets"
	good := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName("caged")},
			Type:       corev1.SecretTypeOpaque,
		}
	}
	allowed(t, func() error { return asOperator.Create(t.Context(), good()) })
	for name, spoil := range map[string]func(*corev1.Secret){
		"another name":      func(s *corev1.Secret) { s.Name = "pull-secret" },
		"another namespace": func(s *corev1.Secret) { s.Namespace = metav1.NamespaceDefault },
		"a ServiceAccount's token": func(s *corev1.Secret) {
			s.Type, s.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: "default"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := good()
			spoil(s)
			refused(t, policy, func() error { return asOperator.Create(t.Context(), s.DeepCopy()) })
		})
	}
	theirs := good()
	theirs.Name = "pull-secret"
	cluster.Create(t, theirs)
	refused(t, policy, func() error { return asOperator.Update(t.Context(), theirs.DeepCopy()) })
	refused(t, policy, func() error { return asOperator.Delete(t.Context(), theirs.DeepCopy()) })
}

func TestCageOfBindings(t *testing.T) {
	widen(t)
	const policy = "nodebootstrap-cage-bindings"
	create := func(b *rbacv1.ClusterRoleBinding) error {
		if err := asOperator.Create(t.Context(), b.DeepCopy()); !apierrors.IsAlreadyExists(err) {
			return err
		}
		return nil // it was admitted
	}
	for _, name := range rbac.BindingNames {
		allowed(t, func() error { return create(rbac.Binding(name)) })
		for spoilt, spoil := range map[string]func(*rbacv1.ClusterRoleBinding){
			"another name":    func(b *rbacv1.ClusterRoleBinding) { b.Name = "nodebootstrap-admins" },
			"another role":    func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Name = "cluster-admin" },
			"another group":   func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Name = "system:authenticated" },
			"a user":          func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Kind = rbacv1.UserKind },
			"one group more":  func(b *rbacv1.ClusterRoleBinding) { b.Subjects = append(b.Subjects, b.Subjects[0]) },
			"nobody":          func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil },
			"another's group": func(b *rbacv1.ClusterRoleBinding) { b.Subjects[0].Name = "system:bootstrappers" },
		} {
			t.Run(name+" with "+spoilt, func(t *testing.T) {
				b := rbac.Binding(name)
				spoil(b)
				refused(t, policy, func() error { return create(b) })
			})
		}
	}
	theirs := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "theirs"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}
	cluster.Create(t, theirs)
	refused(t, policy, func() error { return asOperator.Update(t.Context(), theirs.DeepCopy()) })
	refused(t, policy, func() error { return asOperator.Delete(t.Context(), theirs.DeepCopy()) })
}

// The operator can write only the status of a NodeBootstrap, can only decide and delete CSRs, and can write no other kind.
func TestCageOfEverythingElse(t *testing.T) {
	widen(t)
	nb := cluster.NodeBootstrap("caged")
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
	cluster.Create(t, nb)
	request := askAsStranger(t)
	approved := request.DeepCopy()
	approved.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	}}
	denied := approved.DeepCopy()
	denied.Status.Conditions[0].Type = certificatesv1.CertificateDenied
	failed := approved.DeepCopy()
	failed.Status.Conditions[0].Type = certificatesv1.CertificateFailed
	meta := metav1.ObjectMeta{Namespace: operator.Namespace, Name: "caged"}
	labelled := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`))
	ctx := t.Context()

	for name, act := range map[string]func() error{
		"NodeBootstrap created": func() error { return asOperator.Create(ctx, limited()) },
		"NodeBootstrap changed": func() error { return asOperator.Patch(ctx, nb.DeepCopy(), labelled) },
		"NodeBootstrap deleted": func() error { return asOperator.Delete(ctx, nb.DeepCopy()) },
		"request sent": func() error {
			return asOperator.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "caged"}, Spec: request.Spec})
		},
		"request's status": func() error { return asOperator.Status().Update(ctx, failed.DeepCopy()) },
		"Node changed": func() error {
			return asOperator.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "caged"}})
		},
		"Pod": func() error {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "caged"}}
			pod.Spec.Containers = []corev1.Container{{Name: "a", Image: "a"}}
			return asOperator.Create(ctx, pod)
		},
		"ConfigMap": func() error { return asOperator.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta}) },
		"ClusterRole": func() error {
			return asOperator.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "caged"}})
		},
		"RoleBinding": func() error {
			return asOperator.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"}})
		},
		"ServiceAccount's token": func() error {
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: operator.ServiceAccount}}
			return asOperator.SubResource("token").Create(ctx, sa, &authenticationv1.TokenRequest{})
		},
	} {
		t.Run(name, func(t *testing.T) { refused(t, "nodebootstrap-cage", act) })
	}
	for name, patch := range map[string]string{
		"labelled":    `{"metadata":{"labels":{"a":"b"}}}`,
		"annotated":   `{"metadata":{"annotations":{"a":"b"}}}`,
		"owned":       `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"a","uid":"b"}]}}`,
		"made final":  `{"metadata":{"finalizers":["example.com/stay"]}}`,
		"and is free": `{"metadata":{"finalizers":null,"labels":{"a":"b"}}}`,
	} {
		t.Run("request "+name, func(t *testing.T) {
			refused(t, "nodebootstrap-cage-requests", func() error {
				return asOperator.Patch(ctx, request.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)))
			})
		})
	}
	t.Run("request of a stranger approved", func(t *testing.T) {
		refused(t, "nodebootstrap-cage-approvals", func() error { return asOperator.SubResource("approval").Update(ctx, approved.DeepCopy()) })
	})
	t.Run("allowed", func(t *testing.T) {
		allowed(t, func() error { return asOperator.SubResource("approval").Update(ctx, denied.DeepCopy()) })
		allowed(t, func() error { // as it revokes a CSR with finalizers
			return asOperator.Patch(ctx, request.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)))
		})
		allowed(t, func() error { return asOperator.Delete(ctx, request.DeepCopy()) })
		allowed(t, func() error { return asOperator.Status().Patch(ctx, nb.DeepCopy(), labelled) })
	})
}

// A compromised operator creates a token for a NodeBootstrap that does not exist, which the cage cannot know: it is deleted at
// once.
func TestTokenWithoutItsOwnerIsDeleted(t *testing.T) {
	withoutManager(t) // so that Kubernetes deletes it
	cfg, err := operator.Config(t.Context(), cluster.Cluster)
	env.Must(t, err)
	intruder, err := client.New(cfg, client.Options{Scheme: cluster.Client.Scheme()})
	env.Must(t, err)
	s := token.NewSecret(caged("caged"), "abc124", "0123456789abcdef", time.Now().Add(time.Hour))
	env.Must(t, intruder.Create(t.Context(), s))
	env.Eventually(t, "the deletion of the token", func() error {
		return cluster.Absent(t.Context(), s.Namespace, s.Name, &corev1.Secret{})
	})
}
