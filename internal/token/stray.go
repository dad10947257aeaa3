// SPDX-License-Identifier: Apache-2.0

package token

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/owned"
)

// Stray reports whether a Secret holds a token in one of the operator's groups and names no NodeBootstrap as its owner.
func Stray(s *corev1.Secret) bool {
	node := owned.NodeOf(s)
	return s.Namespace == Namespace && len(GroupsOfOurs(s)) > 0 && (node == "" || !owned.Ours(s, node))
}
