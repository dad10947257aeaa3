// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// leaseInterval is how often a machine renews its Lease. A kubelet does so every ten seconds.
const leaseInterval = 2 * time.Second

// work is what a kubelet does with its certificate: it registers its Node, or updates the existing one, and renews its
// Lease.
func (m *machine) work(ctx context.Context, config *rest.Config) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		m.s.fail("connecting as the node %s: %v", m.node, err)
		return
	}
	var node *corev1.Node
	m.s.admin.insist(ctx, "registering the Node "+m.node, func(ctx context.Context) error {
		node, err = register(ctx, client, m.node)
		return err
	})
	// A kubelet's first Lease comes up to ten seconds after the registration.
	wait(ctx, time.Duration(m.rnd.Int64N(int64(leaseInterval))))
	for ctx.Err() == nil {
		m.s.admin.insist(ctx, "renewing the Lease of "+m.node, func(ctx context.Context) error { return renew(ctx, client, node) })
		wait(ctx, leaseInterval)
	}
}

func register(ctx context.Context, client kubernetes.Interface, name string) (*corev1.Node, error) {
	now := metav1.Now()
	status := corev1.NodeStatus{
		NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.0.0-simulated"},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Simulated", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
	}
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: status}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return node, err
	}
	if node, err = client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, err
	}
	node.Status.NodeInfo, node.Status.Conditions = status.NodeInfo, status.Conditions
	return client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
}

func renew(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		seconds := int32(40)
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID,
			}}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &node.Name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}
