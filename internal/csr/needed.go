// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

const (
	// maxUserBytes is longer than the user name of any token or node.
	maxUserBytes = 512
	// maxUIDBytes is longer than a UID; that there is one is all that matters.
	maxUIDBytes = 64
	// maxSignerBytes is longer than the API server lets the name of a signer be (pkg/apis/certificates/validation).
	maxSignerBytes = 1024
	// maxGroups and maxGroupBytes are more than a token or a kubelet has; the name of a token's group has at most 277 bytes.
	maxGroups, maxGroupBytes = 16, 512
	// maxUsages and maxUsageBytes are more than Kubernetes knows.
	maxUsages, maxUsageBytes = 32, 64
	// otherExtra stands for all keys of spec.extra that no check names. It is no key that the API server would take.
	otherExtra = "(other)"
)

// KeepNeeded reduces the spec of a request to what the checks look at, in a bounded number of bytes: Kubernetes sets no limit, and
// whoever may send requests could fill the memory of whoever keeps them. The verdict on the rest is that on the whole. To reduce
// it again changes nothing.
func KeepNeeded(spec *certificatesv1.CertificateSigningRequestSpec, tokenGroups ...string) {
	if len(spec.Request) > MaxRequestBytes {
		spec.Request = bytes.Clone(spec.Request[:MaxRequestBytes+1])
	}
	spec.SignerName = cut(spec.SignerName, maxSignerBytes)
	spec.Username, spec.UID = cut(spec.Username, maxUserBytes), cut(spec.UID, maxUIDBytes)
	spec.Extra = neededExtra(spec.Extra)
	spec.Groups = neededGroups(spec.Groups, append([]string{bootstrapapi.BootstrapDefaultGroup, everyGroup, nodesGroup}, tokenGroups...))
	spec.Usages = neededUsages(spec.Usages)
}

// cut leaves the beginning of a long text, in memory of its own. What it is compared with is shorter.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.Clone(s[:most])
}

// neededExtra reports whether there is a credential id, and whether there is anything else.
func neededExtra(extra map[string]certificatesv1.ExtraValue) map[string]certificatesv1.ExtraValue {
	if len(extra) == 0 {
		return nil
	}
	out := map[string]certificatesv1.ExtraValue{}
	_, known := extra[credentialID]
	if known {
		out[credentialID] = nil
	}
	if len(extra) > len(out) {
		out[otherExtra] = nil
	}
	return out
}

// neededGroups are all of a few short groups. Of many they are those that a check names, twice at most, since a group that is
// there twice is not what the API server writes of a kubelet, and the first one of all others, which no check lets pass.
func neededGroups(groups, named []string) []string {
	if len(groups) <= maxGroups && !slices.ContainsFunc(groups, func(g string) bool { return len(g) > maxGroupBytes }) {
		return groups
	}
	var out []string
	times, other := map[string]int{}, false
	for _, g := range groups {
		switch {
		case slices.Contains(named, g):
			if times[g]++; times[g] <= 2 {
				out = append(out, g)
			}
		case !other:
			out, other = append(out, cut(g, maxGroupBytes)), true
		}
	}
	return out
}

// neededUsages are as many as tell that they are too many.
func neededUsages(usages []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
	if len(usages) <= maxUsages && !slices.ContainsFunc(usages, func(u certificatesv1.KeyUsage) bool { return len(u) > maxUsageBytes }) {
		return usages
	}
	out := make([]certificatesv1.KeyUsage, 0, maxUsages)
	for _, u := range usages[:min(len(usages), maxUsages)] {
		out = append(out, certificatesv1.KeyUsage(cut(string(u), maxUsageBytes)))
	}
	return out
}
