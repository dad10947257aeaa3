// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// crowd is how many objects of each kind exist, either as large as the API server accepts them, or ordinary ones.
const crowd = 200

// awaited is how many of the NodeBootstraps are of nodes that have not joined, each of which sends a share of the CSRs.
const awaited = 25

// hostile measures the peak memory of the manager with a crowd of hostile objects of each kind that it watches, which exist at
// its start or arrive while it runs, next to that with as many honest ones.
func (b *bench) hostile(ctx context.Context) error {
	for _, build := range b.builds {
		peak := map[string]float64{}
		for _, kind := range []string{"honest", "hostile"} {
			err := onSite(ctx, quiet, func(s *site) error {
				var err error
				peak[kind], err = b.crowdOn(ctx, &crowded{s, kind == "hostile"}, build)
				return err
			})
			if err != nil {
				return err
			}
			b.results.add(build.name+kind+"_rss_mib", peak[kind])
		}
		b.results.add(build.name+"hostile_rss_ratio", peak["hostile"]/peak["honest"])
	}
	return nil
}

// crowdOn starts the manager twice. The first one finds half of the objects and receives the others as they are created; the
// second finds all of them, with undecided CSRs and edited Secrets of its own.
func (b *bench) crowdOn(ctx context.Context, c *crowded, build build) (float64, error) {
	if err := c.createConfigMaps(ctx); err != nil {
		return 0, err
	}
	if err := c.createForeign(ctx, 0, crowd/2); err != nil {
		return 0, err
	}
	m, err := c.start(ctx, build)
	if err != nil {
		return 0, err
	}
	err = until(ctx, 200*time.Millisecond, "the credentials", func() (bool, error) {
		n, err := m.sum(ctx, "nodebootstrap_credential_duration_seconds", nil)
		return n >= awaited, err
	})
	if err != nil {
		return 0, err
	}
	kubelets, err := c.kubelets(ctx)
	if err != nil {
		return 0, err
	}
	if err := c.createForeign(ctx, crowd/2, crowd); err != nil {
		return 0, err
	}
	if err := c.ask(ctx, kubelets, crowd/2); err != nil {
		return 0, err
	}
	first, err := c.peakAfter(ctx, m)
	if err != nil {
		return 0, err
	}
	if err := c.ask(ctx, kubelets, crowd/2); err != nil {
		return 0, err
	}
	if err := c.editOwn(ctx); err != nil {
		return 0, err
	}
	if m, err = c.start(ctx, build); err != nil {
		return 0, err
	}
	second, err := c.peakAfter(ctx, m)
	fmt.Printf("    at the first start %s MiB, at the second %s\n", figure(first), figure(second))
	return max(first, second), err
}

// inFew does n things, a few at a time: each MiB takes the API server a while.
func inFew(n int, do func(i int) error) error { return atOnce(4, n, do) }

// crowded is a site whose objects are all hostile, or all honest.
type crowded struct {
	*site
	hostile bool
}

// peakAfter stops a manager when it has decided on the CSRs of half of the crowd and is idle, and returns its peak memory.
func (c *crowded) peakAfter(ctx context.Context, m *running) (float64, error) {
	err := until(ctx, 200*time.Millisecond, "the verdicts", func() (bool, error) {
		n, err := m.sum(ctx, "nodebootstrap_certificate_decisions_total", nil)
		return n >= crowd/2, err
	})
	if err != nil {
		return 0, err
	}
	if _, err := m.untilQuiet(ctx); err != nil {
		return 0, err
	}
	peak, err := m.peakMemory()
	if err != nil {
		return 0, err
	}
	return peak, m.Stop()
}

// metadata is an object's. Hostile metadata has 3,000 labels, about one MiB: labels have no limit except etcd's of 1.5 MiB for an
// object.
func (c *crowded) metadata(namespace, name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": "honest"},
		ManagedFields: []metav1.ManagedFieldsEntry{{}}, // none: the API server pays for them
	}
	if c.hostile {
		m.Labels = manyLabels()
	}
	return m
}

func manyLabels() map[string]string {
	out := map[string]string{}
	for i := range 3000 {
		out[fmt.Sprintf("%s.example.com/label-%04d-%s", strings.Repeat(strings.Repeat("p", 55)+".", 3)+"p", i, strings.Repeat("n", 50))] = strings.Repeat("v", 63)
	}
	return out
}

// text is a value of a Secret or ConfigMap.
func (c *crowded) text(beginning string) []byte {
	if c.hostile {
		return []byte(beginning + strings.Repeat(".abcdef", 20_000))
	}
	return []byte(beginning)
}

// nodeBootstrap has an annotation that requests a reissue if its node is awaited.
func (c *crowded) nodeBootstrap(i int) *v1alpha1.NodeBootstrap {
	nb := &v1alpha1.NodeBootstrap{ObjectMeta: c.metadata("", nodeName(i))}
	key, value := "example.com/annotation", fmt.Sprint(i)
	if i < awaited {
		key = v1alpha1.ReissueRequestedAtAnnotation
	}
	if c.hostile {
		value += strings.Repeat("r", 200<<10)
	}
	nb.Annotations = map[string]string{key: value}
	return nb
}

// createConfigMaps creates the two that the operator can read.
func (c *crowded) createConfigMaps(ctx context.Context) error {
	for _, cm := range []*corev1.ConfigMap{
		{ObjectMeta: c.metadata(metav1.NamespacePublic, bootstrapapi.ConfigMapClusterInfo), Data: map[string]string{bootstrapapi.KubeConfigKey: string(c.text("apiVersion: v1"))}},
		{ObjectMeta: c.metadata(operator.Namespace, "kube-root-ca.crt"), Data: map[string]string{"ca.crt": string(c.text(string(c.ServerCA())))}},
	} {
		if err := c.Client.Create(ctx, cm); err != nil {
			return err
		}
	}
	return nil
}

// createForeign creates NodeBootstraps, most of them of members, and objects that are not the operator's: Secrets in both
// namespaces, of which those in kube-system have the operator's label, ClusterRoleBindings that name tokens, Nodes, and CSRs of
// people and of nodes.
func (c *crowded) createForeign(ctx context.Context, from, to int) error {
	asPerson, asNode := http.Header{"Impersonate-User": {"someone"}, "Impersonate-Group": {"system:masters"}}, http.Header{"Impersonate-Group": {"system:nodes", "system:authenticated"}}
	doer, err := rest.HTTPClientFor(c.AdminConfig())
	if err != nil {
		return err
	}
	return inFew(to-from, func(i int) error {
		i += from
		t := &corev1.Secret{
			ObjectMeta: c.metadata(token.Namespace, fmt.Sprintf("bootstrap-token-for%03d", i)), Type: bootstrapapi.SecretTypeBootstrapToken,
			Data: map[string][]byte{bootstrapapi.BootstrapTokenExtraGroupsKey: c.text("system:bootstrappers:foreign")},
		}
		t.Labels[owned.ManagedByLabel] = owned.ManagedBy
		secret := &corev1.Secret{ObjectMeta: c.metadata(operator.Namespace, fmt.Sprintf("foreign-%d", i)), Data: map[string][]byte{"key": c.text("value")}}
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: c.metadata("", fmt.Sprintf("foreign-%d", i)), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "none"}}
		for n := range map[bool]int{false: 1, true: 150}[c.hostile] {
			binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, Name: fmt.Sprintf("system:bootstrap:for%03d", n)})
		}
		node := &corev1.Node{ObjectMeta: c.metadata("", nodeName(i))}
		node.Status.NodeInfo.KubeletVersion = "v1.37.0"
		if i < awaited { // another node than that of the NodeBootstrap
			node.Name = fmt.Sprintf("foreign-%d", i)
		}
		for _, o := range []client.Object{t, secret, binding, node, c.nodeBootstrap(i)} {
			if err := c.Client.Create(ctx, o); err != nil {
				return fmt.Errorf("creating %T: %w", o, err)
			}
		}
		who := asNode.Clone()
		who.Set("Impersonate-User", "system:node:"+node.Name)
		for _, who := range []http.Header{asPerson.Clone(), who} {
			from, err := c.sender(who, node.Name, who.Get("Impersonate-User") == "someone")
			if err != nil {
				return err
			}
			if _, err := c.send(ctx, doer, from); err != nil {
				return err
			}
		}
		return nil
	})
}

// sender sends a CSR for a client certificate, or for a serving one, with the metadata of the crowd.
func (c *crowded) sender(who http.Header, node string, forClient bool) (sender, error) {
	request, err := env.KubeletRequest(node)
	if !forClient {
		request, err = servingRequest(node)
	}
	if err != nil {
		return sender{}, err
	}
	request.Labels, request.ManagedFields = c.metadata("", "").Labels, c.metadata("", "").ManagedFields
	return newSender(who, request)
}

// kubelets are senders with the credentials of the awaited nodes, one each. Each sends the same CSR again and again, like a
// kubelet that is restarted.
func (c *crowded) kubelets(ctx context.Context) ([]sender, error) {
	all, err := c.tokens(ctx)
	if err != nil {
		return nil, err
	}
	var out []sender
	for i := range all {
		node := owned.NodeOf(&all[i])
		if node == "" {
			continue
		}
		t, _ := token.Parse(&all[i])
		from, err := c.sender(http.Header{"Authorization": {"Bearer " + t.ID + "." + t.Secret.Reveal()}}, node, true)
		if err != nil {
			return nil, err
		}
		out = append(out, from)
	}
	if len(out) != awaited {
		return nil, fmt.Errorf("there are %d tokens instead of %d", len(out), awaited)
	}
	return out, nil
}

// ask lets them send n CSRs together.
func (c *crowded) ask(ctx context.Context, kubelets []sender, n int) error {
	doer, err := c.anonymous()
	if err != nil {
		return err
	}
	return inFew(n, func(i int) error {
		_, err := c.send(ctx, doer, kubelets[i%len(kubelets)])
		return err
	})
}

// editOwn edits the operator's own Secrets, so that it must restore each of them.
func (c *crowded) editOwn(ctx context.Context) error {
	for _, namespace := range []string{token.Namespace, operator.Namespace} {
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"labels": c.metadata("", "").Labels, "managedFields": []any{map[string]any{}}},
			"data":     map[string][]byte{bootstrapapi.BootstrapTokenDescriptionKey: c.text("edited")},
		})
		if err != nil {
			return err
		}
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
		if err := c.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		err = inFew(len(list.Items), func(i int) error {
			m := &list.Items[i]
			if len(m.OwnerReferences) == 0 {
				return nil
			}
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name}}
			return c.Client.Patch(ctx, secret, client.RawPatch("application/merge-patch+json", patch))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
