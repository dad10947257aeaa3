// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func digested(s *corev1.Secret) *corev1.Secret {
	s.Data = Digest(s.Data)
	return s
}

// Of a kubeconfig the token is kept, and whether the rest is as it should be.
func TestDigest(t *testing.T) {
	s := kubeconfigSecret(1)
	s.Data[CAKey] = bytes.Repeat([]byte("x"), 10_000)
	d := digested(s.DeepCopy())
	if !Carries(d, token(1, 0)) || Carries(d, token(2, 0)) {
		t.Error("it does not tell which token is carried")
	}
	if text := RedactSecrets(errors.New("a webhook shows "+canary), d).Error(); strings.Contains(text, canary) {
		t.Errorf("the token in it is not taken out of %q", text)
	}
	if size := len(d.Data[digestKey]); len(d.Data) != 1 || size > 100 {
		t.Errorf("%d bytes are kept", size)
	}
	if again := Digest(d.Data); !reflect.DeepEqual(again, d.Data) {
		t.Error("the digest of the digest is another one")
	}
	other := kubeconfigSecret(1)
	other.Data = map[string][]byte{"config": other.Data[KubeconfigKey]}
	if Carries(digested(other), token(1, 0)) {
		t.Error("a token under another key counts")
	}
}

// Looking for dots first finds what the expression alone does.
func TestFindTokens(t *testing.T) {
	text := rapid.SliceOfN(rapid.SampledFrom([]string{"abcdef", "0123456789abcdef", ".", ".", " ", "x", "-", "\n", nthID(1) + "." + canary}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Join(text.Draw(t, "text"), "")
		all := func(found [][][]byte) (out []string) {
			for _, m := range found {
				out = append(out, fmt.Sprintf("%s with %s", m[0], m[1]))
			}
			return out
		}
		if got, want := all(findTokens([]byte(s), 100)), all(tokenInText.FindAllSubmatch([]byte(s), -1)); !slices.Equal(got, want) {
			t.Fatalf("in %q it finds %q, want %q", s, got, want)
		}
	})
}

// Whatever is moved between keys and values, two contents have two digests.
func TestDigestTellsContentsApart(t *testing.T) {
	content := rapid.MapOfN(rapid.StringMatching(`[a-c=".\n]{0,3}`), rapid.SliceOfN(rapid.SampledFrom([]byte("ab=\"\n\\")), 0, 3), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		a, b := content.Draw(t, "a"), content.Draw(t, "b")
		same := bytes.Equal(Digest(a)[digestKey], Digest(b)[digestKey])
		if want := maps.EqualFunc(a, b, bytes.Equal); same != want {
			t.Fatalf("%q and %q have the same digest: %v", a, b, same)
		}
	})
}

// A value that is written as what the digest is made of is not taken for the entries that it imitates.
func TestDigestIsNotImitated(t *testing.T) {
	text := rapid.StringMatching(`[ab]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		first, second := text.Draw(t, "the value of a"), text.Draw(t, "the value of b")
		separator := rapid.SampledFrom([]string{"", "\n"}).Draw(t, "between entries")
		sign := rapid.SampledFrom([]string{"=", ":", fmt.Sprintf("=%d:", len(second))}).Draw(t, "between key and value")
		two := map[string][]byte{"a": []byte(first), "b": []byte(second)}
		one := map[string][]byte{"a": []byte(first + separator + `"b"` + sign + second)}
		if bytes.Equal(Digest(one)[digestKey], Digest(two)[digestKey]) {
			t.Fatalf("%q and %q have the same digest", one, two)
		}
	})
}

// What the operator compares with a digest, it writes whole.
func TestRestoredKubeconfig(t *testing.T) {
	want := kubeconfigSecret(1)
	if got := RestoredKubeconfig(digested(kubeconfigSecret(1)), want); got != nil {
		t.Errorf("one that is as it should be is written: %v", got)
	}
	for what, edit := range map[string]func(*corev1.Secret){
		"another server": func(s *corev1.Secret) { s.Data[KubeconfigKey] = append(s.Data[KubeconfigKey], '#') },
		"another CA":     func(s *corev1.Secret) { s.Data[CAKey] = []byte("x") },
		"another key":    func(s *corev1.Secret) { s.Data["x"] = nil },
		"no data":        func(s *corev1.Secret) { s.Data = nil },
		"no label":       func(s *corev1.Secret) { s.Labels = nil },
	} {
		have := kubeconfigSecret(1)
		edit(have)
		if got := RestoredKubeconfig(digested(have), want); got == nil || !reflect.DeepEqual(got.Data, want.Data) {
			t.Errorf("%s: got %v", what, got)
		}
	}
}

// A kubeconfig out of the template is, byte by byte, what clientcmd writes; also where the token is a number in YAML, or the
// server has the name of the token in the template.
func TestKubeconfigIsWhatClientcmdWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SampledFrom([]string{"[0-9]", "[0-9e]", "[a-z0-9]"}).Draw(t, "letters")
		id, part := rapid.StringMatching(letters+"{6}").Draw(t, "id"), rapid.StringMatching(letters+"{16}").Draw(t, "part")
		host := rapid.SampledFrom([]string{"api.example.com", "aaaaaa.aaaaaaaaaaaaaaaa", id + "." + part + ".example"}).Draw(t, "host")
		cluster, problem := ResolveCluster(v1alpha1.ClusterSpec{Server: "https://" + host, CABundle: string(goodCA())}, ClusterSources{}, now)
		if problem != nil || cluster.template == nil {
			t.Fatalf("there is no template: %v", problem)
		}
		got := must(Kubeconfig(cluster, Token{ID: id, Secret: NewSecretPart(part)}))
		if want := must(renderKubeconfig(cluster, id+"."+part)); !bytes.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if loaded := must(clientcmd.RESTConfigFromKubeConfig(got)); loaded.BearerToken != id+"."+part || loaded.Host != "https://"+host {
			t.Fatalf("a kubelet reads the token %s and the server %s", loaded.BearerToken, loaded.Host)
		}
	})
}
