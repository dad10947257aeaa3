// SPDX-License-Identifier: Apache-2.0

package token_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestTokenRepaired(t *testing.T) {
	tests := map[string]struct {
		edit   func(*corev1.Secret)
		differ bool
	}{
		"unchanged": {func(*corev1.Secret) {}, false},
		"a farther end": {func(s *corev1.Secret) {
			s.Data["expiration"] = []byte(nodetest.Now.Add(48 * time.Hour).Format(time.RFC3339))
		}, true},
		"no end":              {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"other groups":        {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:kubeadm") }, true},
		"signing too":         {func(s *corev1.Secret) { s.Data["usage-bootstrap-signing"] = []byte("true") }, true},
		"no authentication":   {func(s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("false") }, true},
		"another description": {func(s *corev1.Secret) { s.Data["description"] = []byte("mine") }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := nodetest.TokenSecret(1, time.Hour)
			tt.edit(s)
			tok, ok := token.Parse(s)
			if !ok {
				t.Fatal("it is no token")
			}
			nb := nodetest.NodeBootstrap()
			nb.Status = nodetest.StatusOf(1, time.Hour)
			tok.Expires = tok.WantExpires(nb, nodetest.Now)
			got := tok.Repaired(nb)
			if (got != nil) != tt.differ {
				t.Fatalf("got %v", got)
			}
			if got != nil && owned.Restored(got, nodetest.TokenSecret(1, time.Hour)) != nil {
				t.Errorf("it was changed: %v", got)
			}
		})
	}
}

func TestTokenRepairedFollowsTheSpec(t *testing.T) {
	nb := nodetest.NodeBootstrap()
	nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
	got := nodetest.Token(1, time.Hour).Repaired(nb)
	if got == nil || string(got.Data["auth-extra-groups"]) != token.Group+","+token.ClusterWideGroup {
		t.Errorf("got %v", got)
	}
}

// Another client edits the Secret of an old token: restoring it must not make the token look as if it was created for a reissue.
func TestRestoringATokenDoesNotRenewIt(t *testing.T) {
	nb := nodetest.NodeBootstrap()
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "again"}
	for name, have := range map[string]*corev1.Secret{"from before": nodetest.TokenSecret(1, nodetest.Young), "made for it": nodetest.TokenSecretOf(nb, 1, nodetest.Young)} {
		before := have.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
		have.Labels = nil
		parsed, _ := token.Parse(have)
		if got := parsed.Repaired(nb); got == nil || got.Annotations[v1alpha1.ReissueRequestedAtAnnotation] != before {
			t.Errorf("%s: restored as %v, but it was created for %q", name, got, before)
		}
	}
}

func TestTokenSecret(t *testing.T) {
	tests := map[string]struct {
		approval v1alpha1.Approval
		groups   string
	}{
		"by default":       {"", token.Group},
		"approval Node":    {v1alpha1.ApprovalNode, token.Group},
		"approval Manual":  {v1alpha1.ApprovalManual, token.Group},
		"approval of kube": {v1alpha1.ApprovalClusterWide, token.Group + "," + token.ClusterWideGroup},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nb := nodetest.NodeBootstrap()
			nb.Spec.ClientCertificate.Approval = tt.approval
			east := time.FixedZone("east", 3600)
			s := token.NewSecret(nb, "abc123", nodetest.Canary, nodetest.Now.In(east))
			want := map[string]string{
				"token-id": "abc123", "token-secret": nodetest.Canary, "expiration": "2026-03-04T05:06:07Z",
				"usage-bootstrap-authentication": "true", "auth-extra-groups": tt.groups,
				"description": "Lets the machine worker-1 join. Made by nodebootstrap.",
			}
			got := map[string]string{}
			for k, v := range s.Data {
				got[k] = string(v)
			}
			if !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if s.Namespace != "kube-system" || s.Name != "bootstrap-token-abc123" || s.Type != "bootstrap.kubernetes.io/token" {
				t.Errorf("it is %s/%s of type %s", s.Namespace, s.Name, s.Type)
			}
			if !owned.By(s, nb) || s.Labels[owned.ManagedByLabel] != owned.ManagedBy || s.Annotations[owned.NodeNameAnnotation] != nodetest.NodeName {
				t.Errorf("its metadata is %v", s.ObjectMeta)
			}
			for _, group := range token.TokenGroups(nb) {
				if err := bootstraputil.ValidateBootstrapGroupName(group); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestTokenRenewAt(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Minute, 24 * time.Hour, 8760 * time.Hour} {
		var moments []time.Duration
		for i := range 1000 {
			nb := nodetest.NodeBootstrap()
			nb.UID = types.UID(fmt.Sprintf("uid-%d", i))
			nb.Spec.Token.TTL = &metav1.Duration{Duration: ttl}
			made := token.Token{Created: nodetest.Now, Expires: nodetest.Now.Add(ttl)}
			at := made.RenewAt(nb).Sub(nodetest.Now)
			if at < ttl*2/3 || at > ttl*5/6 {
				t.Fatalf("a token that lives %s is renewed after %s", ttl, at)
			}
			if again := made.RenewAt(nb).Sub(nodetest.Now); again != at {
				t.Fatalf("the moment moves from %s to %s", at, again)
			}
			moments = append(moments, at)
		}
		// 1000 moments, each tenth of the sixth of the ttl gets about 100 of them.
		slices.Sort(moments)
		for tenth := range 10 {
			from := ttl*2/3 + time.Duration(tenth)*ttl/60
			n := 0
			for _, at := range moments {
				if at >= from && at < from+ttl/60 {
					n++
				}
			}
			if n < 60 || n > 140 {
				t.Errorf("with a ttl of %s, %d of 1000 tokens are renewed in the tenth number %d", ttl, n, tenth)
			}
		}
	}
}

func TestTokenWantExpires(t *testing.T) {
	const ttl = v1alpha1.DefaultTokenTTL
	in := func(d time.Duration) time.Time { return nodetest.Now.Add(d) }
	type times struct{ secret, status, want time.Time }
	tests := map[string]times{
		"unchanged":                            {in(time.Hour), in(time.Hour), in(time.Hour)},
		"put off":                              {in(2 * time.Hour), in(time.Hour), in(time.Hour)},
		"put off after it expired":             {in(2 * time.Hour), in(-time.Hour), in(-time.Hour)},
		"brought forward":                      {in(-time.Hour), in(time.Hour), in(time.Hour)},
		"taken out":                            {time.Time{}, in(time.Hour), in(time.Hour)},
		"the ttl is shorter now":               {in(ttl + time.Hour), in(ttl + time.Hour), in(ttl)},
		"the status does not know it":          {in(time.Hour), time.Time{}, in(time.Hour)},
		"put off, the status does not know":    {in(10 * ttl), time.Time{}, in(ttl)},
		"taken out, and the status knows not":  {time.Time{}, time.Time{}, in(ttl)},
		"it expired, and the status knows it":  {in(-time.Hour), in(-time.Hour), in(-time.Hour)},
		"it expired, the status does not know": {in(-time.Hour), time.Time{}, in(-time.Hour)},
		"a ttl ahead, the maximum":             {in(ttl), in(ttl), in(ttl)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nb := nodetest.NodeBootstrap()
			nb.Status.Token = &v1alpha1.TokenStatus{ID: nodetest.NthID(2), ExpirationTime: metav1.NewTime(in(30 * time.Minute))}
			if !tt.status.IsZero() {
				nb.Status.Token = &v1alpha1.TokenStatus{ID: nodetest.NthID(1), ExpirationTime: metav1.NewTime(tt.status)}
			}
			if got := (token.Token{ID: nodetest.NthID(1), Expires: tt.secret}).WantExpires(nb, nodetest.Now); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The policy nodebootstrap-cage-secrets rejects a token with a later expiration, also when the operator repairs one.
func TestTokenExpiresWithinAYearOfItsCreation(t *testing.T) {
	const year = 8760 * time.Hour
	in := func(d time.Duration) time.Time { return nodetest.Now.Add(d) }
	nb := nodetest.NodeBootstrap()
	nb.Spec.Token.TTL = &metav1.Duration{Duration: year}
	for name, tt := range map[string]struct{ created, secret, want time.Time }{
		"taken out of a new token":         {in(-time.Second), time.Time{}, in(year)},
		"taken out of an old token":        {in(-year / 2), time.Time{}, in(year/2 + 10*time.Minute)},
		"put off in an old token":          {in(-year / 2), in(2 * year), in(year/2 + 10*time.Minute)},
		"created by a clock that is ahead": {in(-5 * time.Minute), in(year), in(year)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (token.Token{ID: nodetest.NthID(1), Created: tt.created, Expires: tt.secret}).WantExpires(nb, nodetest.Now); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestStray(t *testing.T) {
	groups := func(text string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte(text) }
	}
	bare := func(s *corev1.Secret) { s.Labels, s.Annotations, s.OwnerReferences = nil, nil, nil }
	tests := map[string]struct {
		edit func(*corev1.Secret)
		want bool
	}{
		"unchanged":               {func(*corev1.Secret) {}, false},
		"no label":                {func(s *corev1.Secret) { s.Labels = nil }, false},
		"no annotation":           {func(s *corev1.Secret) { s.Annotations = nil }, false},
		"no owner":                {func(s *corev1.Secret) { s.OwnerReferences = nil }, false},
		"no owner, no label":      {func(s *corev1.Secret) { s.OwnerReferences, s.Labels = nil, nil }, true},
		"no owner, no annotation": {func(s *corev1.Secret) { s.OwnerReferences, s.Annotations = nil, nil }, true},
		"another kind of owner":   {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "ConfigMap" }, true},
		"nothing":                 {bare, true},
		"nothing, cluster-wide":   {func(s *corev1.Secret) { bare(s); groups("system:bootstrappers:a," + token.ClusterWideGroup)(s) }, true},
		"nothing, another group":  {func(s *corev1.Secret) { bare(s); groups(token.Group + "2")(s) }, false},
		"nothing, a space":        {func(s *corev1.Secret) { bare(s); groups(" " + token.Group)(s) }, false},
		"nothing, another type":   {func(s *corev1.Secret) { bare(s); s.Type = corev1.SecretTypeOpaque }, false},
		"another namespace":       {func(s *corev1.Secret) { bare(s); s.Namespace = metav1.NamespaceDefault }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := nodetest.TokenSecret(1, nodetest.Young)
			tt.edit(s)
			if got := token.Stray(s); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestNormalReissue(t *testing.T) {
	long := strings.Repeat("x", 129)
	sum := sha256.Sum256([]byte(long))
	for value, want := range map[string]string{
		"":                       "",
		"2026-01-01T00:00:00Z":   "2026-01-01T00:00:00Z",
		strings.Repeat("x", 128): strings.Repeat("x", 128),
		long:                     fmt.Sprintf("SHA256:%x", sum),
	} {
		if got := token.NormalReissue(value); got != want || token.NormalReissue(got) != got {
			t.Errorf("%.20s: got %q, want %q, and of that %q", value, got, want, token.NormalReissue(got))
		}
	}
	if a, b := token.NormalReissue(strings.Repeat("x", 1000)), token.NormalReissue(strings.Repeat("x", 1001)); a == b {
		t.Error("two long requests count as the same")
	}
}
