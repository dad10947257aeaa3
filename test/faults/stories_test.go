// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// story is what people and machines do, in this order.
type story struct {
	name  string
	build func(*world) []*step
	steps []*step
	// except is the calls whose faults are allowed to lead to another end state.
	except func(at) bool
	// forgetful means that the record of decisions may differ: a lost one may be recorded again, or not.
	forgetful bool
}

// step is done as soon as it is possible.
type step struct {
	name string
	do   func() bool
	// wait is how long nobody else does anything afterwards.
	wait time.Duration
	// rest means that the cluster settles before the step, in the same state as in the undisturbed run.
	rest bool
	done bool
}

// patience is how long a person waits for the next step to become possible.
const patience = 20 * time.Minute

// play runs the story in a world and lets the cluster settle.
func (w *world) play(s story) {
	w.story = &s
	s.steps = s.build(w)
	w.startOperator()
	for i, step := range s.steps {
		w.next = i
		if step.rest && !step.done {
			w.letSettle()
			w.atRest(i)
		}
		for begun := w.clock.Now(); !w.take(step); {
			if w.clock.Now().Sub(begun) > patience {
				w.violated(invariants.SameEnd.Violated("the story cannot continue: %s", step.name))
				return
			}
			w.run(time.Second)
		}
		w.next = i + 1
		w.run(step.wait)
	}
	w.letSettle()
	w.atRest(len(s.steps))
}

// letSettle lets time pass until no retry is pending.
func (w *world) letSettle() {
	w.run(time.Minute)
	for begun := w.clock.Now(); (len(w.op.failures) > 0 || w.interfered()) && w.clock.Since(begun) < patience; {
		w.run(time.Second)
	}
}

// atRest records the cluster's state before a step, unless the step was already done ahead of time.
func (w *world) atRest(step int) {
	if step == len(w.story.steps) || !w.story.steps[step].done {
		w.rests[step] = w.state()
		w.checkSettled()
	}
}

// take does a step if it is possible and was not done yet.
func (w *world) take(s *step) bool {
	if !s.done {
		w.inStep = true
		s.done = s.do()
		w.inStep = false
		if s.done {
			w.note("%s", s.name)
		}
	}
	return s.done
}

// nextStep does the next step of the story now, if it is possible.
func (w *world) nextStep() {
	if w.story != nil && w.next < len(w.story.steps) && !w.inStep {
		w.take(w.story.steps[w.next])
	}
}

// crdKey is the CustomResourceDefinition, which owns the bindings.
var crdKey = key{kind: "CustomResourceDefinition", name: rbac.CRDName}

// clusterCA and anotherCA are any valid certificates, short ones, because each reconcile renders and compares them.
var (
	clusterCA = sync.OnceValue(func() string { return newCA(1) })
	anotherCA = sync.OnceValue(func() string { return newCA(2) })
)

func newCA(serial int64) string {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: begin.AddDate(-1, 0, 0), NotAfter: begin.AddDate(50, 0, 0),
	}
	k := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// setUp fills a new cluster, including foreign objects that look like the operator's.
func (w *world) setUp() {
	crd := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: crdKey.kind}, ObjectMeta: metav1.ObjectMeta{Name: crdKey.name}}
	w.add(userAuthor, crd)
	w.add(userAuthor, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": clusterCA()}})
	ours := func(ns, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: ns, Name: name,
			Labels:          map[string]string{owned.ManagedByLabel: owned.ManagedBy},
			Annotations:     map[string]string{owned.NodeNameAnnotation: worker},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "CustomResourceDefinition", Name: "another", UID: crd.UID, Controller: new(true)}},
		}
	}
	kubeadm := map[string][]byte{
		bootstrapapi.BootstrapTokenIDKey: []byte("kubadm"), bootstrapapi.BootstrapTokenSecretKey: []byte("0123456789abcdef"),
		bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"), bootstrapapi.BootstrapTokenExtraGroupsKey: []byte("system:bootstrappers:kubeadm"),
	}
	for _, o := range []client.Object{
		&corev1.Secret{ObjectMeta: ours(token.Namespace, "bootstrap-token-kubadm"), Type: bootstrapapi.SecretTypeBootstrapToken, Data: kubeadm},
		&corev1.Secret{ObjectMeta: ours(token.Namespace, "look-alike")},
		&corev1.Secret{ObjectMeta: ours(namespace, "look-alike")},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: owned.KubeconfigSecretName("another")}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: rbac.BindingCreateCSRs + "-2"}, RoleRef: rbacv1.RoleRef{Name: roleNodeBootstrapper}},
		w.foreignRequest("system:bootstrap:kubadm", "system:bootstrappers", "system:bootstrappers:kubeadm", "system:authenticated"),
		w.foreignRequest("system:node:another", "system:nodes", "system:authenticated"),
		w.foreignRequest("admin", "system:masters", "system:authenticated"),
	} {
		w.add(userAuthor, o)
		w.Foreign[keyOf(o).public()] = true
	}
}

func (w *world) foreignRequest(user string, groups ...string) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "of-" + strings.ReplaceAll(user, ":", "-")},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: clientRequest("foreign", worker), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, Username: user, Groups: groups,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
}

const (
	worker = "worker-1"
	// shortest is the shortest ttl.
	shortest = 10 * time.Minute
)

// isReady reports whether the credential is ready, as a waiting person sees it.
func (w *world) isReady(node string) bool {
	nb := get[*v1alpha1.NodeBootstrap](w.store, "", node)
	return nb != nil && nb.Status.ObservedGeneration == nb.Generation && nb.Status.KubeconfigSecretRef != nil &&
		nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation] == nb.Status.LastHandledReissueAt &&
		meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionReady)
}

func (w *world) isJoined(node string) bool {
	return meta.IsStatusConditionTrue(w.conditions(node), v1alpha1.ConditionJoined)
}

// isDone reports whether the node has joined and its credential was deleted.
func (w *world) isDone(node string) bool {
	return w.isJoined(node) && meta.IsStatusConditionTrue(w.conditions(node), v1alpha1.ConditionReady)
}

// passed reports whether so much time has passed since the story began.
func (w *world) passed(d time.Duration) bool { return w.clock.Since(begin) > d }

// wants creates the NodeBootstrap.
func (w *world) wants(node string, edits ...func(*v1alpha1.NodeBootstrap)) bool {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}}
	nb.Spec.Token.TTL = &metav1.Duration{Duration: shortest}
	for _, edit := range edits {
		edit(nb)
	}
	w.add(userAuthor, nb)
	return true
}

// unwants deletes the NodeBootstrap, with the finalizer of a kind of deletion if it has one.
func (w *world) unwants(node string, finalizers ...string) bool {
	edit(w.store, userAuthor, "", node, func(nb *v1alpha1.NodeBootstrap) { nb.Finalizers = finalizers })
	w.remove(userAuthor, key{kind: "NodeBootstrap", name: node})
	return true
}

func (w *world) asksReissue(node, value string) bool {
	return edit(w.store, userAuthor, "", node, func(nb *v1alpha1.NodeBootstrap) {
		if nb.Annotations == nil {
			nb.Annotations = map[string]string{}
		}
		nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = value
	})
}

// joins is how a machine joins once a condition holds.
func (m *machine) joins(when func() bool) []*step {
	return []*step{
		{name: "the machine gets the kubeconfig and asks", do: func() bool { return when() && m.give() && m.ask() }, wait: 2 * time.Second},
		{name: "it collects its certificate", do: m.collect, wait: time.Second},
		{name: "it registers", do: m.register, wait: time.Second},
		{name: "it renews its Lease", do: m.beat, wait: 3 * time.Second}, // longer than a cache lags
	}
}

// joinsAndLeaves is how a machine joins, and how its node is removed.
func (m *machine) joinsAndLeaves(when func() bool) []*step {
	return append(m.joins(when), m.w.leaves(worker, m.w.joined(worker)))
}

// runsOn is how a kubelet renews its Lease after a minute.
func (m *machine) runsOn() *step {
	var from time.Time
	return &step{name: "it renews its Lease a minute later", wait: 2 * time.Second, do: func() bool {
		if from.IsZero() {
			from = m.w.now()
		}
		return m.w.now().Sub(from) > 65*time.Second && m.beat()
	}}
}

func always() bool { return true }

// leaves is how a node that has joined, or should no longer join, is removed.
func (w *world) leaves(node string, when func() bool) *step {
	return &step{name: "nobody wants the node any more", rest: true, do: func() bool { return when() && w.unwants(node) }, wait: 5 * time.Second}
}

func (w *world) joined(node string) func() bool { return func() bool { return w.isJoined(node) } }

// mainStory is the one for all pairs of faults.
var mainStory = clocksStory("join, renew, reissue, delete", 0, 0, 0)

// clocksStory sets the API server's clock ahead of the operator's, and those of the machine and a person ahead of the API
// server's.
func clocksStory(name string, server, machine, kubectl time.Duration) story {
	return story{name: name, build: func(w *world) []*step {
		w.skew, w.kubectlAhead = server, kubectl
		return w.fromJoiningToDeletion(machine)
	}}
}

func (w *world) fromJoiningToDeletion(ahead time.Duration) []*step {
	m, again := w.machine(worker), w.machine(worker)
	again.disk, m.ahead, again.ahead = 2, ahead, ahead
	steps := []*step{{name: "someone wants the node", do: func() bool { return w.wants(worker) }, wait: 11 * time.Minute}}
	steps = append(steps, m.joins(func() bool { return w.passed(shortest) })...)
	steps = append(steps,
		&step{name: "someone asks for a reissue", do: func() bool { return w.isJoined(worker) && w.asksReissue(worker, "1") }, wait: time.Second},
		&step{name: "the old kubelet still runs", do: m.beat, wait: time.Second},
	)
	steps = append(steps, again.joins(always)...)
	return append(steps, again.runsOn(), w.leaves(worker, w.joined(worker)))
}
