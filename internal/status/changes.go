// SPDX-License-Identifier: Apache-2.0

// Package status reports the state of a node: it turns the outcome of a plan into a status, events and lines of the decision log.
//
// It is pure: [Report] turns facts, a plan and its outcome into a status. Nothing here reads or writes anything.
package status

import (
	"fmt"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// KubeconfigChange reports changes in a published kubeconfig, apart from the token.
type KubeconfigChange struct {
	// Server and CA report whether the kubeconfig names another server or has another CA.
	Server, CA bool
}

// KubeconfigChanged reports changes in a kubeconfig from one status to the next while its token stayed or was renewed: a machine with the
// new kubeconfig sends the token elsewhere. A kubeconfig that was not published before, or by a version that did not record it, is not a
// change, nor is a requested reissue.
func KubeconfigChanged(old, new *v1alpha1.NodeBootstrapStatus) KubeconfigChange {
	if old.KubeconfigSecretRef == nil || new.KubeconfigSecretRef == nil || tokenID(old) == "" || tokenID(old) != tokenID(new) && !Renewed(old, new) {
		return KubeconfigChange{}
	}
	return KubeconfigChange{
		Server: differ(old.Server, new.Server),
		CA:     differ(old.CAFingerprint, new.CAFingerprint),
	}
}

func differ(old, new string) bool { return old != "" && new != "" && old != new }

// kubeconfigChangeNote is the text of the event; empty for no event.
func kubeconfigChangeNote(old, new *v1alpha1.NodeBootstrapStatus) string {
	if KubeconfigChanged(old, new) == (KubeconfigChange{}) {
		return ""
	}
	return fmt.Sprintf("the published kubeconfig, whose token %s is live, has changed: the server from %.250s to %.250s, the CA from %s to %s. "+
		"If nobody meant that, somebody may be after the token: see docs/troubleshooting.md", tokenID(new), old.Server, new.Server, known(old.CAFingerprint), new.CAFingerprint)
}

func known(fingerprint string) string {
	if fingerprint == "" {
		return "an unknown one"
	}
	return fingerprint
}
