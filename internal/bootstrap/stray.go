// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// GroupsOfOurs are those of the operator's groups that the token in a Secret authenticates with. The API server takes them
// apart in the same way (k8s.io/kubernetes plugin/pkg/auth/authenticator/token/bootstrap).
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

// TokenIDOfSecret is the id of the bootstrap token that a Secret of a name can hold; empty when it can hold none.
func TokenIDOfSecret(name string) string {
	id, ok := strings.CutPrefix(name, bootstrapapi.BootstrapTokenSecretPrefix)
	if !ok {
		return ""
	}
	return TokenIDOfUser(bootstrapapi.BootstrapUserPrefix + id)
}

// Stray reports whether a Secret holds a token in one of the operator's groups that says of no NodeBootstrap that it is its own.
func Stray(s *corev1.Secret) bool {
	node := NodeOfChild(s)
	return s.Namespace == TokenNamespace && len(GroupsOfOurs(s)) > 0 && (node == "" || !Ours(s, node))
}

// Labelled reports whether an object says that the operator made it.
func Labelled(o metav1.Object) bool { return o.GetLabels()[ManagedByLabel] == ManagedBy }

// maxGivenIDs bounds how far back the ids are derived that a NodeBootstrap's tokens had: thirty years of daily renewals.
const maxGivenIDs = 10_000

// Gave reports whether an id is one that the tokens of a NodeBootstrap have had so far. All its ids follow each other, so that a
// token is known by its id when somebody has taken away all else that its Secret says of it.
func Gave(nb *v1alpha1.NodeBootstrap, id string) bool {
	last := nb.Status.LastTokenID
	if t := nb.Status.Token; t != nil && (t.ID == id || last == "") {
		last = t.ID
	}
	if id == "" || last == "" {
		return false
	}
	given := ""
	for range maxGivenIDs {
		given = NextTokenID(nb.UID, given)
		if given == id {
			return true
		}
		if given == last {
			return false
		}
	}
	return false
}
