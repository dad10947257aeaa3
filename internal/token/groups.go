// SPDX-License-Identifier: Apache-2.0

package token

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	// Group is the group of every token that the operator creates.
	Group = "system:bootstrappers:nodebootstrap"
	// ClusterWideGroup is the additional group of tokens whose CSRs kube-controller-manager approves.
	ClusterWideGroup = "system:bootstrappers:nodebootstrap:cluster-wide"
)

// GroupsOfOurs are the operator's groups with which the token in a Secret authenticates. The API server parses them in the same way
// (k8s.io/kubernetes plugin/pkg/auth/authenticator/token/bootstrap).
func GroupsOfOurs(s *corev1.Secret) []string {
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return nil
	}
	var ours []string
	for _, group := range strings.Split(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",") {
		if (group == Group || group == ClusterWideGroup) && !slices.Contains(ours, group) {
			ours = append(ours, group)
		}
	}
	return ours
}

func tokenGroups(nb *v1alpha1.NodeBootstrap) []string {
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide {
		return []string{Group, ClusterWideGroup}
	}
	return []string{Group}
}
