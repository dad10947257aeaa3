// SPDX-License-Identifier: Apache-2.0

package bootstrap

import "github.com/nodebootstrap/nodebootstrap/api/v1alpha1"

// AllowClusterWideFlag is the manager's flag without which no NodeBootstrap with approval ClusterWide gets a credential.
const AllowClusterWideFlag = "--allow-cluster-wide-approval"

// clusterWideRefused reports whether the NodeBootstrap asks for approval ClusterWide and the manager does not allow it. Then no
// token may live: one in ClusterWideGroup can become any node.
func (f *Facts) clusterWideRefused() bool {
	return f.ClusterWideForbidden && f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

func clusterWideProblem() *Problem {
	return &Problem{v1alpha1.ReasonClusterWideNotAllowed, "spec.clientCertificate.approval is ClusterWide, with which whoever has the token can become any " +
		"node, and the manager runs without " + AllowClusterWideFlag + ": set approval to Node or Manual, or start the manager with that flag"}
}
