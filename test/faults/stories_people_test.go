// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// The stories of this file are about what people do to the operator's objects.

func (w *world) wantsIt(edits ...func(*v1alpha1.NodeBootstrap)) *step {
	return &step{name: "someone wants the node", do: func() bool { return w.wants(worker, edits...) }, wait: 2 * time.Second}
}

// isObserved reports whether the status is about the current spec.
func (w *world) isObserved(node string) bool {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", node)
	return nb != nil && nb.Status.ObservedGeneration == nb.Generation
}

func (w *world) stalled(node, reason string) bool {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", node)
	if nb == nil {
		return false
	}
	c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionStalled)
	return c != nil && c.Reason == reason
}

// theToken is the only live token of the node; nil if there is none, or several.
func (w *world) theToken() *corev1.Secret {
	if tokens := w.liveTokens(worker); len(tokens) == 1 {
		return tokens[0]
	}
	return nil
}

// onToken edits the live token once a token is published.
func (w *world) onToken(name string, how func(*corev1.Secret)) *step {
	return &step{name: name, wait: 2 * time.Second, do: func() bool {
		s := w.theToken()
		return s != nil && w.isReady(worker) && edit(w.store, userAuthor, s.Namespace, s.Name, how)
	}}
}

var deadlineStory = story{name: "a deadline passes", build: func(w *world) []*step {
	return append([]*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) {
			nb.Spec.Token.TTL.Duration, nb.Spec.Token.JoinDeadline = 11*time.Minute, &metav1.Duration{Duration: shortest}
		}),
		{name: "someone asks for a reissue when it is too late", wait: 2 * time.Second, do: func() bool {
			return w.stalled(worker, v1alpha1.ReasonJoinDeadlineExceeded) && w.asksReissue(worker, "1")
		}},
	}, w.machine(worker).joinsAndLeaves(always)...)
}}

var inTheWayStory = story{name: "objects of the same names exist", build: func(w *world) []*step {
	theirs := []key{{"Secret", namespace, owned.KubeconfigSecretName(worker)}, {kind: "ClusterRoleBinding", name: rbac.BindingCreateCSRs}}
	gives := func(k key) *step {
		return &step{name: "someone deletes the conflicting objects", wait: 2 * time.Second, do: func() bool {
			if !w.stalled(worker, v1alpha1.ReasonObjectNotOurs) {
				return false
			}
			delete(w.Foreign, k.public())
			w.remove(userAuthor, k)
			return true
		}}
	}
	return append([]*step{
		{name: "someone creates Secrets and a binding of the same names", wait: time.Second, do: func() bool {
			w.add(userAuthor, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: theirs[0].namespace, Name: theirs[0].name}, Data: map[string][]byte{"a": []byte("b")}})
			w.add(userAuthor, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: theirs[1].name}, RoleRef: rbacv1.RoleRef{Name: roleNodeBootstrapper}})
			id := token.NextID(uidOf(key{kind: "NodeBootstrap", name: worker}, 1), "")
			w.add(userAuthor, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName(id)},
				Type: bootstrapapi.SecretTypeBootstrapToken, Data: map[string][]byte{bootstrapapi.BootstrapTokenIDKey: []byte(id)}})
			for _, k := range append(theirs, key{"Secret", token.Namespace, token.SecretName(id)}) {
				w.Foreign[k.public()] = true
			}
			return true
		}},
		w.wantsIt(), gives(theirs[0]), gives(theirs[1]),
	}, w.machine(worker).joinsAndLeaves(always)...)
}}

var recreatedStory = story{name: "deleted and recreated at once", build: func(w *world) []*step {
	steps := []*step{
		w.wantsIt(),
		{name: "the NodeBootstrap is replaced", do: func() bool { return w.isReady(worker) && w.unwants(worker) && w.wants(worker) }, wait: 5 * time.Second},
	}
	steps = append(steps, w.machine(worker).joins(always)...)
	return append(steps,
		&step{name: "and again", do: func() bool { return w.isDone(worker) && w.unwants(worker) && w.wants(worker) }, wait: 5 * time.Second},
		w.leaves(worker, w.joined(worker)))
}}

// A member's NodeBootstrap is applied again with the annotation of a reissue that was handled long ago, as it is in Git.
var oldReissueStory = story{name: "an old reissue is applied again", build: func(w *world) []*step {
	made := 0
	steps := append([]*step{w.wantsIt()}, w.machine(worker).joins(always)...)
	return append(steps,
		&step{name: "the NodeBootstrap is replaced, with an old annotation", wait: 5 * time.Second, do: func() bool {
			if !w.isDone(worker) {
				return false
			}
			made = w.Tokens()
			return w.unwants(worker) && w.wants(worker, func(nb *v1alpha1.NodeBootstrap) {
				nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: begin.Add(-time.Hour).UTC().Format(time.RFC3339)}
			})
		}},
		&step{name: "the member is observed", wait: time.Second, do: func() bool {
			if w.Tokens() > made {
				w.violated(invariants.LiveTokens.Violated("a member got a token for an old reissue"))
			}
			return w.isDone(worker)
		}},
		w.leaves(worker, w.joined(worker)))
}}

// A person denies the machine's CSR, and approves the next one.
var deniedStory = story{name: "a person denies, then approves", build: func(w *world) []*step {
	m := w.machine(worker)
	recorded := func() bool {
		nb := get[*v1alpha1.NodeBootstrap](w.store, "", worker)
		return nb != nil && slices.ContainsFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
			return d.Name == m.request && d.Verdict == v1alpha1.VerdictDenied && d.Reason == "DeniedElsewhere" && d.Message != ""
		})
	}
	steps := m.joinsAndLeaves(always)
	return append([]*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }),
		steps[0],
		{name: "a person denies", do: func() bool {
			r := get[*certificatesv1.CertificateSigningRequest](w.store, "", m.request)
			if r == nil || !undecided(r) {
				return false
			}
			w.decide(userAuthor, r, certificatesv1.CertificateDenied, "KubectlDeny")
			return true
		}, wait: 3 * time.Second},
		m.restarts(2, recorded),
		w.approves(m),
	}, steps[1:]...)
}}

func deletedStory(name string, finalizers ...string) story {
	return story{name: name, build: func(w *world) []*step {
		return []*step{w.wantsIt(), {name: "nobody wants the node", wait: 5 * time.Second, do: func() bool {
			return w.isReady(worker) && w.unwants(worker, finalizers...)
		}}}
	}}
}

var revokedStory = story{name: "someone deletes the token", build: func(w *world) []*step {
	steps := []*step{w.wantsIt(), {name: "a revocation", wait: 2 * time.Second, do: func() bool {
		s := w.theToken()
		if s == nil || !w.isReady(worker) {
			return false
		}
		w.remove(userAuthor, keyOf(s))
		return true
	}}}
	return append(steps, w.machine(worker).joinsAndLeaves(always)...)
}}

var editsStory = story{name: "someone edits the Secrets", build: func(w *world) []*step {
	onKubeconfig := func(name string, how func(*corev1.Secret)) *step {
		return &step{name: name, wait: 2 * time.Second, do: func() bool {
			return w.isReady(worker) && edit(w.store, userAuthor, namespace, owned.KubeconfigSecretName(worker), how)
		}}
	}
	return append([]*step{
		w.wantsIt(),
		w.onToken("the token's end is moved", func(s *corev1.Secret) {
			s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(w.now().Add(time.Hour).UTC().Format(time.RFC3339))
		}),
		w.onToken("the token has no groups any more", func(s *corev1.Secret) { delete(s.Data, bootstrapapi.BootstrapTokenExtraGroupsKey) }),
		onKubeconfig("the kubeconfig has other content", func(s *corev1.Secret) { s.Data["kubeconfig"] = []byte("nothing") }),
		onKubeconfig("it cannot be changed any more", func(s *corev1.Secret) { s.Immutable, s.Data["kubeconfig"] = new(true), []byte("nothing") }),
		w.onToken("the token has no labels any more", func(s *corev1.Secret) { s.Labels = nil }),
	}, w.machine(worker).joinsAndLeaves(func() bool { return w.passed(12 * time.Second) })...)
}}

var specStory = story{name: "someone edits the spec", build: func(w *world) []*step {
	edits := func(name string, how func(*v1alpha1.NodeBootstrapSpec)) *step {
		return &step{name: name, wait: 2 * time.Second, do: func() bool {
			return w.isReady(worker) && edit(w.store, userAuthor, "", worker, func(nb *v1alpha1.NodeBootstrap) { how(&nb.Spec) })
		}}
	}
	return append([]*step{
		w.wantsIt(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Token.TTL.Duration = time.Hour }),
		edits("the server", func(s *v1alpha1.NodeBootstrapSpec) { s.Cluster.Server = "https://other.example.com" }),
		edits("a shorter ttl", func(s *v1alpha1.NodeBootstrapSpec) { s.Token.TTL.Duration = shortest }),
		edits("approval ClusterWide", func(s *v1alpha1.NodeBootstrapSpec) { s.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide }),
		edits("approval Node", func(s *v1alpha1.NodeBootstrapSpec) { s.ClientCertificate.Approval = "" }),
	}, w.machine(worker).joinsAndLeaves(always)...)
}}

var bindingsStory = story{name: "someone edits bindings", build: func(w *world) []*step {
	bypass := func() bool {
		return meta.IsStatusConditionFalse(w.conditions(worker), v1alpha1.ConditionApprovalEnforced)
	}
	theirs := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "kubeadm:node-autoapprove-bootstrap"}, RoleRef: rbacv1.RoleRef{Name: roleNodeClient},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: token.Group}},
	}
	edits := func(name string, how func(*rbacv1.ClusterRoleBinding)) *step {
		return &step{name: name, wait: 2 * time.Second, do: func() bool {
			return w.isReady(worker) && edit(w.store, userAuthor, "", name, how)
		}}
	}
	return append([]*step{
		w.wantsIt(),
		edits(rbac.BindingCreateCSRs, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = nil }),
		edits(rbac.BindingApproveRenewals, func(b *rbacv1.ClusterRoleBinding) { b.RoleRef.Name = "another" }),
		{name: "someone lets every token join as any node", wait: 2 * time.Second, do: func() bool {
			w.Foreign[keyOf(theirs).public()] = true
			w.add(userAuthor, theirs.DeepCopy())
			return true
		}},
		{name: "and reverts that", wait: 2 * time.Second, do: func() bool {
			if bypass() {
				w.remove(userAuthor, keyOf(theirs))
			}
			return w.latest(keyOf(theirs)) == nil
		}},
	}, w.machine(worker).joinsAndLeaves(func() bool { return !bypass() })...)
}}

func (w *world) conditions(node string) []metav1.Condition {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", node)
	if nb == nil {
		return nil
	}
	return nb.Status.Conditions
}

// allStories are those for single faults.
var allStories = slices.Concat([]story{mainStory}, machineStories, []story{
	deadlineStory, inTheWayStory, recreatedStory, oldReissueStory, deniedStory, revokedStory, editsStory, specStory, bindingsStory,
	successorStory, discoveryStory,
	deletedStory("deleted in the background"), deletedStory("deleted in the foreground", foregroundFinalizer), deletedStory("deleted and orphaned", orphanFinalizer),
}, raceStories, clusterStories)
