// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestKubeconfigIsAsItAlwaysWas(t *testing.T) {
	cluster := Cluster{Server: testServer, CA: []byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")}
	got := must(Kubeconfig(cluster, Token{ID: "abc123", Secret: NewSecretPart("0123456789abcdef")}))
	golden := filepath.Join("testdata", "kubeconfig.golden")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := must(os.ReadFile(golden)); !bytes.Equal(got, want) {
		t.Errorf("nodes would be given another file than before; if that is meant, run go test -update. Got\n%swant\n%s", got, want)
	}
}

// What a kubelet reads from the file is what went in.
func TestKubeconfigLoads(t *testing.T) {
	cluster := Cluster{Server: testServer, CA: goodCA()}
	config, err := clientcmd.RESTConfigFromKubeConfig(must(Kubeconfig(cluster, token(1, 0))))
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != testServer || !bytes.Equal(config.CAData, cluster.CA) || config.BearerToken != nthID(1)+"."+canary {
		t.Errorf("got host %s, token %s and CA\n%s", config.Host, config.BearerToken, config.CAData)
	}
	if config.Insecure || config.Username != "" || config.CertData != nil || config.Impersonate.UserName != "" {
		t.Error("the file says more than endpoint, CA and token")
	}
}

func TestKubeconfigSecret(t *testing.T) {
	cluster := Cluster{Server: testServer, CA: goodCA()}
	s := must(KubeconfigSecret(nodeBootstrap(), testNamespace, cluster, token(1, 0)))
	if s.Namespace != testNamespace || s.Name != "bootstrap-kubeconfig-worker-1" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("it is %s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if len(s.Data) != 2 || !bytes.Equal(s.Data["ca.crt"], cluster.CA) || !bytes.Equal(s.Data["kubeconfig"], must(Kubeconfig(cluster, token(1, 0)))) {
		t.Error("its data is not the kubeconfig and the CA alone")
	}
	if !Ours(s, testNode) || !ownedBy(s, nodeBootstrap()) {
		t.Errorf("its owner is %v", s.OwnerReferences)
	}
	if owner := s.OwnerReferences[0]; owner.BlockOwnerDeletion != nil || owner.APIVersion != "nodebootstrap.io/v1alpha1" {
		t.Errorf("its owner is %v", owner)
	}
}

func TestCarries(t *testing.T) {
	tests := map[string]struct {
		secret *corev1.Secret
		want   bool
	}{
		"the token":         {kubeconfigSecret(1), true},
		"another token":     {kubeconfigSecret(2), false},
		"another part":      {&corev1.Secret{Data: map[string][]byte{KubeconfigKey: []byte("token: " + nthID(1) + ".other00000000000")}}, false},
		"no Secret":         {nil, false},
		"no data":           {&corev1.Secret{}, false},
		"under another key": {&corev1.Secret{Data: map[string][]byte{"config": kubeconfigSecret(1).Data[KubeconfigKey]}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Carries(tt.secret, token(1, 0)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestRestored(t *testing.T) {
	tests := map[string]struct {
		edit    func(*corev1.Secret)
		differs bool
	}{
		"as it should be":      {func(*corev1.Secret) {}, false},
		"another's label":      {func(s *corev1.Secret) { s.Labels["team"] = "a" }, false},
		"another's annotation": {func(s *corev1.Secret) { s.Annotations["team"] = "a" }, false},
		"what the server adds": {func(s *corev1.Secret) {
			s.ResourceVersion, s.ManagedFields = "7", []metav1.ManagedFieldsEntry{{Manager: "x"}}
		}, false},
		"the kubeconfig edited":   {func(s *corev1.Secret) { s.Data[KubeconfigKey] = []byte("x") }, true},
		"the CA taken out":        {func(s *corev1.Secret) { delete(s.Data, CAKey) }, true},
		"another key":             {func(s *corev1.Secret) { s.Data["x"] = nil }, true},
		"no data":                 {func(s *corev1.Secret) { s.Data = nil }, true},
		"our label taken out":     {func(s *corev1.Secret) { s.Labels = nil }, true},
		"our label edited":        {func(s *corev1.Secret) { s.Labels[ManagedByLabel] = "helm" }, true},
		"our annotation out":      {func(s *corev1.Secret) { s.Annotations = nil }, true},
		"the node's name edited":  {func(s *corev1.Secret) { s.Annotations[NodeNameAnnotation] = "x" }, true},
		"no owner":                {func(s *corev1.Secret) { s.OwnerReferences = nil }, true},
		"a former owner":          {func(s *corev1.Secret) { s.OwnerReferences[0].UID = formerUID }, true},
		"another owner besides":   {func(s *corev1.Secret) { s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{UID: "x"}) }, true},
		"an owner, not in charge": {func(s *corev1.Secret) { s.OwnerReferences[0].Controller = nil }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want, have := kubeconfigSecret(1), kubeconfigSecret(1)
			have.Labels["mine"], have.Annotations["mine"] = "yes", "yes"
			tt.edit(have)
			before := have.DeepCopy()
			got := Restored(have, want)
			if (got != nil) != tt.differs {
				t.Fatalf("got %v", got)
			}
			if !reflect.DeepEqual(have, before) {
				t.Error("what was read has been changed: it may be in a cache")
			}
			if got == nil {
				return
			}
			if Restored(got, want) != nil {
				t.Error("what was restored is still not as it should be")
			}
			if have.Labels != nil && got.Labels["mine"] != "yes" || have.Annotations != nil && got.Annotations["mine"] != "yes" {
				t.Errorf("others' labels %v or annotations %v are gone", got.Labels, got.Annotations)
			}
		})
	}
}

func TestImmovable(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"as it was made":                    {func(*corev1.Secret) {}, false},
		"mutable":                           {func(s *corev1.Secret) { s.Immutable = new(false) }, false},
		"immutable, and right":              {func(s *corev1.Secret) { s.Immutable = new(true) }, false},
		"immutable, and right, as a digest": {func(s *corev1.Secret) { s.Immutable, s.Data = new(true), Digest(s.Data) }, false},
		"immutable, and wrong":              {func(s *corev1.Secret) { s.Immutable, s.Data[CAKey] = new(true), nil }, true},
		"another type":                      {func(s *corev1.Secret) { s.Type = corev1.SecretTypeTLS }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := kubeconfigSecret(1)
			tt.edit(have)
			if got := Immovable(have, kubeconfigSecret(1)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestTokenRepaired(t *testing.T) {
	tests := map[string]struct {
		edit   func(*corev1.Secret)
		differ bool
	}{
		"as it was made":      {func(*corev1.Secret) {}, false},
		"a farther end":       {func(s *corev1.Secret) { s.Data["expiration"] = []byte(now.Add(48 * time.Hour).Format(time.RFC3339)) }, true},
		"no end":              {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"other groups":        {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:kubeadm") }, true},
		"signing besides":     {func(s *corev1.Secret) { s.Data["usage-bootstrap-signing"] = []byte("true") }, true},
		"no authentication":   {func(s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("false") }, true},
		"another description": {func(s *corev1.Secret) { s.Data["description"] = []byte("mine") }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tokenSecret(1, time.Hour)
			tt.edit(s)
			tok, ok := ParseToken(s)
			if !ok {
				t.Fatal("it is no token")
			}
			nb := nodeBootstrap()
			nb.Status = statusOf(1, time.Hour)
			tok.Expires = tok.wantExpires(nb, now)
			got := tok.repaired(nb)
			if (got != nil) != tt.differ {
				t.Fatalf("got %v", got)
			}
			if got != nil && Restored(got, tokenSecret(1, time.Hour)) != nil {
				t.Errorf("it is not as it was made: %v", got)
			}
		})
	}
}

func TestTokenRepairedFollowsTheSpec(t *testing.T) {
	nb := nodeBootstrap()
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	got := token(1, time.Hour).repaired(nb)
	if got == nil || string(got.Data["auth-extra-groups"]) != Group+","+ClusterWideGroup {
		t.Errorf("got %v", got)
	}
}
