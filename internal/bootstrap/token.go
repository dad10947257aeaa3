// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Token is a bootstrap token of ours, as its Secret holds it.
type Token struct {
	// ID is the public part, six characters.
	ID string
	// Secret is the secret part. It goes into Secrets alone.
	Secret SecretPart
	// Created is when the API server stored the Secret.
	Created time.Time
	// Expires is when the API server stops accepting the token; zero when the Secret does not say it in RFC 3339.
	Expires time.Time
	// Object is the Secret as it was read.
	Object *corev1.Secret
}

// SecretPart is the secret part of a token, sixteen characters. It is held by a pointer, so that nothing prints it, not even
// as a field that is not exported, whose methods fmt may not call.
type SecretPart struct{ text *string }

// NewSecretPart holds a secret part.
func NewSecretPart(text string) SecretPart { return SecretPart{&text} }

// Reveal is the text; empty when there is none.
func (p SecretPart) Reveal() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// String leaves the secret part out, so that a token that gets into a log gives nothing away.
func (t Token) String() string { return "bootstrap token " + t.ID }

// Format is String for every verb.
func (t Token) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, t.String()) }

// MarshalText is String too: structured logs take it.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Live reports whether the API server accepts the token at a time.
func (t Token) Live(now time.Time) bool { return now.Before(t.Expires) }

// bearer is the token in the form in which it authenticates.
func (t Token) bearer() string { return bootstraputil.TokenFromIDAndSecret(t.ID, t.Secret.Reveal()) }

// NextTokenID derives the id of the token that follows another one of the same NodeBootstrap; the first follows "".
// A second creation of the same token, out of a stale cache or after a lost reply, thereby meets AlreadyExists.
func NextTokenID(owner types.UID, last string) string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(string(owner) + "/" + last))
	n := binary.BigEndian.Uint64(sum[:8])
	id := make([]byte, bootstrapapi.BootstrapTokenIDBytes)
	for i := range id {
		id[i] = alphabet[n%uint64(len(alphabet))]
		n /= uint64(len(alphabet))
	}
	return string(id)
}

// maxSkipped is how many ids that someone else holds are skipped in a row when a token is made. There are two thousand
// million ids: more than one is no accident.
const maxSkipped = 5

// TokenIDs are the ids that a token may have that follows another one, in the order in which they are tried.
func TokenIDs(owner types.UID, last string) []string {
	ids := make([]string, maxSkipped)
	for i := range ids {
		last = NextTokenID(owner, last)
		ids[i] = last
	}
	return ids
}

// follows reports whether a token was made after another one.
func follows(owner types.UID, id, last string) bool {
	return slices.Contains(TokenIDs(owner, last), id)
}

// ParseToken reads a token from its Secret. It reports false when the Secret can never authenticate, whatever its other
// fields say: wrong type, or an id or a secret part that is not one.
func ParseToken(s *corev1.Secret) (Token, bool) {
	t := Token{
		ID:      string(s.Data[bootstrapapi.BootstrapTokenIDKey]),
		Secret:  NewSecretPart(string(s.Data[bootstrapapi.BootstrapTokenSecretKey])),
		Created: s.CreationTimestamp.Time,
		Object:  s,
	}
	t.Expires = TokenExpires(s)
	ok := s.Type == bootstrapapi.SecretTypeBootstrapToken &&
		s.Name == bootstraputil.BootstrapTokenSecretName(t.ID) &&
		bootstraputil.IsValidBootstrapToken(t.bearer())
	return t, ok
}

// TokenExpires is when the Secret of a token says that it expires; zero when it does not say it in RFC 3339.
func TokenExpires(s *corev1.Secret) time.Time {
	expires, _ := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey]))
	return expires
}

// TokenSecret is the Secret of a new token of a NodeBootstrap, with this id and secret part, that expires at a time. It says
// for which reissue it was made: a crash may come before the status does, and then neither may a token from before pass for
// the one that was asked for, nor may that one be made twice.
func TokenSecret(nb *v1alpha1.NodeBootstrap, id, secret string, expires time.Time) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: childMeta(nb, TokenNamespace, bootstraputil.BootstrapTokenSecretName(id)),
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(id),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(secret),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte("Lets the machine " + nb.Name + " join. Made by nodebootstrap."),
			bootstrapapi.BootstrapTokenExpirationKey:       []byte(expires.UTC().Format(time.RFC3339)),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(strings.Join(tokenGroups(nb), ",")),
		},
	}
	if reissue := ReissueOf(nb); reissue != "" {
		s.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = reissue
	}
	return s
}

// madeFor reports whether a token was made for the reissue that a NodeBootstrap asks for, if any.
func (t Token) madeFor(nb *v1alpha1.NodeBootstrap) bool {
	return ReissueOf(t.Object) == ReissueOf(nb)
}

func tokenGroups(nb *v1alpha1.NodeBootstrap) []string {
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return []string{Group, ClusterWideGroup}
	}
	return []string{Group}
}

// maxTokenLife is how long after the creation of its Secret a token may expire: the longest ttl, and ten minutes since the API
// server's clock, which stamps the creation, may be behind. The policy nodebootstrap-cage-secrets refuses what expires later.
const maxTokenLife = 8760*time.Hour + 10*time.Minute

// wantExpires is when the token shall expire: when the status says, and no later than a ttl from now or maxTokenLife from the
// creation. A ttl is not counted from the Secret's creation, which is stamped by another clock.
func (t Token) wantExpires(nb *v1alpha1.NodeBootstrap, now time.Time) time.Time {
	want, latest := t.Expires, now.Add(nb.Spec.TokenTTL())
	if end := t.Created.Add(maxTokenLife); !t.Created.IsZero() && latest.After(end) {
		latest = end
	}
	if known := nb.Status.Token; known != nil && known.ID == t.ID {
		want = known.ExpirationTime.Time
	}
	if want.IsZero() || want.After(latest) {
		return latest
	}
	return want
}

// repaired is the Secret of a token, which expires at wantExpires, as it should be; nil when it is. For which reissue it was
// made stays as it is.
func (t Token) repaired(nb *v1alpha1.NodeBootstrap) *corev1.Secret {
	want := TokenSecret(nb, t.ID, t.Secret.Reveal(), t.Expires)
	delete(want.Annotations, v1alpha1.ReissueRequestedAtAnnotation)
	return Restored(t.Object, want)
}

// spoiled reports whether the Secret of a token is immutable and cannot be restored to what it should be. One that is right is good.
func (t Token) spoiled(nb *v1alpha1.NodeBootstrap) bool {
	if !immutable(t.Object) {
		return false
	}
	want := t.repaired(nb)
	return want != nil && !maps.EqualFunc(t.Object.Data, want.Data, bytes.Equal)
}

// renewAt is when a successor is due: when between a third and a sixth of the ttl is left. The hash of the owner's UID
// picks the moment, so that tokens made together are not renewed together.
func (t Token) renewAt(nb *v1alpha1.NodeBootstrap) time.Time {
	ttl := nb.Spec.TokenTTL()
	sum := sha256.Sum256([]byte(nb.UID))
	fraction := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	return t.Expires.Add(-ttl/3 + time.Duration(fraction*float64(ttl/6)))
}
