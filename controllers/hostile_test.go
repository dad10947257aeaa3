// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	certutil "k8s.io/client-go/util/cert"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// addForeign adds 3,000 labels and an annotation, as admission policies do, though fewer.
func addForeign(o client.Object) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	for i := range 3000 {
		labels[fmt.Sprintf("policy.example.com/label-%d-%s", i, strings.Repeat("n", 40))] = strings.Repeat("v", 63)
	}
	annotations["policy.example.com/annotation"] = "a"
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}

func checkForeign(o client.Object) error {
	want := &metav1.PartialObjectMetadata{}
	addForeign(want)
	for _, m := range [][2]map[string]string{{want.Labels, o.GetLabels()}, {want.Annotations, o.GetAnnotations()}} {
		for key, value := range m[0] {
			if m[1][key] != value {
				return fmt.Errorf("%T %s has lost %s; it has %d labels and the annotations %v", o, o.GetName(), key, len(o.GetLabels()), o.GetAnnotations())
			}
		}
	}
	if _, marked := o.GetAnnotations()["nodebootstrap.io/partial"]; marked {
		return fmt.Errorf("%T %s has the annotation of partial objects in the cache", o, o.GetName())
	}
	return nil
}

// Labels of others do not prevent a join, and a verdict does not erase them, although the API server stores the metadata that
// is sent with it.
func TestVerdictsKeepWhatOthersAdded(t *testing.T) {
	for name, tt := range map[string]struct {
		asked   string
		verdict certificatesv1.RequestConditionType
		reason  string
	}{
		"labelled-approved": {"labelled-approved", certificatesv1.CertificateApproved, csr.ReasonKubeletClient},
		"labelled-denied":   {"another", certificatesv1.CertificateDenied, csr.ReasonWrongSubject},
	} {
		t.Run(name, func(t *testing.T) {
			cluster.Create(t, cluster.NodeBootstrap(name))
			_, kubeconfig := cluster.WaitAwaited(t, name)
			request := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"}, Spec: kubeletSpec(t, tt.asked, newKey(t))}
			addForeign(request)
			sendRequest(t, kubeconfig, request)
			if c := waitCondition(t, request, tt.verdict); c.Reason != tt.reason {
				t.Errorf("the verdict is %+v", c)
			}
			if err := checkForeign(request); err != nil {
				t.Error(err)
			}
		})
	}
}

// Repairs keep them, too.
func TestRepairsKeepWhatOthersAdded(t *testing.T) {
	const name = "labelled"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	for what, secret := range map[string]*corev1.Secret{"token": theToken(t, name), "kubeconfig": kubeconfigSecret(t, name)} {
		before := secret.DeepCopy()
		env.Change(t, cluster, secret, func(s *corev1.Secret) {
			addForeign(s)
			s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(strings.Repeat("edited", 100_000))
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"})
		})
		env.Eventually(t, "the repair of the "+what, func() error {
			cluster.Get(t, secret.Namespace, secret.Name, secret)
			if got, want := string(secret.Data[bootstrapapi.BootstrapTokenDescriptionKey]), string(before.Data[bootstrapapi.BootstrapTokenDescriptionKey]); got != want {
				return fmt.Errorf("got %d bytes instead of %q", len(got), want)
			}
			if len(secret.OwnerReferences) != 1 || secret.UID != before.UID {
				return fmt.Errorf("the owners of %s are %v", secret.UID, secret.OwnerReferences)
			}
			return checkForeign(secret)
		})
	}

	var binding rbacv1.ClusterRoleBinding
	cluster.Get(t, "", rbac.BindingCreateCSRs, &binding)
	env.Change(t, cluster, &binding, func(b *rbacv1.ClusterRoleBinding) {
		addForeign(b)
		b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "x"})
	})
	env.Eventually(t, "the repair of the binding", func() error {
		cluster.Get(t, "", binding.Name, &binding)
		if len(binding.Subjects) != 1 {
			return fmt.Errorf("its subjects are %v", binding.Subjects)
		}
		return checkForeign(&binding)
	})
}

// An annotation can have 256 KiB with its key. A copy did not fit next to the other annotations of the token's Secret, so the
// node no longer got a credential (WriteFailed).
func TestVeryLongReissueRequest(t *testing.T) {
	const name = "long-reissue"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, _ := cluster.WaitAwaited(t, name)
	for _, character := range []string{"x", "y"} {
		value := strings.Repeat(character, 262_100)
		env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
			nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: value}
		})
		want := token.NormalReissue(value)
		env.Eventually(t, "the reissue", func() error {
			cluster.Get(t, "", name, nb)
			if nb.Status.LastHandledReissueAt != want || nb.Status.Token == nil || nb.Status.Token.ID == before.Status.Token.ID {
				return fmt.Errorf("the status is %.1000v", nb.Status)
			}
			return env.HasReady(nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
		})
		secret := theToken(t, name)
		if got := secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation]; got != want || secret.Name != token.SecretName(nb.Status.Token.ID) {
			t.Errorf("the token %s was created for %.100q, want %q", secret.Name, got, want)
		}
		before = nb.DeepCopy()
	}
}

// A NodeBootstrap can have very many labels and annotations: they stay, and the API server's responses, which have all of them,
// do not modify the cached object.
func TestNodeBootstrapKeepsWhatOthersAdded(t *testing.T) {
	const name = "labelled-nodebootstrap"
	nb := cluster.NodeBootstrap(name)
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "once"}
	addForeign(nb)
	cluster.Create(t, nb)
	env.Eventually(t, "the credential", func() error {
		cluster.Get(t, "", name, nb)
		var handled error
		if nb.Status.LastHandledReissueAt != "once" {
			handled = errors.New("the reissue is not handled")
		}
		return errors.Join(handled, checkForeign(nb), env.HasReady(nb, metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode))
	})
}

// The CA of a large NodeBootstrap is not in the cache, but is still published, instead of a discovered one.
func TestCAOfALargeNodeBootstrapIsPublished(t *testing.T) {
	const name = "large-with-a-ca"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.Cluster.CABundle = string(anotherCA(t))
	nb.Labels = map[string]string{}
	for i := range 3000 {
		nb.Labels[fmt.Sprintf("example.com/label-%d", i)] = strings.Repeat("x", 40)
	}
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	cfg, err := clientcmd.Load(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(cfg.Clusters["kubernetes"].CertificateAuthorityData); strings.TrimSpace(got) != strings.TrimSpace(nb.Spec.Cluster.CABundle) {
		t.Errorf("the kubeconfig has the CA %q", got)
	}
}

func anotherCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "another"}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
}
