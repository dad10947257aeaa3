// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"crypto"
	"fmt"
	"math"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// servingRequesters are CSRs that another user than the node sent, as the API server writes it.
func servingRequesters() []Case {
	return ofRequester(all(leave, notOurs, []Case{
		{Name: "serving-user-other-node", Why: "One node would serve in place of another.", Spoil: username(func(string, string) string { return "system:node:other-node" })},
		{Name: "serving-user-longer", Why: "A node whose name has the same beginning is another node.", Spoil: username(func(user, _ string) string { return user + "0" })},
		{Name: "serving-user-no-node", Why: "A user with a node's prefix and no name is no node.", Spoil: username(func(string, string) string { return "system:node:" })},
		{Name: "serving-user-without-prefix", Why: "The node's name without a prefix is a user that any authenticator can return.", Spoil: username(func(_, node string) string { return node })},
		{Name: "serving-user-upper-case", Why: "User names are case-sensitive.", Spoil: username(func(user, _ string) string { return strings.ToUpper(user) })},
		{Name: "serving-user-token", Why: "The holder of the token is not the node yet.", Spoil: username(func(string, string) string { return "system:bootstrap:abc123" })},
		{Name: "serving-user-service-account", Why: "A Pod on the node is not the node.", Spoil: username(func(string, string) string { return "system:serviceaccount:kube-system:default" })},
		{Name: "serving-groups-none", Why: "A user with a node's name who is in no group escapes the node authorizer.", Spoil: groups(func([]string) []string { return nil })},
		{Name: "serving-groups-no-nodes", Why: "A user with a node's name who is not in the group escapes the node authorizer.", Spoil: withoutGroup("system:nodes")},
		{Name: "serving-groups-not-authenticated", Why: "The holder of a certificate is authenticated.", Spoil: withoutGroup("system:authenticated")},
		{Name: "serving-groups-masters", Why: "An administrator who impersonates a node is not its kubelet.", Spoil: withGroup("system:masters")},
		{Name: "serving-groups-bootstrappers", Why: "A node has no token.", Spoil: withGroup("system:bootstrappers")},
		{Name: "serving-groups-longer", Why: "A group with the same beginning is another group.", Spoil: withGroup("system:nodes:x")},
		{Name: "serving-requester-uid", Why: "A user of a certificate has no uid: this is someone else.", Spoil: func(spec *spec, _ string, _ crypto.Signer) { spec.UID = "6f6cd8a0-58cd-4a4c-8d9f-1d7a2c9b4e11" }},
		{Name: "serving-requester-extra", Why: "A node has no other extra data than its certificate's id: this is someone else.", Spoil: extra("example.com/scope", "x")},
		{Name: "serving-requester-pod", Why: "A token of a Pod is not the node's certificate.", Spoil: extra("authentication.kubernetes.io/pod-name", "attacker")},
	}))
}

func servingMeta() []Case {
	return slices.Concat(
		all(leave, notOurs, []Case{
			{Name: "serving-signer-client-kubelet", Why: "kube-controller-manager approves a node's own client certificate.", Spoil: signer(certificatesv1.KubeAPIServerClientKubeletSignerName)},
			{Name: "serving-signer-client", Why: "This signer issues client certificates for any name.", Spoil: signer(certificatesv1.KubeAPIServerClientSignerName)},
			{Name: "serving-signer-legacy", Why: "The legacy signer guarantees nothing about its certificates.", Spoil: signer("kubernetes.io/legacy-unknown")},
			{Name: "serving-signer-foreign", Why: "A custom signer is outside the operator's scope.", Spoil: signer("example.com/foreign")},
			{Name: "serving-signer-upper-case", Why: "Signer names are case-sensitive.", Spoil: signer("kubernetes.io/Kubelet-Serving")},
		}),
		all(deny, wrongDuration, []Case{
			{Name: "serving-duration-too-long", Why: "A certificate cannot be revoked: it must not live longer than a year.", Spoil: seconds(maxSeconds + 1)},
			{Name: "serving-duration-longest", Why: "Added to a time, the longest duration may overflow.", Spoil: seconds(math.MaxInt32)},
		}),
		usages("serving-usage-", certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth),
		all(deny, wrongUsages, []Case{
			{Name: "serving-usage-with-any", Why: "A certificate for any use is one for clients as well.", Spoil: withUsage(certificatesv1.UsageAny)},
			{Name: "serving-usage-with-cert-sign", Why: "A key that can sign certificates can create any node and any user.", Spoil: withUsage(certificatesv1.UsageCertSign)},
			{Name: "serving-usage-with-code-signing", Why: "A kubelet's serving certificate is for nothing else.", Spoil: withUsage(certificatesv1.UsageCodeSigning)},
		}),
	)
}

// servingLikeClient are defects that apply to both kinds of CSRs. Each is built on the serving CSR.
func servingLikeClient() []Case {
	same := map[string]Case{}
	for _, c := range slices.Concat(encodings(), structures(), signatures(), keys(), commonNames(), subjects()) {
		same[c.Name] = c
	}
	var cases []Case
	for _, name := range []string{
		"large-text-behind",
		"pem-older-type", "pem-headers", "pem-two-blocks", "pem-other-request-behind", "pem-text-behind", "pem-crlf", "pem-loose-bits",
		"der-trailing-byte", "der-long-length", "der-indefinite-length",
		"signature-of-other-key", "signature-flipped-bit", "signature-of-other-subject",
		"signed-ecdsa-sha1", "signed-rsa-sha1", "signed-rsa-pss",
		"key-rsa-1024", "key-rsa-2047", "key-ecdsa-p224", "key-ed25519", "key-rsa-exponent-1", "key-ec-explicit-curve", "key-ec-compressed",
		"cn-other-node", "cn-longer", "cn-two-nodes", "cn-final-nul", "cn-cyrillic", "cn-upper-case", "cn-utf8-string",
		"cn-other-in-front", "cn-other-behind", "o-masters", "o-masters-behind", "o-masters-same-part", "o-missing",
		"subject-user-id", "subject-reversed", "subject-empty",
		"key-tail", "key-unused-bits", "signature-unused-bits", "signed-ecdsa-with-null",
		"version-1", "version-negative", "request-tail", "info-tail", "info-second-attributes",
	} {
		c, ok := same[name]
		if !ok {
			panic(fmt.Errorf("there is no case %s", name))
		}
		c.Name = "serving-" + name
		cases = append(cases, c)
	}
	return cases
}
