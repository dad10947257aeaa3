// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// AnyTokenUser is the user of a token that does not exist: an answer for it is valid for every token.
const AnyTokenUser = bootstrapapi.BootstrapUserPrefix + "000000"

// AskBypass asks the API server, by a function that sends a review, what else approves the CSRs of a user with one of our tokens: it sends one
// review for all groups of the tokens. If that is allowed, it also sends one for each group, since an authorizer names only one of the
// bindings that allow it.
func AskBypass(user string, send func(*authorizationv1.SubjectAccessReview) error) (*Bypass, error) {
	groups := []string{bootstrapapi.BootstrapDefaultGroup, token.Group, "system:authenticated"}
	all := approvalReview(user, groups...)
	if err := send(all); err != nil {
		return nil, err
	}
	if !all.Status.Allowed {
		return &Bypass{}, nil
	}
	answer := &Bypass{Open: true, Why: []string{all.Status.Reason}}
	for _, group := range groups {
		one := approvalReview("", group)
		if err := send(one); err != nil {
			return nil, err
		}
		if why := one.Status.Reason; one.Status.Allowed && why != "" && !slices.Contains(answer.Why, why) {
			answer.Why = append(answer.Why, why)
		}
	}
	slices.Sort(answer.Why)
	return answer, nil
}

// approvalReview asks whether kube-controller-manager approves the CSRs of a user for any name (pkg/controller/certificates/approver).
func approvalReview(user string, groups ...string) *authorizationv1.SubjectAccessReview {
	return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "v1", Resource: "certificatesigningrequests", Subresource: "nodeclient", Verb: "create",
		},
	}}
}
