// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A renewed token was forgotten when a client removed the label of its Secret: a reissue, which users request when they no
// longer trust older tokens, left it live for up to a year.
func TestPredecessorIsRevokedWhateverItSays(t *testing.T) {
	for what, change := range map[string]func(*corev1.Secret){
		"label":                func(s *corev1.Secret) { s.Labels = nil },
		"annotation":           func(s *corev1.Secret) { s.Annotations = nil },
		"owner":                func(s *corev1.Secret) { s.OwnerReferences = nil },
		"another annotation":   func(s *corev1.Secret) { s.Annotations[owned.NodeNameAnnotation] = "someone-else" },
		"label and annotation": func(s *corev1.Secret) { s.Labels, s.Annotations = nil, nil },
		"annotation and owner": func(s *corev1.Secret) { s.Annotations, s.OwnerReferences = nil, nil },
		"everything":           func(s *corev1.Secret) { s.Labels, s.Annotations, s.OwnerReferences = nil, nil, nil },
	} {
		t.Run(what, func(t *testing.T) {
			name := "predecessor-" + strings.ReplaceAll(what, " ", "-")
			nb := cluster.NodeBootstrap(name)
			cluster.Create(t, nb)
			before, _ := cluster.WaitAwaited(t, name)
			predecessor := theToken(t, name)
			env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL = &metav1.Duration{Duration: 8760 * time.Hour} })
			env.Eventually(t, "the renewal", func() error {
				cluster.Get(t, "", name, nb)
				if nb.Status.Token.ID == before.Status.Token.ID {
					return errors.New("the token is as before")
				}
				return env.HasReady(nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
			})
			env.Change(t, cluster, predecessor, change)
			env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
				nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
			})
			env.Eventually(t, "the reissue", func() error {
				cluster.Get(t, "", name, nb)
				if nb.Status.LastHandledReissueAt != "once" {
					return errors.New("it is not handled")
				}
				return cluster.Absent(t.Context(), predecessor.Namespace, predecessor.Name, &corev1.Secret{})
			})
		})
	}
}

// strayToken returns a token in the operator's group that no NodeBootstrap owns.
func strayToken(id string, edit func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName(id)},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey:               id,
			bootstrapapi.BootstrapTokenSecretKey:           "0123456789abcdef",
			bootstrapapi.BootstrapTokenExpirationKey:       "2099-01-01T00:00:00Z",
			bootstrapapi.BootstrapTokenUsageAuthentication: "true",
			bootstrapapi.BootstrapTokenExtraGroupsKey:      token.Group,
		},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func labelled(s *corev1.Secret) {
	s.Labels = map[string]string{owned.ManagedByLabel: owned.ManagedBy}
}

// A token with the operator's label and in its group, such as a compromised operator can create, was never deleted when it
// named no node.
func TestStrayTokensOfOursAreDeleted(t *testing.T) {
	for id, edit := range map[string]func(*corev1.Secret){
		"stray1": labelled,
		"stray2": func(s *corev1.Secret) {
			labelled(s)
			s.StringData[bootstrapapi.BootstrapTokenExtraGroupsKey] = "system:bootstrappers:else," + token.ClusterWideGroup
		},
		"stray3": func(s *corev1.Secret) {
			labelled(s)
			s.Annotations = map[string]string{owned.NodeNameAnnotation: "stray-node"}
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "stray", UID: "1", Controller: new(true)}}
		},
		"stray4": func(s *corev1.Secret) {
			labelled(s)
			s.Annotations = map[string]string{owned.NodeNameAnnotation: "stray-node"}
		},
	} {
		s := strayToken(id, edit)
		cluster.Create(t, s)
		env.Eventually(t, "the end of "+id, func() error { return cluster.Absent(t.Context(), s.Namespace, s.Name, &corev1.Secret{}) })
	}
}

// A token without the label belongs to someone else: it is counted, and left alone. CSRs that are sent with it are not
// approved.
func TestForeignTokensAreReported(t *testing.T) {
	foreign := strayToken("strang", nil)
	cluster.Create(t, foreign)
	other := strayToken("others", func(s *corev1.Secret) {
		labelled(s)
		s.StringData[bootstrapapi.BootstrapTokenExtraGroupsKey] = "system:bootstrappers:kubeadm:default-node-token"
	})
	cluster.Create(t, other)
	env.Eventually(t, "the metric", func() error { return hasGauge("nodebootstrap_foreign_tokens", 1) })

	const name = "foreign-token-asks"
	cluster.Create(t, cluster.NodeBootstrap(name))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	token := string(theToken(t, name).Data[bootstrapapi.BootstrapTokenIDKey]) + "." + string(theToken(t, name).Data[bootstrapapi.BootstrapTokenSecretKey])
	stolen := strings.ReplaceAll(string(kubeconfig), token, "strang.0123456789abcdef")
	request := send(t, []byte(stolen), kubeletSpec(t, name, newKey(t)))
	reconciled(t, name)
	waitCondition(t, ask(t, kubeconfig, name, newKey(t)), certificatesv1.CertificateApproved)
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Errorf("a request that was sent with a foreign token is decided: %+v", request.Status.Conditions)
	}
	for _, s := range []*corev1.Secret{foreign, other} {
		version := s.ResourceVersion
		cluster.Get(t, s.Namespace, s.Name, s)
		if s.ResourceVersion != version {
			t.Errorf("%s was written", s.Name)
		}
	}
	cluster.Delete(t, foreign.DeepCopy())
	env.Eventually(t, "the metric", func() error { return hasGauge("nodebootstrap_foreign_tokens", 0) })
}

// hasGauge returns an error unless a gauge without labels has a value.
func hasGauge(name string, want float64) error {
	families, err := metrics.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if f.GetName() == name && f.GetMetric()[0].GetGauge().GetValue() == want {
			return nil
		} else if f.GetName() == name {
			return fmt.Errorf("%s is %v, want %v", name, f.GetMetric()[0].GetGauge().GetValue(), want)
		}
	}
	return fmt.Errorf("there is no %s", name)
}
