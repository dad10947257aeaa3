// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// AllowClusterWideFlag is the manager's flag that allows credentials for NodeBootstraps with approval ClusterWide.
const AllowClusterWideFlag = "--allow-cluster-wide-approval"

// ClusterWideRefused reports whether the NodeBootstrap has approval ClusterWide and the manager does not allow it. Then no token may
// live: whoever has one in ClusterWideGroup can become any node.
func (f *Facts) ClusterWideRefused() bool {
	return f.ClusterWideForbidden && f.NodeBootstrap.Spec.ApprovalMode() == v1alpha1.ApprovalClusterWide
}

func clusterWideProblem() *problem.Problem {
	return &problem.Problem{Reason: v1alpha1.ReasonClusterWideNotAllowed, Message: "spec.clientCertificate.approval is ClusterWide, with which whoever has the token can become any " +
		"node, and the manager runs without " + AllowClusterWideFlag + ": set approval to Node or Manual, or start the manager with that flag"}
}
