// SPDX-License-Identifier: Apache-2.0

package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

// Parse reads a token from its Secret. It returns false if the Secret can never authenticate, whatever its other fields are: a wrong
// type, or an invalid id or secret part.
func Parse(s *corev1.Secret) (Token, bool) {
	t := Token{
		ID:      string(s.Data[bootstrapapi.BootstrapTokenIDKey]),
		Secret:  NewSecretPart(string(s.Data[bootstrapapi.BootstrapTokenSecretKey])),
		Created: s.CreationTimestamp.Time,
		Object:  s,
	}
	t.Expires = Expires(s)
	ok := s.Type == bootstrapapi.SecretTypeBootstrapToken &&
		s.Name == bootstraputil.BootstrapTokenSecretName(t.ID) &&
		bootstraputil.IsValidBootstrapToken(t.Bearer())
	return t, ok
}

// Expires is the expiration in a token's Secret; zero if it is not in RFC 3339.
func Expires(s *corev1.Secret) time.Time {
	expires, _ := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey]))
	return expires
}

// NewSecret is the Secret of a new token of a NodeBootstrap, with this id, secret part and expiration. It names the reissue that it was
// created for: after a crash before the status is stored, an older token must not pass for the requested one, and the requested one must
// not be created twice.
func NewSecret(nb *v1alpha1.NodeBootstrap, id, secret string, expires time.Time) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: owned.Meta(nb, Namespace, bootstraputil.BootstrapTokenSecretName(id)),
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
	if reissue := Reissue(nb); reissue != "" {
		s.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = reissue
	}
	return s
}

// MadeFor reports whether a token was created for the reissue that a NodeBootstrap requests, if any.
func (t Token) MadeFor(nb *v1alpha1.NodeBootstrap) bool {
	return Reissue(t.Object) == Reissue(nb)
}

// maxTokenLife is the longest time from the creation of a token's Secret to its expiration: the longest ttl, and ten minutes because the
// API server's clock, which stamps the creation, may be behind. The policy nodebootstrap-cage-secrets rejects a later expiration.
const maxTokenLife = 8760*time.Hour + 10*time.Minute

// WantExpires is when the token must expire: as in the status, but no later than a ttl from now or maxTokenLife from the creation. A ttl
// is not counted from the Secret's creation, which another clock stamps.
func (t Token) WantExpires(nb *v1alpha1.NodeBootstrap, now time.Time) time.Time {
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

// Repaired is the Secret of a token with the content that it should have, expiring at WantExpires; nil if it has that content. The
// reissue that it was created for stays.
func (t Token) Repaired(nb *v1alpha1.NodeBootstrap) *corev1.Secret {
	want := NewSecret(nb, t.ID, t.Secret.Reveal(), t.Expires)
	delete(want.Annotations, v1alpha1.ReissueRequestedAtAnnotation)
	return owned.Restored(t.Object, want)
}

// Spoiled reports whether the Secret of a token is immutable and has content that must be restored.
func (t Token) Spoiled(nb *v1alpha1.NodeBootstrap) bool {
	if !owned.Immutable(t.Object) {
		return false
	}
	want := t.Repaired(nb)
	return want != nil && !maps.EqualFunc(t.Object.Data, want.Data, bytes.Equal)
}

// RenewAt is when a successor is due: between a third and a sixth of the ttl before the expiration. The hash of the owner's UID picks the
// moment, so that tokens created together are not renewed together.
func (t Token) RenewAt(nb *v1alpha1.NodeBootstrap) time.Time {
	ttl := nb.Spec.TokenTTL()
	sum := sha256.Sum256([]byte(nb.UID))
	fraction := float64(binary.BigEndian.Uint32(sum[:4])) / (1 << 32)
	return t.Expires.Add(-ttl/3 + time.Duration(fraction*float64(ttl/6)))
}

const (
	// Group is the group of every token that the operator creates.
	Group = "system:bootstrappers:nodebootstrap"
	// ClusterWideGroup is the additional group of tokens whose CSRs kube-controller-manager approves.
	ClusterWideGroup = "system:bootstrappers:nodebootstrap:cluster-wide"
)

// GroupsOfOurs are the operator's groups with which the token in a Secret authenticates. The API server parses them in the same way
// (k8s.io/kubernetes plugin/pkg/auth/authenticator/token/bootstrap).
func GroupsOfOurs(s *corev1.Secret) []string {
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return nil
	}
	var ours []string
	for group := range strings.SplitSeq(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",") {
		if (group == Group || group == ClusterWideGroup) && !slices.Contains(ours, group) {
			ours = append(ours, group)
		}
	}
	return ours
}

func tokenGroups(nb *v1alpha1.NodeBootstrap) []string {
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return []string{Group, ClusterWideGroup}
	}
	return []string{Group}
}

// Stray reports whether a Secret holds a token in one of the operator's groups and names no NodeBootstrap as its owner.
func Stray(s *corev1.Secret) bool {
	node := owned.NodeOf(s)
	return s.Namespace == Namespace && len(GroupsOfOurs(s)) > 0 && (node == "" || !owned.Ours(s, node))
}

// maxReissueBytes is the longest reissue request that is kept unchanged. A time has 35 bytes at most.
const maxReissueBytes = 128

// Reissue is the reissue that an object requests or, on a token's Secret, was created for; empty for none. Every reader of the annotation
// uses it.
func Reissue(o metav1.Object) string {
	return NormalReissue(o.GetAnnotations()[v1alpha1.ReissueRequestedAtAnnotation])
}

// NormalReissue is the form in which reissue requests are compared and stored: the value itself, or the hash of a long one. An annotation
// can have 256 KiB, and a token's Secret has no room for a copy next to its other annotations.
func NormalReissue(value string) string {
	if len(value) <= maxReissueBytes {
		return value
	}
	return fmt.Sprintf("SHA256:%x", sha256.Sum256([]byte(value)))
}
