// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
)

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
