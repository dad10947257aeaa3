// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

// token is a bootstrap token that there is or was.
type token struct {
	id, node, owner string
	secret          string
	made, expires   time.Time
	published       int64 // the revision at which a kubeconfig first carried it; 0 for never
	gone            bool
	goneAt          time.Time
}

func (t *token) String() string { return fmt.Sprintf("%s (of NodeBootstrap %.8s)", t.id, t.owner) }

func (l *ledger) seeSecret(c change, name string) {
	secret := decode[corev1.Secret](l, c)
	if id, ok := strings.CutPrefix(name, "kube-system/"+bootstrapapi.BootstrapTokenSecretPrefix); ok {
		l.seeToken(c, id, secret)
	}
	if node, ok := strings.CutPrefix(name, operator.Namespace+"/"+bootstrap.KubeconfigSecretName("")); ok {
		l.seeKubeconfig(c, node, secret)
	}
}

func (l *ledger) seeToken(c change, id string, secret *corev1.Secret) {
	t := l.tokens[id]
	if secret == nil {
		if t != nil {
			t.gone, t.goneAt = true, c.at
			l.step(c, tokenGone, "%s of %s", t, t.node)
		}
		return
	}
	part := string(secret.Data[bootstrapapi.BootstrapTokenSecretKey])
	switch {
	case t == nil:
	case t.gone && l.leeway.overlap():
		l.again++
		l.note("  the token id %s is given again, by a manager of the past", id)
	case t.gone && !l.unwanted[t.owner].IsZero(): // checkWanted has more to say
	case t.gone:
		l.violated("the token id %s, which was given to %s before, is given again", id, t.node)
	case t.secret != part:
		l.violated("the secret part of the token %s of %s has changed", id, t.node)
	default:
		return
	}
	owner := ""
	if o := metav1.GetControllerOf(secret); o != nil {
		owner = string(o.UID)
	}
	expires, _ := time.Parse(time.RFC3339, string(secret.Data[bootstrapapi.BootstrapTokenExpirationKey]))
	t = &token{
		id: id, node: secret.Annotations[bootstrap.NodeNameAnnotation], owner: owner, secret: part,
		made: secret.CreationTimestamp.Time, expires: expires,
	}
	l.tokens[id], l.parts[part] = t, fmt.Sprintf("the secret part of the token %s of %s", t.id, t.node)
	l.step(c, tokenMade, "%s of %s", t, t.node)
	l.checkWanted(t, c.at)
	if wrong := l.doubled(t.node, c.at); wrong != "" {
		if !l.leeway.overlap() && !l.outlives(t.node, c.at) {
			l.violated("%s", wrong)
			return
		}
		l.note("  by a manager of the past, or of a NodeBootstrap that is just deleted, %s", wrong)
		l.doubles[t.node] = c.at
	}
}

// outlives reports whether a node has a token of a NodeBootstrap that was deleted a moment ago. It goes when the operator's cache
// shows it, and by then the next NodeBootstrap of the name may have one.
func (l *ledger) outlives(node string, now time.Time) bool {
	return slices.ContainsFunc(l.live(node, now), func(t *token) bool {
		since, deleted := l.unwanted[t.owner]
		return deleted && now.Sub(since) <= grace+l.leeway.lag()
	})
}

// grace is how long a write may come after what it rests on was deleted: as long as it may take from the last look to the
// write, on a busy machine with a slow disk.
const grace = 2 * time.Second

// checkWanted sees that no token is made for a NodeBootstrap that is no more.
func (l *ledger) checkWanted(t *token, now time.Time) {
	since, unwanted := l.unwanted[t.owner]
	if late := now.Sub(since); unwanted && late > grace+l.leeway.lag() {
		what := fmt.Sprintf("the token %v of %s was made %s after its NodeBootstrap was deleted", t, t.node, late.Round(time.Millisecond))
		if !l.leeway.overlap() {
			l.violated("%s", what)
		}
		l.note("  %s", what)
	}
}

// checkReissue sees that a reissue that the status calls handled has left no token that was published before it was asked for.
func (l *ledger) checkReissue(nb *v1alpha1.NodeBootstrap) {
	wish := l.wishes[string(nb.UID)]
	if nb.Status.LastHandledReissueAt != reissueWish(nb) || nb.DeletionTimestamp != nil {
		return
	}
	for _, t := range l.tokens {
		if t.owner == string(nb.UID) && !t.gone && t.published > 0 && t.published < wish {
			l.violated("%s: the reissue %s is called handled, and the token %v is there that was published before", nb.Name, reissueWish(nb), t)
		}
	}
}

// saysJoined reports whether a status says that the node has joined and that no credential is left.
func saysJoined(nb *v1alpha1.NodeBootstrap) bool {
	if nb == nil {
		return false
	}
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
	return c != nil && c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonJoined
}

// checkJoined sees that no token of a NodeBootstrap is left when its status begins to say so.
func (l *ledger) checkJoined(nb *v1alpha1.NodeBootstrap) {
	for _, t := range l.tokens {
		if t.owner == string(nb.UID) && !t.gone && !l.leeway.overlap() {
			l.violated("%s: the status says that the node has joined and no credential is left, and the token %v is there", nb.Name, t)
		}
	}
}

// doubled says what is wrong when a node has more than one live token, or two of which the first is not of the same
// NodeBootstrap and about to expire.
func (l *ledger) doubled(node string, now time.Time) string {
	live := l.live(node, now)
	if node == "" || len(live) < 2 { // without a node it is not the operator's
		return ""
	}
	slices.SortFunc(live, func(a, b *token) int { return a.made.Compare(b.made) })
	first, second := live[0], live[1]
	left, ttl := first.expires.Sub(second.made), first.expires.Sub(first.made)
	if len(live) == 2 && first.owner == second.owner && left <= ttl/3+clockSlack {
		return ""
	}
	return fmt.Sprintf("%s has the live tokens %v", node, live)
}

// clockSlack is for times in whole seconds.
const clockSlack = 2 * time.Second

// doubleLimit is for how long a node may have two tokens that a manager of the past has left it with: the managers of the
// present are killed every few seconds.
const doubleLimit = time.Minute

// checkDoubles sees that what a manager of the past has done is undone.
func (l *ledger) checkDoubles(now time.Time) {
	for node, since := range l.doubles {
		switch wrong := l.doubled(node, now); {
		case wrong == "":
			delete(l.doubles, node)
		case now.Sub(since) > doubleLimit:
			delete(l.doubles, node)
			l.violated("for %s now, %s", now.Sub(since).Round(time.Second), wrong)
		}
	}
}

// live are the tokens of a node that have not expired at a time.
func (l *ledger) live(node string, at time.Time) []*token {
	var out []*token
	for _, t := range l.tokens {
		if t.node == node && !t.gone && t.expires.After(at) {
			out = append(out, t)
		}
	}
	return out
}

func (l *ledger) seeKubeconfig(c change, node string, secret *corev1.Secret) {
	if secret == nil {
		delete(l.kubeconfigs, node)
		l.step(c, kubeconfigGone, "%s", node)
		return
	}
	if bootstrap.NodeOfChild(secret) == "" || secret.Labels[bootstrap.ManagedByLabel] == "" {
		return // not the operator's
	}
	l.kubeconfigs[node] = tokenIDIn(secret.Data[bootstrap.KubeconfigKey])
	if t := l.tokens[l.kubeconfigs[node]]; t != nil && t.published == 0 {
		t.published = c.revision
	}
	l.step(c, kubeconfigWritten, "%s with the token %s", node, l.kubeconfigs[node])
}

// tokenIDIn is the id of the token that a kubeconfig carries.
func tokenIDIn(kubeconfig []byte) string {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return ""
	}
	id, _, _ := strings.Cut(config.BearerToken, ".")
	return id
}
