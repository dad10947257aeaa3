// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestKubeconfigIsAsItAlwaysWas(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: []byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")}
	got := nodetest.Must(kubeconfig.Render(cluster, token.Token{ID: "abc123", Secret: token.NewSecretPart("0123456789abcdef")}))
	golden := filepath.Join("testdata", "kubeconfig.golden")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := nodetest.Must(os.ReadFile(golden)); !bytes.Equal(got, want) {
		t.Errorf("nodes would get another file than before; if that is intended, run go test -update. Got\n%swant\n%s", got, want)
	}
}

// A kubelet reads from the file what the operator put in.
func TestKubeconfigLoads(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: goodCA()}
	config, err := clientcmd.RESTConfigFromKubeConfig(nodetest.Must(kubeconfig.Render(cluster, nodetest.Token(1, 0))))
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != nodetest.Server || !bytes.Equal(config.CAData, cluster.CA) || config.BearerToken != nodetest.NthID(1)+"."+nodetest.Canary {
		t.Errorf("got host %s, token %s and CA\n%s", config.Host, config.BearerToken, config.CAData)
	}
	if config.Insecure || config.Username != "" || config.CertData != nil || config.Impersonate.UserName != "" {
		t.Error("the file contains more than endpoint, CA and token")
	}
}

func TestKubeconfigSecret(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: goodCA()}
	s := nodetest.Must(kubeconfig.NewSecret(nodetest.NodeBootstrap(), nodetest.Namespace, cluster, nodetest.Token(1, 0)))
	if s.Namespace != nodetest.Namespace || s.Name != "bootstrap-kubeconfig-worker-1" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("it is %s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if len(s.Data) != 2 || !bytes.Equal(s.Data["ca.crt"], cluster.CA) || !bytes.Equal(s.Data["kubeconfig"], nodetest.Must(kubeconfig.Render(cluster, nodetest.Token(1, 0)))) {
		t.Error("its data is not exactly the kubeconfig and the CA")
	}
	if !owned.Ours(s, nodetest.NodeName) || !owned.By(s, nodetest.NodeBootstrap()) {
		t.Errorf("its owner is %v", s.OwnerReferences)
	}
	if owner := s.OwnerReferences[0]; owner.BlockOwnerDeletion != nil || owner.APIVersion != "nodebootstrap.io/v1alpha1" {
		t.Errorf("its owner is %v", owner)
	}
}

// A kubeconfig from the template is, byte for byte, the output of clientcmd; also if the token is a number in YAML, or the server has the
// name of the token in the template.
func TestKubeconfigIsWhatClientcmdWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SampledFrom([]string{"[0-9]", "[0-9e]", "[a-z0-9]"}).Draw(t, "letters")
		id, part := rapid.StringMatching(letters+"{6}").Draw(t, "id"), rapid.StringMatching(letters+"{16}").Draw(t, "part")
		host := rapid.SampledFrom([]string{"api.example.com", "aaaaaa.aaaaaaaaaaaaaaaa", id + "." + part + ".example"}).Draw(t, "host")
		cluster, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: "https://" + host, CABundle: string(goodCA())}, kubeconfig.Sources{}, nodetest.Now)
		if problem != nil || cluster.Template() == nil {
			t.Fatalf("no template: %v", problem)
		}
		got := nodetest.Must(kubeconfig.Render(cluster, token.Token{ID: id, Secret: token.NewSecretPart(part)}))
		if want := nodetest.Must(kubeconfig.Marshal(cluster, id+"."+part)); !bytes.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if loaded := nodetest.Must(clientcmd.RESTConfigFromKubeConfig(got)); loaded.BearerToken != id+"."+part || loaded.Host != "https://"+host {
			t.Fatalf("a kubelet reads the token %s and the server %s", loaded.BearerToken, loaded.Host)
		}
	})
}

func BenchmarkKubeconfigSecret(b *testing.B) {
	spec := v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(goodCA())}
	resolved, _ := kubeconfig.Resolve(spec, kubeconfig.Sources{}, nodetest.Now)
	for name, cluster := range map[string]kubeconfig.Cluster{"rendered": {Server: nodetest.Server, CA: goodCA()}, "from the template": resolved} {
		b.Run(name, func(b *testing.B) {
			nb, t := nodetest.NodeBootstrap(), nodetest.Token(1, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := kubeconfig.NewSecret(nb, nodetest.Namespace, cluster, t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func digested(s *corev1.Secret) *corev1.Secret {
	s.Data = kubeconfig.Digest(s.Data)
	return s
}

// The digest keeps the kubeconfig's token, and shows whether the rest is as wanted.
func TestDigest(t *testing.T) {
	s := nodetest.KubeconfigSecret(1)
	s.Data[kubeconfig.CAKey] = bytes.Repeat([]byte("x"), 10_000)
	d := digested(s.DeepCopy())
	if !kubeconfig.Carries(d, nodetest.Token(1, 0)) || kubeconfig.Carries(d, nodetest.Token(2, 0)) {
		t.Error("it does not show which token the kubeconfig contains")
	}
	if text := kubeconfig.RedactSecrets(errors.New("a webhook shows "+nodetest.Canary), d).Error(); strings.Contains(text, nodetest.Canary) {
		t.Errorf("the token in it is not removed from %q", text)
	}
	if size := len(d.Data[kubeconfig.DigestKey]); len(d.Data) != 1 || size > 100 {
		t.Errorf("%d bytes are kept", size)
	}
	if again := kubeconfig.Digest(d.Data); !reflect.DeepEqual(again, d.Data) {
		t.Error("the digest of the digest is another one")
	}
	other := nodetest.KubeconfigSecret(1)
	other.Data = map[string][]byte{"config": other.Data[kubeconfig.Key]}
	if kubeconfig.Carries(digested(other), nodetest.Token(1, 0)) {
		t.Error("a token under another key counts")
	}
}

// Two different contents have two digests, whatever is moved between keys and values.
func TestDigestDistinguishesContents(t *testing.T) {
	content := rapid.MapOfN(rapid.StringMatching(`[a-c=".\n]{0,3}`), rapid.SliceOfN(rapid.SampledFrom([]byte("ab=\"\n\\")), 0, 3), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		a, b := content.Draw(t, "a"), content.Draw(t, "b")
		same := bytes.Equal(kubeconfig.Digest(a)[kubeconfig.DigestKey], kubeconfig.Digest(b)[kubeconfig.DigestKey])
		if want := maps.EqualFunc(a, b, bytes.Equal); same != want {
			t.Fatalf("%q and %q have the same digest: %v", a, b, same)
		}
	})
}

// A value that imitates the digest's own input format is not taken for the entries that it imitates.
func TestDigestIsNotImitated(t *testing.T) {
	text := rapid.StringMatching(`[ab]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		first, second := text.Draw(t, "the value of a"), text.Draw(t, "the value of b")
		separator := rapid.SampledFrom([]string{"", "\n"}).Draw(t, "between entries")
		sign := rapid.SampledFrom([]string{"=", ":", fmt.Sprintf("=%d:", len(second))}).Draw(t, "between key and value")
		two := map[string][]byte{"a": []byte(first), "b": []byte(second)}
		one := map[string][]byte{"a": []byte(first + separator + `"b"` + sign + second)}
		if bytes.Equal(kubeconfig.Digest(one)[kubeconfig.DigestKey], kubeconfig.Digest(two)[kubeconfig.DigestKey]) {
			t.Fatalf("%q and %q have the same digest", one, two)
		}
	})
}

// The operator compares with a digest, but writes the complete content.
func TestRestoredKubeconfig(t *testing.T) {
	want := nodetest.KubeconfigSecret(1)
	if got := kubeconfig.Restored(digested(nodetest.KubeconfigSecret(1)), want); got != nil {
		t.Errorf("an unchanged one is written: %v", got)
	}
	for what, edit := range map[string]func(*corev1.Secret){
		"another server": func(s *corev1.Secret) { s.Data[kubeconfig.Key] = append(s.Data[kubeconfig.Key], '#') },
		"another CA":     func(s *corev1.Secret) { s.Data[kubeconfig.CAKey] = []byte("x") },
		"another key":    func(s *corev1.Secret) { s.Data["x"] = nil },
		"no data":        func(s *corev1.Secret) { s.Data = nil },
		"no label":       func(s *corev1.Secret) { s.Labels = nil },
	} {
		have := nodetest.KubeconfigSecret(1)
		edit(have)
		if got := kubeconfig.Restored(digested(have), want); got == nil || !reflect.DeepEqual(got.Data, want.Data) {
			t.Errorf("%s: got %v", what, got)
		}
	}
}

// A digest is small and fast, whatever is in the Secret.
func TestDigestIsBounded(t *testing.T) {
	for what, content := range map[string]string{
		"tokens":      strings.Repeat("abcdef.0123456789abcdef\n", 40_000),
		"dots":        strings.Repeat(".", 1<<20),
		"almost dots": strings.Repeat("a.", 1<<19),
	} {
		digest := kubeconfig.Digest(map[string][]byte{kubeconfig.Key: []byte(content)})
		if n := len(fmt.Sprint(digest)); n > 4096 {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
}

func TestCarries(t *testing.T) {
	tests := map[string]struct {
		secret *corev1.Secret
		want   bool
	}{
		"the token":         {nodetest.KubeconfigSecret(1), true},
		"another token":     {nodetest.KubeconfigSecret(2), false},
		"another part":      {&corev1.Secret{Data: map[string][]byte{kubeconfig.Key: []byte("token: " + nodetest.NthID(1) + ".other00000000000")}}, false},
		"no Secret":         {nil, false},
		"no data":           {&corev1.Secret{}, false},
		"under another key": {&corev1.Secret{Data: map[string][]byte{"config": nodetest.KubeconfigSecret(1).Data[kubeconfig.Key]}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := kubeconfig.Carries(tt.secret, nodetest.Token(1, 0)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestImmovable(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"unchanged":                         {func(*corev1.Secret) {}, false},
		"mutable":                           {func(s *corev1.Secret) { s.Immutable = new(false) }, false},
		"immutable, and right":              {func(s *corev1.Secret) { s.Immutable = new(true) }, false},
		"immutable, and right, as a digest": {func(s *corev1.Secret) { s.Immutable, s.Data = new(true), kubeconfig.Digest(s.Data) }, false},
		"immutable, and wrong":              {func(s *corev1.Secret) { s.Immutable, s.Data[kubeconfig.CAKey] = new(true), nil }, true},
		"another type":                      {func(s *corev1.Secret) { s.Type = corev1.SecretTypeTLS }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := nodetest.KubeconfigSecret(1)
			tt.edit(have)
			if got := kubeconfig.Immovable(have, nodetest.KubeconfigSecret(1)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// A webhook that rejects a deletion sees the deleted object, and its answer went into the log and the status.
func TestSecretsAreRedactedFromTheRefusalOfADeletion(t *testing.T) {
	for _, secret := range []*corev1.Secret{nodetest.TokenSecret(1, 0), nodetest.KubeconfigSecret(1)} {
		refused := errors.New("a webhook refuses " + string(nodetest.Must(json.Marshal(secret))) + " with " + nodetest.Canary)
		nodetest.Leaks(t, secret.Name, kubeconfig.RedactSecrets(refused, nil, secret).Error())
	}
}

// BenchmarkRestored compares an unchanged Secret, which every reconcile does.
func BenchmarkRestored(b *testing.B) {
	have, want := digested(nodetest.KubeconfigSecret(1)), nodetest.KubeconfigSecret(1)
	b.ReportAllocs()
	for b.Loop() {
		if kubeconfig.Restored(have, want) != nil {
			b.Fatal("they differ")
		}
	}
}
