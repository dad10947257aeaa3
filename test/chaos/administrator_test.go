// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const (
	// retryInterval is how soon an unanswered attempt is repeated.
	retryInterval = 150 * time.Millisecond
	// attemptLimit is how long one attempt can take: a connection to a killed server may hang.
	attemptLimit = 5 * time.Second
)

// administrator does not use the proxy and does not give up.
type administrator struct {
	s         *suite
	client    client.Client
	clientset *kubernetes.Clientset
	reissues  atomic.Int64
}

func newAdministrator(s *suite, e *env.Env) (*administrator, error) {
	clientset, err := kubernetes.NewForConfig(e.AdminConfig())
	return &administrator{s: s, client: e.Client, clientset: clientset}, err
}

// insist retries until it works or ctx is done. A write whose answer was lost counts as done: the callers handle that.
func (p *administrator) insist(ctx context.Context, what string, try func(context.Context) error) {
	var last error
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, attemptLimit)
		err := try(attempt)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() == nil && (last == nil || last.Error() != err.Error()) {
			p.s.line.note("  %s: %v", what, err)
			last = err
		}
		wait(ctx, retryInterval)
	}
}

func ignoreNotFound(err error) error { return client.IgnoreNotFound(err) }

// commit creates a NodeBootstrap unless it exists.
func (p *administrator) commit(ctx context.Context, node string) {
	p.s.line.note("%s: committing its NodeBootstrap", node)
	p.insist(ctx, "creating the NodeBootstrap "+node, func(ctx context.Context) error {
		var nb v1alpha1.NodeBootstrap
		err := p.client.Get(ctx, client.ObjectKey{Name: node}, &nb)
		if err == nil && nb.DeletionTimestamp != nil {
			return fmt.Errorf("the previous one is still being deleted")
		}
		if apierrors.IsNotFound(err) {
			err = p.client.Create(ctx, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}})
		}
		return err
	})
}

// remove deletes a NodeBootstrap.
func (p *administrator) remove(ctx context.Context, node string, how metav1.DeletionPropagation) {
	p.s.line.note("%s: deleting its NodeBootstrap, %s", node, how)
	p.insist(ctx, "deleting the NodeBootstrap "+node, func(ctx context.Context) error {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}}
		return ignoreNotFound(p.client.Delete(ctx, nb, client.PropagationPolicy(how)))
	})
}

// removeNode deletes a Node, and its Lease, which nothing else would delete at once.
func (p *administrator) removeNode(ctx context.Context, node string) {
	p.s.line.note("%s: deleting its Node", node)
	p.insist(ctx, "deleting the Node "+node, func(ctx context.Context) error {
		if err := ignoreNotFound(p.clientset.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{})); err != nil {
			return err
		}
		return ignoreNotFound(p.clientset.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, node, metav1.DeleteOptions{}))
	})
}

// reissue requests a new credential, if a NodeBootstrap exists.
func (p *administrator) reissue(ctx context.Context, node string) {
	value := fmt.Sprintf("reissue-%d", p.reissues.Add(1))
	p.s.line.note("%s: asking for a reissue, %s", node, value)
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.ReissueRequestedAtAnnotation, value)
	p.insist(ctx, "asking for a reissue for "+node, func(ctx context.Context) error {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: node}}
		return ignoreNotFound(p.client.Patch(ctx, nb, client.RawPatch(client.Merge.Type(), patch)))
	})
}

// deleteSecret deletes a Secret by hand, like a person who revokes a token or makes a mistake.
func (p *administrator) deleteSecret(ctx context.Context, namespace, name string) {
	p.s.line.note("deleting the Secret %s/%s by hand", namespace, name)
	p.insist(ctx, "deleting the Secret "+name, func(ctx context.Context) error {
		return ignoreNotFound(p.clientset.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{}))
	})
}

// kubeconfig reads the kubeconfig for a node, to hand it over; nil if ctx is done before it exists.
func (p *administrator) kubeconfig(ctx context.Context, node string) []byte {
	var content []byte
	for content == nil && ctx.Err() == nil && p.s.seen.until(ctx, func(l *ledger) bool { return l.kubeconfig(node) != "" }) {
		p.insist(ctx, "reading the kubeconfig of "+node, func(ctx context.Context) error {
			secret, err := p.clientset.CoreV1().Secrets(operator.Namespace).Get(ctx, owned.KubeconfigSecretName(node), metav1.GetOptions{})
			if err == nil {
				content = secret.Data[kubeconfig.Key]
			}
			return ignoreNotFound(err)
		})
		wait(ctx, retryInterval)
	}
	return content
}

// kubelets is how many stock kubelets can run.
func kubelets() int {
	if os.Geteuid() != 0 {
		return 0
	}
	return *kubeletsFlag
}

// kubeletMissing reports whether stock kubelets run and none of them has joined yet.
func (s *suite) kubeletMissing() bool { return kubelets() > 0 && s.kubelets.Load() == 0 }

// runKubelet lets a stock kubelet join and removes its node, again and again.
func (s *suite) runKubelet(ctx context.Context, node string) {
	for ctx.Err() == nil {
		s.joinOnce(ctx, node)
		s.admin.remove(s.ctx, node, metav1.DeletePropagationBackground)
		s.admin.removeNode(s.ctx, node)
	}
}

func (s *suite) joinOnce(ctx context.Context, node string) {
	s.admin.commit(ctx, node)
	kubeconfig := s.admin.kubeconfig(ctx, node)
	if kubeconfig == nil {
		return
	}
	kubelet, err := s.env.StartKubelet(s.ctx, localcluster.KubeletConfig{NodeName: node, BootstrapKubeconfig: kubeconfig})
	if err != nil {
		s.fail("%v", err)
		return
	}
	s.line.note("%s: its kubelet is started", node)
	// Its token can be replaced before its CSR is sent. A kubelet that waits long for its certificate sends another CSR
	// with another key, which is denied.
	id := tokenIDIn(kubeconfig)
	replaced := func(l *ledger) bool { return l.kubeconfig(node) != "" && l.kubeconfig(node) != id }
	hasJoined := func(l *ledger) bool { return l.ready(node, v1alpha1.ReasonJoined) == nil }
	s.seen.until(ctx, func(l *ledger) bool { return hasJoined(l) || l.misused(node) || replaced(l) })
	if !look(s.seen, hasJoined) {
		wait(ctx, handOverDelay)
	}
	if look(s.seen, hasJoined) {
		s.line.note("%s: its kubelet has joined", node)
		if s.managers.kills() > 0 {
			s.kubelets.Add(1)
		}
	}
	if err := kubelet.Stop(); err != nil {
		s.fail("%v", err)
	}
}
