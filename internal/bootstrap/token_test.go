// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

func TestNextTokenID(t *testing.T) {
	first := NextTokenID(testUID, "")
	if again := NextTokenID(testUID, ""); again != first {
		t.Errorf("got %s and then %s: a second creation would make a second token", first, again)
	}
	if other := NextTokenID(formerUID, ""); other == first {
		t.Errorf("two NodeBootstraps share the id %s", first)
	}
	if next := NextTokenID(testUID, first); next == first {
		t.Errorf("the id %s follows itself", first)
	}
}

// The API server takes an id of another form for no token at all.
func TestNextTokenIDHasTheRightForm(t *testing.T) {
	id := ""
	for i := range 100_000 {
		id = NextTokenID(testUID, id)
		if !bootstraputil.IsValidBootstrapTokenID(id) {
			t.Fatalf("the id number %d is %q", i, id)
		}
	}
}

// Tokens of different nodes share one namespace: of 5,000 first ids none should be met twice, and hardly one of 20,000.
func TestNextTokenIDIsSpread(t *testing.T) {
	seen := map[string]bool{}
	for i := range 20_000 {
		seen[NextTokenID(types.UID(fmt.Sprintf("uid-%d", i)), "")] = true
	}
	if len(seen) < 19_998 {
		t.Errorf("there are only %d different ids", len(seen))
	}
}

func TestParseToken(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.Secret)
		ok   bool
	}{
		"as it was made":          {func(*corev1.Secret) {}, true},
		"another type":            {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, false},
		"a name of another token": {func(s *corev1.Secret) { s.Name = "bootstrap-token-zzzzzz" }, false},
		"another id":              {func(s *corev1.Secret) { s.Data["token-id"] = []byte("zzzzzz") }, false},
		"no id":                   {func(s *corev1.Secret) { delete(s.Data, "token-id") }, false},
		"an id in upper case": {func(s *corev1.Secret) {
			s.Data["token-id"] = []byte("ABCDEF")
			s.Name = "bootstrap-token-ABCDEF"
		}, false},
		"no secret part":         {func(s *corev1.Secret) { delete(s.Data, "token-secret") }, false},
		"a short secret part":    {func(s *corev1.Secret) { s.Data["token-secret"] = []byte("short") }, false},
		"a newline after it":     {func(s *corev1.Secret) { s.Data["token-secret"] = []byte(canary + "\n") }, false},
		"no data":                {func(s *corev1.Secret) { s.Data = nil }, false},
		"no expiration":          {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"an expiration in words": {func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }, true},
		"no usages and no groups": {func(s *corev1.Secret) {
			delete(s.Data, "usage-bootstrap-authentication")
			delete(s.Data, "auth-extra-groups")
		}, true},
		"an owner of another kind": {func(s *corev1.Secret) { s.OwnerReferences[0].Kind = "Machine" }, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := tokenSecret(1, time.Hour)
			tt.edit(s)
			got, ok := ParseToken(s)
			if ok != tt.ok {
				t.Fatalf("got %v, want %v", ok, tt.ok)
			}
			if ok && (got.ID != nthID(1) || got.Secret.Reveal() != canary || !got.Created.Equal(now.Add(-time.Hour)) || got.Object != s) {
				t.Errorf("got %s, made at %s", got, got.Created)
			}
			want, _ := time.Parse(time.RFC3339, string(s.Data["expiration"])) // zero when it does not say
			if !got.Expires.Equal(want) {
				t.Errorf("it expires at %s, want %s", got.Expires, want)
			}
		})
	}
}

func TestTokenSecret(t *testing.T) {
	tests := map[string]struct {
		approval v1alpha1.Approval
		groups   string
	}{
		"by default":       {"", Group},
		"approval Node":    {v1alpha1.ApprovalNode, Group},
		"approval Manual":  {v1alpha1.ApprovalManual, Group},
		"approval of kube": {v1alpha1.ApprovalClusterWide, Group + "," + ClusterWideGroup},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nb := nodeBootstrap()
			nb.Spec.ClientCertificate.Approval = tt.approval
			east := time.FixedZone("east", 3600)
			s := TokenSecret(nb, "abc123", canary, now.In(east))
			want := map[string]string{
				"token-id": "abc123", "token-secret": canary, "expiration": "2026-03-04T05:06:07Z",
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
			if !ownedBy(s, nb) || s.Labels[ManagedByLabel] != ManagedBy || s.Annotations[NodeNameAnnotation] != testNode {
				t.Errorf("its metadata is %v", s.ObjectMeta)
			}
			for _, group := range tokenGroups(nb) {
				if err := bootstraputil.ValidateBootstrapGroupName(group); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestTokenLive(t *testing.T) {
	tests := map[string]struct {
		expires time.Time
		want    bool
	}{
		"in a second":      {now.Add(time.Second), true},
		"now":              {now, false},
		"a second ago":     {now.Add(-time.Second), false},
		"at an unset time": {time.Time{}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := (Token{Expires: tt.expires}).Live(now); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestTokenRenewAt(t *testing.T) {
	for _, ttl := range []time.Duration{10 * time.Minute, 24 * time.Hour, 8760 * time.Hour} {
		var moments []time.Duration
		for i := range 1000 {
			nb := nodeBootstrap()
			nb.UID = types.UID(fmt.Sprintf("uid-%d", i))
			nb.Spec.Token.TTL = &metav1.Duration{Duration: ttl}
			made := Token{Created: now, Expires: now.Add(ttl)}
			at := made.renewAt(nb).Sub(now)
			if at < ttl*2/3 || at > ttl*5/6 {
				t.Fatalf("a token that lives %s is renewed after %s", ttl, at)
			}
			if again := made.renewAt(nb).Sub(now); again != at {
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
	in := func(d time.Duration) time.Time { return now.Add(d) }
	type times struct{ secret, status, want time.Time }
	tests := map[string]times{
		"as it was made":                        {in(time.Hour), in(time.Hour), in(time.Hour)},
		"put off":                               {in(2 * time.Hour), in(time.Hour), in(time.Hour)},
		"put off after it expired":              {in(2 * time.Hour), in(-time.Hour), in(-time.Hour)},
		"brought forward":                       {in(-time.Hour), in(time.Hour), in(time.Hour)},
		"taken out":                             {time.Time{}, in(time.Hour), in(time.Hour)},
		"the ttl is shorter now":                {in(ttl + time.Hour), in(ttl + time.Hour), in(ttl)},
		"the status does not know it":           {in(time.Hour), time.Time{}, in(time.Hour)},
		"put off, the status does not know":     {in(10 * ttl), time.Time{}, in(ttl)},
		"taken out, and the status knows not":   {time.Time{}, time.Time{}, in(ttl)},
		"it expired, and the status knows it":   {in(-time.Hour), in(-time.Hour), in(-time.Hour)},
		"it expired, the status does not know":  {in(-time.Hour), time.Time{}, in(-time.Hour)},
		"a ttl ahead, which is the most it may": {in(ttl), in(ttl), in(ttl)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			nb := nodeBootstrap()
			nb.Status.Token = &v1alpha1.TokenStatus{ID: nthID(2), ExpirationTime: metav1.NewTime(in(30 * time.Minute))}
			if !tt.status.IsZero() {
				nb.Status.Token = &v1alpha1.TokenStatus{ID: nthID(1), ExpirationTime: metav1.NewTime(tt.status)}
			}
			if got := (Token{ID: nthID(1), Expires: tt.secret}).wantExpires(nb, now); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The policy nodebootstrap-cage-secrets refuses a token that expires later than that after its creation, also when the operator
// repairs one.
func TestTokenExpiresWithinAYearOfItsCreation(t *testing.T) {
	const year = 8760 * time.Hour
	in := func(d time.Duration) time.Time { return now.Add(d) }
	nb := nodeBootstrap()
	nb.Spec.Token.TTL = &metav1.Duration{Duration: year}
	for name, tt := range map[string]struct{ created, secret, want time.Time }{
		"taken out of a new token":                {in(-time.Second), time.Time{}, in(year)},
		"taken out of an old token":               {in(-year / 2), time.Time{}, in(year/2 + 10*time.Minute)},
		"put off in an old token":                 {in(-year / 2), in(2 * year), in(year/2 + 10*time.Minute)},
		"as it was made by a clock that is ahead": {in(-5 * time.Minute), in(year), in(year)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Token{ID: nthID(1), Created: tt.created, Expires: tt.secret}).wantExpires(nb, now); !got.Equal(tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTokenPrintsWithoutItsSecretPart(t *testing.T) {
	tok := token(1, time.Hour)
	type holder struct {
		Value   Token
		Pointer *Token
		Slice   []Token
		Map     map[string]Token
	}
	values := map[string]any{
		"a token": tok, "a pointer": &tok, "a slice": []Token{tok}, "a slice of pointers": []*Token{&tok},
		"a struct": holder{tok, &tok, []Token{tok}, map[string]Token{"x": tok}}, "an outcome": Outcome{Token: &tok}, "a pointer to it": &Outcome{Token: &tok},
	}
	for name, v := range values {
		for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x"} {
			t.Run(name+" "+verb, func(t *testing.T) { leaks(t, verb, fmt.Sprintf(verb, v)) })
		}
	}
	if got := tok.String(); got != "bootstrap token "+nthID(1) {
		t.Errorf("got %q", got)
	}
}
