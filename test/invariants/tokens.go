// SPDX-License-Identifier: Apache-2.0

package invariants

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// checkToken: a node has one live token, except for a predecessor that renewal left to expire. No token is created for a
// NodeBootstrap that the cache shows as deleted, nor a later token for one that is deleted. A first token that is created at the
// moment of deletion is removed by the reconcile that sees the deletion.
func (c *Checker) checkToken(w Write, s *corev1.Secret) {
	c.Checked[LiveTokens]++
	if before, ok := w.Before.(*corev1.Secret); ok {
		if !bytes.Equal(before.Data[bootstrapapi.BootstrapTokenSecretKey], s.Data[bootstrapapi.BootstrapTokenSecretKey]) {
			c.violated(LiveTokens, "the secret part of %s has changed", s.Name)
		}
		return
	}
	t := c.tokens[TokenID(s)]
	if t == nil || w.Late {
		return
	}
	if others := c.others(w, t, s, w.Revision); len(others) > 1 {
		c.violated(LiveTokens, "%s has %d", t.node, 1+len(others))
	}
	if against := c.noneSeen(w, func(revision int64) string { return c.againstToken(w, t, s, revision) }); against != "" && !c.isFirstOfShown(w, t, s) {
		c.violated(LiveTokens, "%s is created %s", s.Name, against)
	}
}

// isFirstOfShown reports whether a token is the first one of a deleted NodeBootstrap that its author's cache still shows.
func (c *Checker) isFirstOfShown(w Write, t *createdToken, s *corev1.Secret) bool {
	return !c.wanted(t, w.Revision) && TokenID(s) == token.NextID(t.owner, "") && w.Shows != nil && w.Shows(t.node, t.owner)
}

// others are the other live tokens of a token's node of which its author could know.
func (c *Checker) others(w Write, t *createdToken, s *corev1.Secret, revision int64) []*corev1.Secret {
	return slices.DeleteFunc(c.LiveTokens(t.node, w.Revision, w.At), func(o *corev1.Secret) bool {
		return o.Name == s.Name || w.Knows != nil && !w.Knows(o, revision)
	})
}

// againstToken is why a token should not have been created, as of a revision.
func (c *Checker) againstToken(w Write, t *createdToken, s *corev1.Secret, revision int64) string {
	if !c.wanted(t, revision) {
		return "for a NodeBootstrap that no longer exists"
	}
	nb := c.nodeBootstrap(t.node, revision)
	reissue := ReissueRequest(nb) != nb.Status.LastHandledReissueAt
	is := func(condition string) bool {
		return !reissue && meta.IsStatusConditionTrue(nb.Status.Conditions, condition)
	}
	node := get[*corev1.Node](c, Key{Kind: "Node", Name: t.node}, revision)
	switch {
	case is(v1alpha1.ConditionTokenMisused) && nb.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide && nb.Spec.PinnedKey() == "":
		return "although a token was misused"
	case is(v1alpha1.ConditionJoined) && node != nil && node.UID == nb.Status.NodeUID:
		return "for a node that has joined"
	}
	for _, other := range c.others(w, t, s, revision) {
		switch left := expiry(other).Sub(w.At); {
		case left > nb.Spec.TokenTTL()/3+c.Slack:
			return fmt.Sprintf("while %s is good for another %s", other.Name, left)
		case c.tokens[TokenID(other)].owner != t.owner:
			return fmt.Sprintf("while %s of another NodeBootstrap is live", other.Name)
		case reissue && ReissueRequest(other) != ReissueRequest(s):
			return fmt.Sprintf("for a reissue while %s is live", other.Name)
		}
	}
	return ""
}

// Doubled describes superfluous live tokens of a node, whoever created them.
func (c *Checker) Doubled(node string, revision int64, now time.Time) string {
	live := c.LiveTokens(node, revision, now)
	if len(live) < 2 {
		return ""
	}
	newest := live[len(live)-1]
	w := Write{Revision: revision, At: newest.CreationTimestamp.Time, Seen: []int64{revision}}
	if against := c.againstToken(w, c.tokens[TokenID(newest)], newest, revision); len(live) > 2 || against != "" {
		return fmt.Sprintf("%s has %d live tokens: %s is created %s", node, len(live), newest.Name, against)
	}
	return ""
}

// checkKubeconfig: a published token was live when its author read it, or was created since.
func (c *Checker) checkKubeconfig(w Write, s *corev1.Secret) {
	if w.Late {
		return
	}
	c.Checked[LiveTokens]++
	id, part, _ := strings.Cut(Bearer(s), ".")
	versions := c.Since(TokenKey(id), w.Seen[0])
	for _, o := range append([]client.Object{c.At(TokenKey(id), w.Seen[0])}, versions...) {
		if token, ok := o.(*corev1.Secret); ok && Live(token, w.At) && string(token.Data[bootstrapapi.BootstrapTokenSecretKey]) == part {
			return
		}
	}
	c.violated(LiveTokens, "%s carries the token %q, which is not live", w.Key, id)
}

// checkStatus checks that a reissue counts as handled only if the token was created for it and no earlier one is left, and that a
// node counts as joined only if it has no token. Of a NodeBootstrap only the status is written.
func (c *Checker) checkStatus(w Write, nb *v1alpha1.NodeBootstrap) {
	before, ok := w.Before.(*v1alpha1.NodeBootstrap)
	if !ok {
		return
	}
	if nb.Generation != before.Generation {
		c.violated(Foreign, "the operator writes the spec of %s", nb.Name)
	}
	handled := nb.Status.LastHandledReissueAt != before.Status.LastHandledReissueAt
	if handled && nb.Status.Token != nil {
		c.Checked[LiveTokens]++
		s := get[*corev1.Secret](c, TokenKey(nb.Status.Token.ID), w.Revision)
		if s != nil && Live(s, w.At) && ReissueRequest(s) != nb.Status.LastHandledReissueAt {
			c.violated(LiveTokens, "%s counts as the token for the reissue %q", s.Name, nb.Status.LastHandledReissueAt)
		}
	}
	for _, s := range c.LiveTokens(nb.Name, w.Revision, w.At) {
		t := c.tokens[TokenID(s)]
		switch {
		case t.owner != nb.UID || w.Knows != nil && !w.Knows(s, w.Seen[0]):
		case handled && nb.Status.LastHandledReissueAt == ReissueRequest(nb) && nb.DeletionTimestamp == nil && t.published > 0 && t.published < c.reissueRequests[nb.UID]:
			c.violated(LiveTokens, "the reissue %q of %s counts as handled, and %s is left, which was published before", ReissueRequest(nb), nb.Name, s.Name)
		case Joined(nb) && !Joined(before) && !w.Late:
			c.violated(NothingLeft, "%s counts as joined, and %s is left", nb.Name, s.Name)
		}
	}
}

// Joined reports whether a status says that the node has joined and no credential is left.
func Joined(nb *v1alpha1.NodeBootstrap) bool {
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonJoined
}

// CheckNothingLeft checks that no token, kubeconfig or unissued CSR exists after joining or deletion.
func (c *Checker) CheckNothingLeft(revision int64) {
	c.Checked[NothingLeft]++
	wanted := func(node string) bool {
		nb := c.nodeBootstrap(node, revision)
		return nb != nil && !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionJoined)
	}
	for _, k := range c.Keys("Secret") {
		s := get[*corev1.Secret](c, k, revision)
		if s == nil || c.Foreign[k] {
			continue
		}
		node, ours := owned.NodeOf(s), c.NodeOf(TokenID(s)) != "" // whatever it has become since
		if ours || node != "" && owned.Ours(s, node) {
			if !wanted(cmp.Or(c.NodeOf(TokenID(s)), node)) {
				c.violated(NothingLeft, "%s", k)
			}
		}
	}
	for _, k := range c.Keys("CertificateSigningRequest") {
		r := get[*certificatesv1.CertificateSigningRequest](c, k, revision)
		if r == nil || !Pending(r) {
			continue
		}
		id := token.IDOfUser(r.Spec.Username)
		if t := c.tokens[id]; t != nil && (c.At(TokenKey(id), revision) == nil || !wanted(t.node)) {
			c.violated(NothingLeft, "request %s with the token of %s", r.Name, t.node)
		}
	}
}

// CheckTruth checks that the status is true, and that an awaited node has a token.
func (c *Checker) CheckTruth(node string, revision int64, now time.Time) {
	nb := c.nodeBootstrap(node, revision)
	if nb == nil {
		return
	}
	bearer := ""
	if s := get[*corev1.Secret](c, Key{"Secret", c.Namespace, owned.KubeconfigSecretName(node)}, revision); s != nil {
		bearer = Bearer(s)
	}
	id, part, _ := strings.Cut(bearer, ".")
	s := get[*corev1.Secret](c, TokenKey(id), revision)
	good := s != nil && Live(s, now) && string(s.Data[bootstrapapi.BootstrapTokenSecretKey]) == part
	is := func(condition string) bool { return meta.IsStatusConditionTrue(nb.Status.Conditions, condition) }
	switch available := is(v1alpha1.ConditionCredentialsAvailable); {
	case available != good:
		c.violated(SameEnd, "CredentialsAvailable of %s is %v, and the token is live: %v", node, available, good)
	case available && (nb.Status.Token == nil || nb.Status.Token.ID != id):
		c.violated(SameEnd, "the status does not name the token of %s", node)
	case !is(v1alpha1.ConditionJoined) && !is(v1alpha1.ConditionStalled) && len(c.LiveTokens(node, revision, now)) == 0:
		c.violated(SameEnd, "%s is awaited and has no token", node)
	case nb.Status.ObservedGeneration != nb.Generation:
		c.violated(SameEnd, "the status is not of the current generation of %s", node)
	}
}
