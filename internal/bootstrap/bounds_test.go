// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestNormalReissue(t *testing.T) {
	long := strings.Repeat("x", 129)
	sum := sha256.Sum256([]byte(long))
	for value, want := range map[string]string{
		"":                       "",
		"2026-01-01T00:00:00Z":   "2026-01-01T00:00:00Z",
		strings.Repeat("x", 128): strings.Repeat("x", 128),
		long:                     fmt.Sprintf("SHA256:%x", sum),
	} {
		if got := NormalReissue(value); got != want || NormalReissue(got) != got {
			t.Errorf("%.20s: got %q, want %q, and of that %q", value, got, want, NormalReissue(got))
		}
	}
	if a, b := NormalReissue(strings.Repeat("x", 1000)), NormalReissue(strings.Repeat("x", 1001)); a == b {
		t.Error("two long requests are taken for the same")
	}
}

// A long value that an earlier version has stored as it was is not taken for another request.
func TestLongReissueOfAnEarlierVersion(t *testing.T) {
	long := strings.Repeat("x", 1000)
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.ReissueRequestedAtAnnotation: long}}}
	nb.Status.LastHandledReissueAt = long
	if f := (Facts{NodeBootstrap: nb}); f.reissueDue() {
		t.Error("it is taken for another request")
	}
	secret := TokenSecret(nb, "abcdef", "0123456789abcdef", time.Unix(1, 0))
	if got := secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation]; got != NormalReissue(long) {
		t.Errorf("the token was made for %.100q", got)
	}
	secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = long
	if token, _ := ParseToken(secret); !token.madeFor(nb) {
		t.Error("its token is not taken for the one that was asked for")
	}
}

// Of a CA that is too large nothing is published, wherever it comes from, and whoever can fix it is told.
func TestVeryLargeClusterFacts(t *testing.T) {
	one := string(goodCA()) // not two of them are of the same length
	ca := strings.Repeat(one, 1+MaxCABytes/len(one))
	const server = "https://api.example.com:6443"
	for what, tt := range map[string]struct {
		spec    v1alpha1.ClusterSpec
		sources ClusterSources
		says    []string
	}{
		"spec":         {v1alpha1.ClusterSpec{CABundle: ca}, ClusterSources{}, []string{fromSpecCA, "64 KiB"}},
		"flag":         {v1alpha1.ClusterSpec{}, ClusterSources{FlagCA: []byte(ca)}, []string{fromFlagCA, "64 KiB"}},
		"root CA":      {v1alpha1.ClusterSpec{}, ClusterSources{RootCA: ca}, []string{fromRootCA, "64 KiB"}},
		"root CA, cut": {v1alpha1.ClusterSpec{}, ClusterSources{RootCA: ca[:MaxCABytes+1]}, []string{fromRootCA, "64 KiB"}},
		"cluster-info": {v1alpha1.ClusterSpec{}, ClusterSources{ClusterInfo: strings.Repeat("#", MaxClusterInfoBytes+1)}, []string{fromClusterInfo, "256 KiB"}},
	} {
		tt.spec.Server = server
		_, problem := ResolveCluster(tt.spec, tt.sources, now)
		if problem == nil {
			t.Errorf("%s: there is no problem", what)
			continue
		}
		for _, text := range tt.says {
			if !strings.Contains(problem.Message, text) {
				t.Errorf("%s: %s does not say %q", what, problem.Message, text)
			}
		}
	}
}

// A digest is small, and is found soon, whatever is in the Secret.
func TestDigestIsBounded(t *testing.T) {
	for what, content := range map[string]string{
		"tokens":      strings.Repeat("abcdef.0123456789abcdef\n", 40_000),
		"dots":        strings.Repeat(".", 1<<20),
		"almost dots": strings.Repeat("a.", 1<<19),
	} {
		digest := Digest(map[string][]byte{KubeconfigKey: []byte(content)})
		if n := len(fmt.Sprint(digest)); n > 4096 {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
}
