// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// rules is what has to be remembered to report whether the invariants hold.
type rules struct {
	// nodeOf is the node that a token was made for, by its id, and ownerOf the NodeBootstrap.
	nodeOf  map[string]string
	ownerOf map[string]types.UID
	// secrets are the secret parts of all tokens that ever were.
	secrets map[string]bool
	// keys are those that the operator has approved with a token.
	keys map[string][]string
	// nodesOf are the nodes for which the operator has approved a key.
	nodesOf map[string][]string
	// foreign is what is not the operator's.
	foreign map[key]bool
	pass    pass // the present one

	looks      looks
	violations []string
}

// pass is one call of Reconcile, with where it began.
type pass struct{ number, firstCall, firstRevision, firstFault int }

func newRules() rules {
	return rules{nodeOf: map[string]string{}, ownerOf: map[string]types.UID{}, secrets: map[string]bool{}, keys: map[string][]string{}, nodesOf: map[string][]string{}, foreign: map[key]bool{}}
}

// violated notes that an invariant does not hold.
func (w *world) violated(invariant, format string, args ...any) {
	text := invariant + ": " + fmt.Sprintf(format, args...)
	if slices.Contains(w.violations, text) {
		return
	}
	w.violations = append(w.violations, text)
	w.trace = append(w.trace, note("!!! "+text))
}

func (w *world) passBegins() {
	w.pass = pass{w.passes, len(w.calls), w.revision, len(w.happened)}
}

// callsOfPass are those of the present pass. A process that was paused has those of others in between.
func (w *world) callsOfPass() []*call {
	return slices.DeleteFunc(slices.Clone(w.calls[w.pass.firstCall:]), func(c *call) bool { return c.pass != w.pass.number })
}

// looked is the revision at which the present pass made the call that is so many ahead of the last one.
func (w *world) looked(ahead int) int {
	calls := w.callsOfPass()
	if len(calls) == 0 {
		return w.pass.firstRevision
	}
	return calls[max(0, len(calls)-1-ahead)].at
}

// learn remembers what a change tells.
func (w *world) learn(c change) {
	s, ok := c.new.object.(*corev1.Secret)
	if !ok || s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return
	}
	w.learnSecret(s)
	if c.old == nil && c.new.author == operatorAuthor && len(s.OwnerReferences) > 0 {
		id := tokenID(s)
		w.nodeOf[id], w.ownerOf[id] = bootstrap.NodeOfChild(s), s.OwnerReferences[0].UID
	}
}

// learnSecret remembers the secret part of a token.
func (w *world) learnSecret(o any) {
	if s, ok := o.(*corev1.Secret); ok && len(s.Data[bootstrapapi.BootstrapTokenSecretKey]) == 16 {
		w.secrets[string(s.Data[bootstrapapi.BootstrapTokenSecretKey])] = true
	}
}

// checkChange looks at every change, whoever makes it.
func (w *world) checkChange(c change) {
	if w.admission != "" { // it is not what the operator has sent
		return
	}
	w.checkLiveTokens(c)
	if c.new.author != operatorAuthor {
		return
	}
	w.checkForeign(c)
	w.checkApproval(c)
	w.checkKubeconfig(c)
	w.checkReissue(c)
}

// checkReissue: a reissue counts as handled when there is a token that was made for it, and not one from before.
func (w *world) checkReissue(c change) {
	nb, ok := c.new.object.(*v1alpha1.NodeBootstrap)
	if !ok || nb.Status.Token == nil || nb.Status.LastHandledReissueAt == c.old.object.(*v1alpha1.NodeBootstrap).Status.LastHandledReissueAt {
		return
	}
	w.looks[2]++
	s := get[*corev1.Secret](w.store, bootstrap.TokenNamespace, bootstrap.TokenSecretName(nb.Status.Token.ID))
	if s != nil && w.live(s) && s.Annotations[v1alpha1.ReissueRequestedAtAnnotation] != nb.Status.LastHandledReissueAt {
		w.violated("2 live tokens", "%s is taken for the one that the reissue %q asks for", s.Name, nb.Status.LastHandledReissueAt)
	}
}

// Invariant 5: foreign objects untouched. Of a NodeBootstrap only the status is written.
func (w *world) checkForeign(c change) {
	w.looks[5]++
	if w.foreign[c.key] {
		w.violated("5 foreign objects", "the operator writes to %s", c.key)
	}
	if c.key.kind == "NodeBootstrap" && c.new.object != nil && c.new.object.GetGeneration() != c.old.object.GetGeneration() {
		w.violated("5 foreign objects", "the operator writes the spec of %s", c.key)
	}
}

func isApproved(v *version) bool {
	r, ok := objectOf(v).(*certificatesv1.CertificateSigningRequest)
	return ok && condition(r, certificatesv1.CertificateApproved) != nil
}

func objectOf(v *version) any {
	if v == nil {
		return nil
	}
	return v.object
}

// isOf reports whether there is an object, with this UID.
func (v *version) isOf(uid types.UID) bool { return v != nil && v.object.GetUID() == uid }

// liveReads are how many reads directly ahead of an approval look once more at what it rests on.
const liveReads = 2

// Invariant 1: no certificate is approved for a name that the requesting token is not bound to; one key for a token, and as many more as
// spec.clientCertificate.replacementKeys says.
func (w *world) checkApproval(c change) {
	const rule = "1 approvals"
	if !isApproved(c.new) || isApproved(c.old) {
		return
	}
	w.looks[1]++
	r := c.new.object.(*certificatesv1.CertificateSigningRequest)
	// What an approval rests on may be taken away between the last look and the approval, but no earlier.
	looked := w.looked(liveReads)
	if r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		w.checkServing(r, looked)
		return
	}
	id := bootstrap.TokenIDOfUser(r.Spec.Username)
	node, known := w.nodeOf[id]
	switch {
	case !known:
		w.violated(rule, "%s was sent with a token that the operator did not make", c.key)
		return
	case r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName:
		w.violated(rule, "%s asks %s", c.key, r.Spec.SignerName)
	case requestedNode(r) != node:
		w.violated(rule, "%s names %s with the token of %s", c.key, requestedNode(r), node)
	}
	fingerprint, err := csr.Fingerprint(r)
	w.must(err)
	if !slices.Contains(w.keys[id], fingerprint) {
		w.keys[id] = append(w.keys[id], fingerprint)
	}
	if !slices.Contains(w.nodesOf[fingerprint], node) {
		w.nodesOf[fingerprint] = append(w.nodesOf[fingerprint], node)
	}
	if len(w.nodesOf[fingerprint]) > 1 { // no story frees a key by deleting the NodeBootstrap that claims it
		w.violated(rule, "one key is approved for %q", w.nodesOf[fingerprint])
	}
	if len(r.Finalizers) > 0 || len(r.OwnerReferences) > 0 {
		w.violated(rule, "%s is approved, which could not be revoked", c.key)
	}
	if n := len(w.keys[id]); n > 1+w.replacementKeys(node) {
		w.violated(rule, "key %d is approved with the token %s", n, id)
	}
	w.checkClaim(r, node, id, fingerprint, looked)
	w.checkGround(c.key, node, id, looked)
}

// replacementKeys are the most that a NodeBootstrap of a node ever allowed.
func (w *world) replacementKeys(node string) int {
	most := 0
	for _, v := range w.versions[key{kind: "NodeBootstrap", name: node}] {
		if nb, ok := objectOf(v).(*v1alpha1.NodeBootstrap); ok && nb != nil {
			most = max(most, nb.Spec.ReplacementKeys())
		}
	}
	return most
}

// checkClaim: the decision is in the status before it is carried out, or was when it was looked at last.
func (w *world) checkClaim(r *certificatesv1.CertificateSigningRequest, node, token, fingerprint string, looked int) {
	nb, _ := objectOf(w.at(key{kind: "NodeBootstrap", name: node}, looked)).(*v1alpha1.NodeBootstrap)
	if nb == nil || nb.UID != w.ownerOf[token] { // gone at the very last moment, or else checkGround tells
		return
	}
	if !slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == r.UID && d.Verdict == v1alpha1.VerdictApproved && d.KeyFingerprint == fingerprint
	}) {
		w.violated("1 approvals", "the status of %s does not tell of the approval of %s before it is given", node, r.Name)
	}
}

// checkGround: when it was looked at last there was what an approval rests on.
func (w *world) checkGround(request key, node, token string, looked int) {
	nb, _ := objectOf(w.at(key{kind: "NodeBootstrap", name: node}, looked)).(*v1alpha1.NodeBootstrap)
	s, _ := objectOf(w.at(key{"Secret", bootstrap.TokenNamespace, bootstrap.TokenSecretName(token)}, looked)).(*corev1.Secret)
	reissue := ""
	if nb != nil {
		reissue = nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation]
	}
	switch {
	case nb == nil || nb.DeletionTimestamp != nil || nb.UID != w.ownerOf[token]:
		w.violated("1 approvals", "%s is approved for a NodeBootstrap that is gone", request)
	case s == nil || !w.live(s):
		w.violated("1 approvals", "%s is approved for a token that is gone", request)
	case nb.Spec.ApprovalMode() != v1alpha1.ApprovalNode:
		w.violated("1 approvals", "%s is approved with approval %s", request, nb.Spec.ApprovalMode())
	case reissue != "" && reissue != nb.Status.LastHandledReissueAt:
		w.violated("1 approvals", "%s is approved although a reissue is asked for", request)
	}
}

func (w *world) checkServing(r *certificatesv1.CertificateSigningRequest, looked int) {
	node := requestedNode(r)
	nb, _ := objectOf(w.at(key{kind: "NodeBootstrap", name: node}, looked)).(*v1alpha1.NodeBootstrap)
	if nb == nil || r.Spec.Username != "system:node:"+node {
		w.violated("1 approvals", "a serving certificate for %s is approved that %s asks for", node, r.Spec.Username)
		return
	}
	for _, a := range csr.RequestedAddresses(r) {
		if !slices.Contains(nb.Spec.ServingCertificate.Addresses, a.Key()) { // the stories declare no CIDRs
			w.violated("1 approvals", "a serving certificate for %s is approved that names %s", node, a.Key())
		}
	}
}

// liveTokens are the live tokens that the operator made for a node.
func (w *world) liveTokens(node string) []*corev1.Secret {
	return slices.DeleteFunc(all[*corev1.Secret](w.store), func(s *corev1.Secret) bool {
		return w.nodeOf[tokenID(s)] != node || node == "" || !w.live(s)
	})
}

func tokenID(s *corev1.Secret) string { return string(s.Data[bootstrapapi.BootstrapTokenIDKey]) }

// sawOldSecrets reports whether the present pass read Secrets from a cache that lagged behind.
func (w *world) sawOldSecrets() bool {
	return slices.ContainsFunc(w.callsOfPass(), func(c *call) bool { return c.kind == "Secret" && c.class == fromCache && c.revision < c.at })
}

// knowable are the live tokens of a token's node that the operator could know of. One of a former NodeBootstrap goes with it,
// and until then a cache may hide it that lags, or that goes by a label which somebody took off.
func (w *world) knowable(s *corev1.Secret) []*corev1.Secret {
	return slices.DeleteFunc(w.liveTokens(w.nodeOf[tokenID(s)]), func(other *corev1.Secret) bool {
		return w.ownerOf[tokenID(other)] != w.ownerOf[tokenID(s)] && (w.sawOldSecrets() || shown(w.latest(keyOf(other))).object == nil)
	})
}

// Invariant 2: at most one live token for a node, besides a predecessor that renewal left to expire. No token is created for a NodeBootstrap
// that the cache shows as deleted, nor a later token for one that is deleted. A first token that is created at the moment of deletion is
// removed by the reconcile that sees the deletion (checkDeletionSeen).
func (w *world) checkLiveTokens(c change) {
	const rule = "2 live tokens"
	s, ok := c.new.object.(*corev1.Secret)
	if !ok || s.Type != bootstrapapi.SecretTypeBootstrapToken || c.new.author != operatorAuthor {
		return
	}
	w.looks[2]++
	if n := len(w.knowable(s)); n > 2 {
		w.violated(rule, "%s has %d", w.nodeOf[tokenID(s)], n)
	}
	if c.old != nil { // a repair
		return
	}
	// What has changed since the pass began may not have been seen, and what was seen may have changed since.
	began, looked := w.reasonAgainst(s, w.pass.firstRevision), w.reasonAgainst(s, w.looked(1))
	if began != "" && looked != "" && !w.isFirstTokenOfShown(s) {
		w.violated(rule, "%s is made %s", s.Name, looked)
	}
}

// isFirstTokenOfShown reports whether a token is the first one of a NodeBootstrap that the cache still shows although it was deleted. It
// may be created: the reconcile that sees the deletion removes it (checkDeletionSeen).
func (w *world) isFirstTokenOfShown(s *corev1.Secret) bool {
	owner := s.OwnerReferences[0]
	k := key{kind: "NodeBootstrap", name: owner.Name}
	if v := w.latest(k); v.isOf(owner.UID) && v.object.GetDeletionTimestamp() == nil || tokenID(s) != bootstrap.NextTokenID(owner.UID, "") {
		return false
	}
	return slices.ContainsFunc(w.callsOfPass(), func(c *call) bool {
		if c.class != fromCache || c.what != "get "+k.String() {
			return false
		}
		v := w.at(k, c.revision)
		return v.isOf(owner.UID) && v.object.GetDeletionTimestamp() == nil
	})
}

// checkDeletionSeen: a reconcile that sees that a NodeBootstrap is deleted leaves no token that its cache shows.
func (w *world) checkDeletionSeen(node string, again bool, err error) {
	calls := w.callsOfPass()
	k := key{kind: "NodeBootstrap", name: node}
	i := slices.IndexFunc(calls, func(c *call) bool { return c.class == fromCache && c.what == "get "+k.String() })
	if i < 0 || again || err != nil {
		return
	}
	if v := w.at(k, calls[i].revision); v != nil && v.object.GetDeletionTimestamp() == nil {
		return
	}
	for _, c := range calls {
		if c.class != fromCache || !strings.HasPrefix(c.what, "list Secret") {
			continue
		}
		w.looks[2]++
		for _, s := range w.liveTokens(node) {
			v := w.at(keyOf(s), c.revision)
			if !v.isOf(s.UID) {
				continue
			}
			if seen, ok := shown(v).object.(*corev1.Secret); ok && bootstrap.Ours(seen, node) {
				w.violated("2 live tokens", "%s is left by a reconcile that saw the deletion of its NodeBootstrap", s.Name)
			}
		}
	}
}

// reasonAgainst is why a token that is made should not be, as things stood at a revision; empty for none.
func (w *world) reasonAgainst(s *corev1.Secret, revision int) string {
	node := w.nodeOf[tokenID(s)]
	nb, _ := objectOf(w.at(key{kind: "NodeBootstrap", name: node}, revision)).(*v1alpha1.NodeBootstrap)
	if nb == nil || nb.DeletionTimestamp != nil || nb.UID != s.OwnerReferences[0].UID {
		return "for a NodeBootstrap that is gone"
	}
	reissue := nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation] != nb.Status.LastHandledReissueAt
	is := func(condition string) bool {
		return !reissue && meta.IsStatusConditionTrue(nb.Status.Conditions, condition)
	}
	switch {
	case is(v1alpha1.ConditionTokenMisused) && nb.Spec.ApprovalMode() != v1alpha1.ApprovalClusterWide:
		return "although a token was misused"
	case is(v1alpha1.ConditionJoined) && w.at(key{kind: "Node", name: node}, revision).isOf(nb.Status.NodeUID):
		return "for a node that has joined"
	}
	for _, other := range w.knowable(s) {
		expires, _ := expiry(other)
		switch {
		case other.Name == s.Name || w.at(keyOf(other), revision) == nil:
		case expires.Sub(w.now()) > nb.Spec.TokenTTL()/3+time.Second:
			return fmt.Sprintf("while %s is good for another %s", other.Name, expires.Sub(w.now()))
		case reissue && other.Annotations[v1alpha1.ReissueRequestedAtAnnotation] != s.Annotations[v1alpha1.ReissueRequestedAtAnnotation]:
			return fmt.Sprintf("for a reissue while %s is live", other.Name)
		}
	}
	return ""
}

// checkKubeconfig: what is published is a token that was live when the pass began, or that was made since. A cache that lags
// may show one that is gone: then what is published is of no use to anybody until it has caught up.
func (w *world) checkKubeconfig(c change) {
	s, ok := c.new.object.(*corev1.Secret)
	if !ok || s.Namespace != namespace || w.sawOldSecrets() {
		return
	}
	w.looks[2]++
	id, part, _ := strings.Cut(bearerIn(s), ".")
	k := key{"Secret", bootstrap.TokenNamespace, bootstrap.TokenSecretName(id)}
	for _, v := range append([]*version{w.at(k, w.pass.firstRevision)}, w.since(k, w.pass.firstRevision)...) {
		token, _ := objectOf(v).(*corev1.Secret)
		if token != nil && w.live(token) && string(token.Data[bootstrapapi.BootstrapTokenSecretKey]) == part {
			return
		}
	}
	w.violated("2 live tokens", "%s carries the token %q, which is not live", c.key, id)
}

// passEnds: after an error the status tells of it, if that can be stored.
func (w *world) passEnds(i item, err error) {
	faults := w.happened[min(w.pass.firstFault, len(w.happened)):]
	if i.controller != "node" || err == nil || len(faults) != 1 || strings.Contains(err.Error(), "storing the status") || faults[0].fault == cutOff {
		return // the status could not be stored either
	}
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", i.name)
	written := slices.ContainsFunc(w.callsOfPass(), func(c *call) bool { return c.id == faults[0].id && c.class == writing })
	if nb == nil || !written || nb.DeletionTimestamp != nil || meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) || !w.passSaw(nb) {
		return
	}
	for _, c := range nb.Status.Conditions {
		if strings.Contains(c.Message, "tried again") || c.Reason == v1alpha1.ReasonBindingsPending {
			return
		}
	}
	w.violated("4 same end", "the status does not tell of the error: %v", err)
}

// passSaw reports whether the cache showed a NodeBootstrap to the pass, and not only one of its name before it.
func (w *world) passSaw(nb *v1alpha1.NodeBootstrap) bool {
	return slices.ContainsFunc(w.callsOfPass(), func(c *call) bool {
		v := w.at(keyOf(nb), c.revision)
		return c.class == fromCache && c.what == "get "+keyOf(nb).String() && v != nil && v.object.GetUID() == nb.UID
	})
}
