// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// aliveMessage is the message of the condition Joined during the wait after a reissue.
func aliveMessage(at *metav1.Time) string {
	return fmt.Sprintf("the node is alive; the reissued credential may not be its own: a kubelet renewed the node's Lease at %s, after the reissue and "+
		"before a certificate was approved. If that is the machine that the credential is for, restart its kubelet with the new kubeconfig. "+
		"If not, stop the old kubelet, and compare the fingerprint of the new machine's key with status.certificates", at.UTC().Format(time.RFC3339))
}

// joinedMessage describes the certificate that a joined node uses, as far as it is known.
func joinedMessage(alive *metav1.Time) string {
	const message = "the node uses a certificate of its own"
	if alive == nil {
		return message
	}
	return fmt.Sprintf("%s, but it was alive at the reissue: a kubelet renewed its Lease at %s, before the new certificate was approved, so this may be "+
		"the old one. Compare the fingerprint of its key with status.certificates", message, alive.UTC().Format(time.RFC3339))
}

// outdatedReissue is the value of a reissue that counts as handled, without a credential, since an older status; empty for none.
func outdatedReissue(old, new *v1alpha1.NodeBootstrapStatus) string {
	if new.LastHandledReissueAt == old.LastHandledReissueAt || new.AwaitingSince != nil {
		return ""
	}
	return new.LastHandledReissueAt
}
