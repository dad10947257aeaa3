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
	// maxUIDBytes is longer than a UID; only its existence matters.
	maxUIDBytes = 64
	// maxSignerBytes is longer than the API server's limit for the name of a signer (pkg/apis/certificates/validation).
	maxSignerBytes = 1024
	// maxGroups and maxGroupBytes are larger than for any token or kubelet; the name of a token's group has at most 277 bytes.
	maxGroups, maxGroupBytes = 16, 512
	// maxUsages and maxUsageBytes are larger than for all usages of Kubernetes.
	maxUsages, maxUsageBytes = 32, 64
	// otherExtra replaces all keys of spec.extra that no check uses. The API server does not accept it as a key.
	otherExtra = "(other)"
)

// KeepNeeded reduces the spec of a CSR to the fields that the checks use, in a bounded number of bytes: Kubernetes sets no limit, and
// whoever can send CSRs could fill the memory of a cache. The verdict stays the same. Reducing it again changes nothing.
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

// cut copies the beginning of a long text, so that the rest can be freed. Everything that it is compared with is shorter.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.Clone(s[:most])
}

// neededExtra keeps the credential id, and whether other keys exist.
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

// neededGroups keeps all groups if they are few and short. Otherwise it keeps those that a check names, at most twice, since the API
// server never gives a kubelet a group twice, and the first of all others, which no check accepts.
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

// neededUsages keeps enough usages to show that they are too many.
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
