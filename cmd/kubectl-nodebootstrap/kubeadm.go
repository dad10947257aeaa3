// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// kubeadmConfig is the ConfigMap that kubeadm join reads first. Only kubeadm creates it.
	kubeadmConfig = "kubeadm-config"
	// kubeadmLimit bounds the time of a warning that most users do not need.
	kubeadmLimit = 3 * time.Second
)

// warnKubeadm warns if kubeadm join will fail with a published kubeconfig, since its token may not read what kubeadm reads: kubeadm itself
// says so only after a minute. There is no warning if that cannot be found out.
func warnKubeadm(ctx context.Context, c client.Client, connectWithToken tokenConnector, published []byte, errOut io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, kubeadmLimit)
	defer cancel()
	if _, err := kubeadmConfigMap(ctx, c, kubeadmConfig); err != nil {
		return // not a cluster of kubeadm, or the user may not know
	}
	_, user, err := decodeKubeconfig(published)
	if err != nil {
		return
	}
	holder, err := connectWithToken(user.Token)
	if err != nil {
		return
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "get", Resource: "configmaps", Namespace: metav1.NamespaceSystem, Name: kubeadmConfig,
		},
	}}
	if holder.Create(ctx, review) != nil || review.Status.Allowed {
		return
	}
	fmt.Fprintln(errOut, "Warning: kubeadm join will fail, because the operator's tokens may not read kubeadm's configuration. "+
		"Before a machine runs it, install the component: kubectl apply -k config/components/kubeadm, or kubeadm.enabled=true in the chart. "+
		"A kubelet that starts without kubeadm join does not need it.")
}
