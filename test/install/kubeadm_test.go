// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The component kubeadm lets a token read what kubeadm join reads, and nothing else.
func TestKubeadmComponent(t *testing.T) {
	for access, may := range map[string]bool{
		"get configmaps kube-system/kubeadm-config":                        true,
		"get configmaps kube-system/kubelet-config":                        true,
		"get configmaps kube-system/kube-proxy":                            true,
		"get configmaps kube-public/cluster-info":                          true,
		"get nodes /another":                                               true,
		"list nodes /":                                                     false,
		"watch nodes /":                                                    false,
		"update nodes /another":                                            false,
		"get pods kube-system/kube-apiserver":                              false,
		"get secrets kube-system/bootstrap-token-abcdef":                   false,
		"get configmaps kube-system/extension-apiserver-authentication":    false,
		"get configmaps kube-system/cluster-info":                          false,
		"get configmaps kube-public/kubeadm-config":                        false,
		"list configmaps kube-system/":                                     false,
		"watch configmaps kube-system/kubeadm-config":                      false,
		"update configmaps kube-system/kubeadm-config":                     false,
		"get configmaps nodebootstrap-system/nodebootstrap-limits":         false,
		"get secrets nodebootstrap-system/bootstrap-kubeconfig-worker-1":   false,
		"create certificatesigningrequests.certificates.k8s.io/nodeclient": false,
	} {
		t.Run(access, func(t *testing.T) {
			review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers", token.Group, "system:authenticated"},
				ResourceAttributes: attributes(access),
			}}
			env.Eventually(t, "the authorizer", func() error {
				r := review.DeepCopy()
				if err := cluster.Client.Create(t.Context(), r); err != nil {
					return err
				}
				if r.Status.Allowed != may {
					return fmt.Errorf("allowed is %t (%s), want %t", r.Status.Allowed, r.Status.Reason, may)
				}
				return nil
			})
		})
	}
}

// attributes parses "VERB RESOURCE NAMESPACE/NAME", or "VERB RESOURCE.GROUP/SUBRESOURCE".
func attributes(access string) *authorizationv1.ResourceAttributes {
	words := strings.Fields(access)
	a := &authorizationv1.ResourceAttributes{Verb: words[0]}
	resource, subresource, _ := strings.Cut(words[1], "/")
	a.Subresource = subresource
	a.Resource, a.Group, _ = strings.Cut(resource, ".")
	if len(words) > 2 {
		a.Namespace, a.Name, _ = strings.Cut(words[2], "/")
	}
	return a
}
