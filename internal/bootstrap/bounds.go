// SPDX-License-Identifier: Apache-2.0

package bootstrap

import "strings"

const (
	// MaxCABytes is the most that a CA may have, wherever it comes from, in bytes: as much as the schema of spec.cluster.caBundle lets
	// through. It is in every kubeconfig.
	MaxCABytes = 64 << 10
	// MaxClusterInfoBytes is the most that the kubeconfig in the ConfigMap cluster-info may have, in bytes.
	MaxClusterInfoBytes = 256 << 10
	// MaxConditionMessage is as long as the message of a condition may be, in bytes; more is cut.
	MaxConditionMessage = 16 << 10
)

// cutMessage bounds a message, which may quote what a stranger sent.
func cutMessage(message string) string {
	if len(message) <= MaxConditionMessage {
		return message
	}
	return strings.ToValidUTF8(message[:MaxConditionMessage-len("...")], "") + "..."
}
