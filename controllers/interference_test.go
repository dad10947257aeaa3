// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// mutation is a change by admission control to a written object.
type mutation func(o *unstructured.Unstructured)

func set(value any, fields ...string) mutation {
	return func(o *unstructured.Unstructured) {
		if err := unstructured.SetNestedField(o.Object, value, fields...); err != nil {
			panic(err)
		}
	}
}

func without(fields ...string) mutation {
	return func(o *unstructured.Unstructured) { unstructured.RemoveNestedField(o.Object, fields...) }
}

func bare(o *unstructured.Unstructured) {
	o.SetLabels(nil)
	o.SetAnnotations(nil)
	o.SetOwnerReferences(nil)
}

// meddler is a mutating webhook. It changes the operator's writes for some nodes.
type meddler struct {
	*env.Env
	clock *clocktesting.FakePassiveClock
	audit *env.Audit

	mu sync.Mutex
	// tokens and kubeconfigs are the changes of a node's Secrets when they are created or updated, statuses those of its
	// status.
	tokens, kubeconfigs, statuses map[string]mutation
	// bindings are the changes of the shared ClusterRoleBindings, by name.
	bindings map[string]mutation
	// created is the number of token Secrets created for a node, without dry runs.
	created map[string]int
}

// startMeddler starts a cluster with the webhook and with the operator, which uses the test's clock.
func startMeddler(t *testing.T) *meddler {
	t.Helper()
	audit, err := env.NewAudit(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &meddler{
		clock: clocktesting.NewFakePassiveClock(time.Now()), audit: audit,
		tokens: map[string]mutation{}, kubeconfigs: map[string]mutation{}, statuses: map[string]mutation{}, bindings: map[string]mutation{}, created: map[string]int{},
	}
	e, stop, err := startOperator(t.Context(), localcluster.Config{NoControllerManager: true, APIServerArgs: audit.Args()}, m.clock, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	m.Env = e
	m.serve(t)
	return m
}

func (m *meddler) serve(t *testing.T) {
	t.Helper()
	handler, err := admission.StandaloneWebhook(&admission.Webhook{Handler: admission.HandlerFunc(m.handle)}, admission.StandaloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	rule := func(group, version, resource string) admissionregistrationv1.RuleWithOperations {
		return admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource}},
		}
	}
	m.Create(t, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "meddler"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name:         "meddler.example.com",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To(server.URL), CABundle: ca},
			Rules: []admissionregistrationv1.RuleWithOperations{
				rule("", "v1", "secrets"), rule("rbac.authorization.k8s.io", "v1", "clusterrolebindings"),
				rule(v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version, "nodebootstraps/status"),
			},
			SideEffects:             ptr.To(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	})
	env.Eventually(t, "the webhook", func() error {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName("probe")}}
		m.meddle(m.kubeconfigs, "probe", set("yes", "metadata", "labels", "probed"))
		if err := m.Client.Create(t.Context(), s, client.DryRunAll); err != nil {
			return err
		}
		if s.Labels["probed"] == "" {
			return errors.New("it is not called")
		}
		return nil
	})
}

func (m *meddler) meddle(what map[string]mutation, node string, how mutation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	what[node] = how
}

func (m *meddler) handle(_ context.Context, r admission.Request) admission.Response {
	var o unstructured.Unstructured
	if err := json.Unmarshal(r.Object.Raw, &o.Object); err != nil {
		return admission.Errored(400, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	of, node := m.tokens, owned.NodeOf(&o)
	switch {
	case r.Resource.Resource == "nodebootstraps":
		of, node = m.statuses, o.GetName()
	case r.Resource.Resource == "clusterrolebindings":
		of, node = m.bindings, o.GetName()
	case r.Namespace == operator.Namespace:
		of = m.kubeconfigs
	case r.Operation == "CREATE" && !ptr.Deref(r.DryRun, false):
		m.created[node]++
	}
	how := of[node]
	if how == nil {
		return admission.Allowed("")
	}
	how(&o)
	changed, err := json.Marshal(o.Object)
	if err != nil {
		return admission.Errored(500, err)
	}
	return admission.PatchResponseFromRaw(r.Object.Raw, changed)
}

// writes returns the number of the operator's writes so far, by node or shared binding.
func (m *meddler) writes(t *testing.T) map[string]int {
	t.Helper()
	entries, err := m.audit.Writes()
	if err != nil {
		t.Fatal(err)
	}
	var list v1alpha1.NodeBootstrapList
	if err := m.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	nodeOf := map[string]string{}
	for _, nb := range list.Items {
		nodeOf[nb.Name], nodeOf[owned.KubeconfigSecretName(nb.Name)] = nb.Name, nb.Name
		id := ""
		for range 50 {
			id = token.NextID(nb.UID, id)
			nodeOf[token.SecretName(id)] = nb.Name
		}
	}
	for _, name := range rbac.BindingNames {
		nodeOf[name] = name
	}
	out := map[string]int{}
	for _, e := range entries {
		if e.ObjectRef.Resource != "events" {
			out[nodeOf[e.ObjectRef.Name]]++
		}
	}
	return out
}

// quiet waits until the operator has written nothing for a while, and returns its writes so far, by node.
func (m *meddler) quiet(t *testing.T) map[string]int {
	t.Helper()
	const quietFor, every = 1500 * time.Millisecond, 200 * time.Millisecond // the operator handles its own events after a second
	last, changed, looked := m.writes(t), time.Now(), time.Now()
	env.Within(t, 3*env.Limit, "the operator is quiet", func() error {
		if time.Since(looked) >= every { // the audit log is long
			now := m.writes(t)
			if looked = time.Now(); !maps.Equal(now, last) {
				last, changed = now, looked
			}
		}
		if looked.Sub(changed) < quietFor {
			return errors.New("it writes")
		}
		return nil
	})
	return last
}

// minutes moves the clock by some minutes, one after the other, and triggers a reconcile of every node in each. It returns the
// maximum of writes in one minute, by node, and the writes so far. before are the writes when the operator was last quiet.
func (m *meddler) minutes(t *testing.T, n int, before map[string]int) (most, now map[string]int) {
	t.Helper()
	most = map[string]int{}
	for range n {
		m.clock.SetTime(m.clock.Now().Add(time.Minute + time.Second))
		m.poke(t)
		m.pokeBindings(t)
		now = m.quiet(t)
		for node, writes := range now {
			most[node] = max(most[node], writes-before[node])
		}
		before = now
	}
	return most, now
}

func (m *meddler) poke(t *testing.T) {
	t.Helper()
	var list v1alpha1.NodeBootstrapList
	if err := m.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	for _, nb := range list.Items {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.com/poked":%q}}}`, m.clock.Now())
		if err := m.Client.Patch(t.Context(), &nb, client.RawPatch("application/merge-patch+json", []byte(patch))); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
}

// pokeBindings triggers a reconcile of the shared bindings, with another NodeBootstrap.
func (m *meddler) pokeBindings(t *testing.T) {
	t.Helper()
	nb := m.NodeBootstrap("another")
	if err := m.Client.Create(t.Context(), nb); err != nil {
		t.Fatal(err)
	}
	m.DeleteAfter(t, nb)
}

// Interference with the objects of one node. All nodes start at the same time, and share the minutes.
func TestInterference(t *testing.T) {
	t.Parallel()
	m := startMeddler(t)
	all := map[string]interference{
		"admission changes Secrets and statuses": m.admissionChangesSecrets(t),
		"another client undoes Secrets":          m.othersUndoSecrets(t),
		"another client undoes a status":         m.othersUndoStatus(t),
	}
	first := m.quiet(t)
	perMinute, last := m.minutes(t, 3, first)
	for name, i := range all {
		t.Run(name, func(t *testing.T) { i.check(t, first, perMinute) })
	}
	m.minutes(t, 2, last) // first a status without the problem is stored
	for name, i := range all {
		t.Run(name+" no more", i.checkEnd)
	}
}

// interference has started with some nodes. check gets the writes for each node until the operator was quiet and the maximum in
// one minute after that, checks them, and ends the interference. checkEnd checks that everything is correct again.
type interference struct {
	check    func(t *testing.T, first, perMinute map[string]int)
	checkEnd func(t *testing.T)
}

// Interference with the objects that all nodes share.
func TestInterferenceWithBindings(t *testing.T) {
	t.Parallel()
	m := startMeddler(t)
	t.Run("another client undoes bindings", m.othersUndoBindings)
	t.Run("admission changes bindings", m.admissionChangesBindings)
	t.Run("bindings are refused", m.bindingsAreRefused)
}

// Bounds of the writes for one node: until it is quiet, and in each minute after that. A token that is replaced takes five: both
// Secrets are deleted and created, and the status is stored.
const (
	mostAtFirst   = 80
	mostPerMinute = 5
)

// A harmless change by admission control is left alone. A harmful one is reported with the object and the field, no further
// token is created, and the operator writes little. When the changes stop, the credential is published.
func (m *meddler) admissionChangesSecrets(t *testing.T) interference {
	t.Helper()
	const group, usage = "auth-extra-groups", "usage-bootstrap-authentication"
	cases := map[string]struct {
		of    map[string]mutation
		how   mutation
		field string // empty if the change is harmless
	}{
		"t-immutable":   {m.tokens, set(true, "immutable"), ""},
		"t-label":       {m.tokens, without("metadata", "labels"), ""},
		"t-other-label": {m.tokens, set("someone", "metadata", "labels", owned.ManagedByLabel), ""},
		"t-annotation":  {m.tokens, without("metadata", "annotations"), ""},
		"t-description": {m.tokens, set("eA==", "data", "description"), ""},
		"t-more-data":   {m.tokens, set("eA==", "data", "more"), ""},
		"t-owner":       {m.tokens, without("metadata", "ownerReferences"), "metadata.ownerReferences"},
		"t-bare":        {m.tokens, bare, "metadata.ownerReferences"},
		"t-groups":      {m.tokens, set("c3lzdGVtOmJvb3RzdHJhcHBlcnM6b3RoZXI=", "data", group), "data." + group},
		"t-no-groups":   {m.tokens, without("data", group), "data." + group},
		"t-usage":       {m.tokens, without("data", usage), "data." + usage},
		"t-expiration":  {m.tokens, set("MjAyNi0wMS0wMVQwMDowMDowMFo=", "data", "expiration"), "data.expiration"},
		"t-secret":      {m.tokens, set("YWFhYWFhYWFhYWFhYWFhYQ==", "data", "token-secret"), "data.token-secret"},
		"t-id":          {m.tokens, set("YWFhYWFh", "data", "token-id"), "data.token-id"},
		"t-type":        {m.tokens, set("Opaque", "type"), "type"},
		"k-immutable":   {m.kubeconfigs, set(true, "immutable"), ""},
		"k-label":       {m.kubeconfigs, without("metadata", "labels"), ""},
		"k-annotation":  {m.kubeconfigs, without("metadata", "annotations"), ""},
		"k-owner":       {m.kubeconfigs, without("metadata", "ownerReferences"), "metadata.ownerReferences"},
		"k-bare":        {m.kubeconfigs, bare, "metadata.ownerReferences"},
		"k-kubeconfig":  {m.kubeconfigs, set("eA==", "data", "kubeconfig"), "data.kubeconfig"},
		"k-ca":          {m.kubeconfigs, without("data", "ca.crt"), "data.ca.crt"},
		"k-type":        {m.kubeconfigs, set("example.com/other", "type"), "type"},
		"s-token":       {m.statuses, without("status", "token"), "status.token"},
		"s-secret-ref":  {m.statuses, without("status", "kubeconfigSecretRef"), "status.kubeconfigSecretRef"},
	}
	for node, c := range cases {
		m.meddle(c.of, node, c.how)
		m.Create(t, m.NodeBootstrap(node))
	}
	for node, c := range cases {
		if c.field == "" {
			m.WaitAwaited(t, node)
			continue
		}
		nb := m.WaitReady(t, node, metav1.ConditionFalse, v1alpha1.ReasonAdmissionInterferes)
		if message := env.ReadyMessage(nb); !strings.Contains(message, c.field+" ") && !strings.Contains(message, c.field+",") {
			t.Errorf("%s: the message does not name %s: %s", node, c.field, message)
		}
		if !meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionStalled) {
			t.Errorf("%s: it is not Stalled", node)
		}
	}
	return interference{
		check: func(t *testing.T, first, perMinute map[string]int) {
			for _, node := range slices.Sorted(maps.Keys(cases)) {
				c := cases[node]
				t.Logf("%-14s %-34s %3d writes at first, then at most %d in a minute, %d tokens", node, c.field, first[node], perMinute[node], m.created[node])
				if first[node] > mostAtFirst || perMinute[node] > mostPerMinute || m.created[node] > 1 {
					t.Errorf("%s: too many writes", node)
				}
				if c.field == "" && perMinute[node] > 0 {
					t.Errorf("%s: a harmless change is undone", node)
				}
				m.meddle(c.of, node, nil)
			}
		},
		checkEnd: func(t *testing.T) {
			for node := range cases {
				m.WaitAwaited(t, node)
			}
		},
	}
}

// fight undoes the operator's writes, every few milliseconds, until stop is called.
func (m *meddler) fight(t *testing.T, undo func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			if err := undo(ctx); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	stop = func() { cancel(); ended.Wait() }
	t.Cleanup(stop)
	return stop
}

// spoil changes an object as another client does, if that changes anything.
func spoil[T client.Object](m *meddler, o T, how func(T)) func(context.Context) error {
	return func(ctx context.Context) error {
		have := o.DeepCopyObject().(T)
		if err := m.Client.Get(ctx, client.ObjectKeyFromObject(o), have); err != nil {
			return err
		}
		changed := have.DeepCopyObject().(T)
		how(changed)
		if equality.Semantic.DeepEqual(have, changed) {
			return nil
		}
		return m.Client.Update(ctx, changed)
	}
}

// ofToken calls a function with the newest token of a node.
func (m *meddler) ofToken(node string, do func(context.Context, *corev1.Secret) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var nb v1alpha1.NodeBootstrap
		if err := m.Client.Get(ctx, client.ObjectKey{Name: node}, &nb); err != nil {
			return err
		}
		id := ""
		for range 200 {
			id = token.NextID(nb.UID, id)
			var s corev1.Secret
			err := m.Client.Get(ctx, client.ObjectKey{Namespace: token.Namespace, Name: token.SecretName(id)}, &s)
			if err == nil {
				return do(ctx, &s)
			}
			if id == nb.Status.LastTokenID || !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	}
}

func (m *meddler) onToken(node string, how func(*corev1.Secret)) func(context.Context) error {
	return m.ofToken(node, func(ctx context.Context, s *corev1.Secret) error { return spoil(m, s, how)(ctx) })
}

func (m *meddler) kubeconfigOf(node string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operator.Namespace, Name: owned.KubeconfigSecretName(node)}}
}

func (m *meddler) onKubeconfig(node string, how func(*corev1.Secret)) func(context.Context) error {
	return spoil(m, m.kubeconfigOf(node), how)
}

// Another client undoes each write of an object. The operator writes little, the condition names the object and does not change
// with each write, and when the other client stops, the credential is published again.
func (m *meddler) othersUndoSecrets(t *testing.T) interference {
	t.Helper()
	const group = "auth-extra-groups"
	relabel := func(s *corev1.Secret) { s.Labels = map[string]string{owned.ManagedByLabel: "someone"} }
	disown := func(s *corev1.Secret) { s.OwnerReferences = nil }
	bareSecret := func(s *corev1.Secret) { s.Labels, s.Annotations, s.OwnerReferences = nil, nil, nil }
	data := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data[key] = []byte(value) }
	}
	remove := func(ctx context.Context, s *corev1.Secret) error { return m.Client.Delete(ctx, s) }
	fights := map[string]struct {
		undo     func(context.Context) error
		harmless bool
	}{
		"ut-label":       {m.onToken("ut-label", relabel), true},
		"ut-description": {m.onToken("ut-description", data("description", "x")), true},
		"ut-owner":       {m.onToken("ut-owner", disown), false},
		"ut-bare":        {m.onToken("ut-bare", bareSecret), false},
		"ut-groups":      {m.onToken("ut-groups", data(group, "system:bootstrappers:other")), false},
		"ut-expiration":  {m.onToken("ut-expiration", data("expiration", "2026-01-01T00:00:00Z")), false},
		"ut-secret":      {m.onToken("ut-secret", data("token-secret", "")), false},
		"ut-deleted":     {m.ofToken("ut-deleted", remove), false},
		"uk-label":       {m.onKubeconfig("uk-label", relabel), true},
		"uk-data":        {m.onKubeconfig("uk-data", data("kubeconfig", "x")), false},
		"uk-owner":       {m.onKubeconfig("uk-owner", disown), false},
		"uk-deleted":     {func(ctx context.Context) error { return remove(ctx, m.kubeconfigOf("uk-deleted")) }, false},
		"uk-immutable": {m.onKubeconfig("uk-immutable", func(s *corev1.Secret) {
			if !ptr.Deref(s.Immutable, false) {
				s.Immutable, s.Data["kubeconfig"] = ptr.To(true), []byte("x")
			}
		}), false},
		"un-reissue": {spoil(m, m.NodeBootstrap("un-reissue"), func(nb *v1alpha1.NodeBootstrap) {
			if asked := nb.Annotations[v1alpha1.ReissueRequestedAtAnnotation]; asked == nb.Status.LastHandledReissueAt {
				nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: asked + "x"}
			}
		}), false},
	}
	for node := range fights {
		m.Create(t, m.NodeBootstrap(node))
	}
	var stops []func()
	for node, f := range fights {
		m.WaitAwaited(t, node)
		stops = append(stops, m.fight(t, f.undo))
	}
	return interference{
		check: func(t *testing.T, first, perMinute map[string]int) {
			for _, node := range slices.Sorted(maps.Keys(fights)) {
				t.Logf("%-14s %3d writes at first, then at most %d in a minute, %d tokens", node, first[node], perMinute[node], m.created[node])
				if first[node] > mostAtFirst || perMinute[node] > mostPerMinute {
					t.Errorf("%s: too many writes", node)
				}
				status, reason := metav1.ConditionFalse, v1alpha1.ReasonContested
				if fights[node].harmless {
					status, reason = metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode
				}
				nb := m.WaitReady(t, node, status, reason)
				if message := env.ReadyMessage(nb); !strings.Contains(message, "again and again") || !strings.Contains(message, "Secret") {
					t.Errorf("%s: the message does not report the other client: %s", node, message)
				}
			}
			for _, stop := range stops {
				stop()
			}
		},
		checkEnd: func(t *testing.T) {
			for node := range fights {
				nb, _ := m.WaitAwaited(t, node)
				if message := env.ReadyMessage(nb); strings.Contains(message, "again and again") {
					t.Errorf("%s: the message still reports another client: %s", node, message)
				}
			}
		},
	}
}

// Another client undoes each write of a NodeBootstrap's status, which then cannot report it: the operator still writes little.
func (m *meddler) othersUndoStatus(t *testing.T) interference {
	t.Helper()
	const node = "status"
	m.Create(t, m.NodeBootstrap(node))
	m.WaitAwaited(t, node)
	stop := m.fight(t, func(ctx context.Context) error {
		var nb v1alpha1.NodeBootstrap
		if err := m.Client.Get(ctx, client.ObjectKey{Name: node}, &nb); err != nil || len(nb.Status.Conditions) == 0 {
			return err
		}
		nb.Status.Conditions = nil
		return m.Client.Status().Update(ctx, &nb)
	})
	return interference{
		check: func(t *testing.T, first, perMinute map[string]int) {
			t.Logf("%d writes at first, then at most %d in a minute", first[node], perMinute[node])
			if first[node] > mostAtFirst || perMinute[node] > mostPerMinute {
				t.Error("too many writes")
			}
			stop()
		},
		checkEnd: func(t *testing.T) { m.WaitAwaited(t, node) },
	}
}

// Writes of the shared ClusterRoleBindings are bounded like those for one node, and each node that needs them reports the
// problem.
func (m *meddler) othersUndoBindings(t *testing.T) {
	const node, name = "bindings", rbac.BindingCreateCSRs
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	other := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "someone"}}
	m.Create(t, m.NodeBootstrap(node))
	m.WaitAwaited(t, node)
	before := m.quiet(t)
	for _, f := range []struct {
		name     string
		undo     func(context.Context) error
		harmless bool
	}{
		{"subjects", spoil(m, binding, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = other }), false},
		{"label", spoil(m, binding, func(b *rbacv1.ClusterRoleBinding) { b.Labels = nil }), true},
		{"deleted", func(ctx context.Context) error { return m.Client.Delete(ctx, binding.DeepCopy()) }, false},
		{"role", func(ctx context.Context) error {
			have := binding.DeepCopy()
			if err := m.Client.Get(ctx, client.ObjectKeyFromObject(have), have); err != nil || have.RoleRef.Name == "view" {
				return err
			}
			if err := m.Client.Delete(ctx, have.DeepCopy()); err != nil {
				return err
			}
			have.ResourceVersion, have.UID, have.RoleRef.Name = "", "", "view"
			return m.Client.Create(ctx, have)
		}, false},
	} {
		stop := m.fight(t, f.undo)
		first := m.quiet(t)
		perMinute, last := m.minutes(t, 2, first)
		of := func(writes map[string]int) int { return writes[name] + writes[node] }
		t.Logf("%-9s %d writes at first, then at most %d in a minute", f.name, of(first)-of(before), of(perMinute))
		if of(first)-of(before) > mostAtFirst || of(perMinute) > mostPerMinute {
			t.Errorf("%s: too many writes", f.name)
		}
		if !f.harmless {
			nb := m.WaitReady(t, node, metav1.ConditionFalse, v1alpha1.ReasonContested)
			if message := env.ReadyMessage(nb); !strings.Contains(message, "ClusterRoleBinding "+name) {
				t.Errorf("%s: the message does not name the binding: %s", f.name, message)
			}
		}
		stop()
		for range 11 { // until the full burst is available again
			m.clock.SetTime(m.clock.Now().Add(time.Minute))
		}
		_, before = m.minutes(t, 1, last)
		m.WaitAwaited(t, node)
	}
}

// Admission control changes the shared bindings, so that tokens could not send CSRs: no token is created until it stops.
func (m *meddler) admissionChangesBindings(t *testing.T) {
	const node, name = "bindings", rbac.BindingCreateCSRs
	for field, how := range map[string]mutation{
		"subjects":                 set([]any{map[string]any{"apiGroup": rbacv1.GroupName, "kind": "User", "name": "someone"}}, "subjects"),
		"roleRef":                  set("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "roleRef", "name"),
		"metadata.ownerReferences": bare,
		"":                         without("metadata", "labels"),
	} {
		m.meddle(m.bindings, name, how)
		nb := m.NodeBootstrap(node)
		if err := m.Client.Create(t.Context(), nb); err != nil {
			t.Fatal(err)
		}
		if field != "" {
			nb = m.WaitReady(t, node, metav1.ConditionFalse, v1alpha1.ReasonAdmissionInterferes)
			if message := env.ReadyMessage(nb); !strings.Contains(message, "ClusterRoleBinding "+name) || !strings.Contains(message, field) {
				t.Errorf("the message does not name the binding and %s: %s", field, message)
			}
			most, last := m.minutes(t, 1, m.quiet(t))
			if most[name] > mostPerMinute {
				t.Errorf("%s: %d writes in a minute", field, most[name])
			}
			if err := m.Absent(t.Context(), "", name, &rbacv1.ClusterRoleBinding{}); err != nil {
				t.Errorf("%s: %v", field, err)
			}
			m.meddle(m.bindings, name, nil)
			m.minutes(t, 1, last)
		}
		m.WaitAwaited(t, node)
		m.Delete(t, nb)
		env.Eventually(t, "the binding goes with the last NodeBootstrap", func() error {
			return m.Absent(t.Context(), "", name, &rbacv1.ClusterRoleBinding{})
		})
		m.clock.SetTime(m.clock.Now().Add(11 * time.Minute))
	}
}

// If the API server rejects a shared binding, its error is reported. The credential is published when it no longer rejects it.
func (m *meddler) bindingsAreRefused(t *testing.T) {
	const node, name = "bindings", rbac.BindingCreateCSRs
	m.meddle(m.bindings, name, set("cluster-admin", "roleRef", "name")) // which the operator may not bind
	m.Create(t, m.NodeBootstrap(node))
	env.Eventually(t, "the condition", func() error {
		var nb v1alpha1.NodeBootstrap
		m.Get(t, "", node, &nb)
		if err := env.HasReady(&nb, metav1.ConditionFalse, v1alpha1.ReasonWriteFailed); err != nil {
			return err
		}
		if message := env.ReadyMessage(&nb); !strings.Contains(message, "ClusterRoleBinding "+name) || !strings.Contains(message, "forbidden") {
			return fmt.Errorf("it says: %s", message)
		}
		return nil
	})
	m.meddle(m.bindings, name, nil)
	m.pokeBindings(t)
	m.WaitAwaited(t, node)
}
