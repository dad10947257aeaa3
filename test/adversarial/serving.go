// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"crypto"
	"encoding/asn1"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// servingWithoutAddress have neither a DNS name nor an IP address where crypto/x509 finds them.
func servingWithoutAddress() []Case {
	hidden := dnsName("api.example.com")
	only := func(names ...[]byte) spoil { return attributes(sanRequest(names...)) }
	return all(deny, noAddress, []Case{
		{Name: "serving-no-attributes", Why: "A certificate without addresses serves nobody, or everybody who looks at the subject.", Spoil: attributes()},
		{Name: "serving-no-extensions", Why: "A list of no extensions has no addresses.", Spoil: attributes(extensionRequest())},
		{Name: "serving-no-san", Why: "Another extension has no addresses.", Spoil: attributes(extensionRequest(critical(oidBasicConstraints, sequence(der(true)))))},
		{Name: "serving-empty-san", Why: "An empty SAN has no addresses.", Spoil: only()},
		{Name: "serving-empty-critical-san", Why: "An empty critical SAN hides the subject as well.", Spoil: attributes(extensionRequest(critical(oidSAN, sequence())))},
		{Name: "serving-only-email", Why: "A mail address is no address to serve under.", Spoil: only(choice(1, []byte("root@example.com")))},
		{Name: "serving-only-uri", Why: "A URI is no address to serve under, but an identity for a service mesh.", Spoil: only(choice(6, []byte("spiffe://example.com/node")))},
		{Name: "serving-only-other-name", Why: "crypto/x509 does not show a user principal name.", Spoil: only(otherName())},
		{Name: "serving-only-directory-name", Why: "crypto/x509 does not show a subject in the SAN.", Spoil: only(directoryName("system:node:other-node"))},
		{Name: "serving-only-registered-id", Why: "crypto/x509 does not show an object identifier.", Spoil: only(choice(8, []byte{42, 3, 4}))},
		{Name: "serving-only-constructed-dns", Why: "crypto/x509 ignores a DNS name in pieces; another reader may put them together.", Spoil: only(tagged(2, text(asn1.TagIA5String, "api.example.com")))},
		{Name: "serving-only-universal-string", Why: "crypto/x509 ignores a name without a kind.", Spoil: only(text(asn1.TagIA5String, "api.example.com"))},
		{Name: "serving-only-in-second-value", Why: "crypto/x509 reads only the first list of extensions.", Spoil: attributes(requestAttribute(oidExtensionRequest,
			sequence(), sequence(extension(oidSAN, sequence(hidden)))))},
		{Name: "serving-only-in-sequence", Why: "crypto/x509 ignores an extension request whose values are no SET.", Spoil: attributes(
			sequence(der(oidExtensionRequest), sequence(sequence(extension(oidSAN, sequence(hidden))))))},
		{Name: "serving-only-for-microsoft", Why: "crypto/x509 ignores Microsoft's name for the extension request.", Spoil: attributes(requestAttribute(oidMicrosoftRequest,
			sequence(extension(oidSAN, sequence(hidden)))))},
		{Name: "serving-only-unstructured-name", Why: "Some authorities take names from here.", Spoil: attributes(requestAttribute(oidUnstructuredName, text(asn1.TagUTF8String, "api.example.com")))},
		{Name: "serving-only-behind-attributes", Why: "encoding/asn1 ignores a second set of attributes.", Spoil: rebuild(func(p *parts, _ string) {
			p.attributes = slices.Concat(tagged(0), tagged(0, sanRequest(hidden)))
		})},
	})
}

// servingExtensions have the good addresses, and additions or another encoding.
func servingExtensions() []Case {
	return slices.Concat(
		all(deny, unexpectedAttributes, servingNames()),
		all(deny, unexpectedAttributes, besidesTheAddresses()),
		all(deny, malformed, badServingNames()),
	)
}

// besidesTheAddresses can be parsed, and request more or in another way.
func besidesTheAddresses() []Case {
	return []Case{
		{Name: "serving-san-critical", Why: "A critical SAN hides the subject from those that go by RFC 6125.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(critical(oidSAN, san))
		})},
		{Name: "serving-san-critical-false", Why: "A default value that is spelled out is BER: two encodings of one request.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(sequence(der(oidSAN), der(false), octetString(san)))
		})},
		{Name: "serving-san-tail", Why: "crypto/x509 ignores what follows the list of names.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(extension(oidSAN, slices.Concat(san, sequence(dnsName("api.example.com")))))
		})},
		{Name: "serving-ext-ca", Why: "A certificate that can sign certificates can create any node and any user.", Spoil: besidesSAN(critical(oidBasicConstraints, sequence(der(true))))},
		{Name: "serving-ext-ca-in-front", Why: "An unexpected extension counts wherever it stands, also before the expected one.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(critical(oidBasicConstraints, sequence(der(true))), extension(oidSAN, san))
		})},
		{Name: "serving-ext-key-usage", Why: "A key that can sign certificates can create any node and any user.", Spoil: besidesSAN(critical(oidKeyUsage, keyUsage(5)))},
		{Name: "serving-ext-usage-client", Why: "A certificate for clients would make the server a user.", Spoil: besidesSAN(extension(oidExtKeyUsage,
			sequence(der(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}))))},
		{Name: "serving-ext-unknown-critical", Why: "An unknown extension cannot be evaluated.", Spoil: besidesSAN(critical(oidUnknown, null()))},
		{Name: "serving-ext-tail", Why: "encoding/asn1 ignores what follows an extension's value.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(inside(extension(oidSAN, san), null()))
		})},
		{Name: "serving-second-value", Why: "crypto/x509 reads only the first list of extensions.", Spoil: extensions(func(san []byte) []byte {
			return requestAttribute(oidExtensionRequest, sequence(extension(oidSAN, san)), sequence(extension(oidSAN, sequence(dnsName("api.example.com")))))
		})},
		{Name: "serving-second-request", Why: "Two attributes with extensions: readers differ on which one counts.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(sanRequestOf(san), extensionRequest(extension(oidUnknown, null())))
		})},
		{Name: "serving-request-for-microsoft", Why: "crypto/x509 ignores Microsoft's name for the extension request.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(sanRequestOf(san), requestAttribute(oidMicrosoftRequest, sequence(extension(oidSAN, sequence(dnsName("api.example.com"))))))
		})},
		{Name: "serving-challenge-password", Why: "A second attribute is none that a kubelet sends.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(sanRequestOf(san), requestAttribute(oidChallengePassword, text(asn1.TagUTF8String, "secret")))
		})},
		{Name: "serving-attribute-in-front", Why: "A second attribute is none that a kubelet sends.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(requestAttribute(oidUnknown, null()), sanRequestOf(san))
		})},
		{Name: "serving-no-attribute-behind", Why: "crypto/x509 ignores what is no attribute.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(sanRequestOf(san), null())
		})},
		{Name: "serving-attribute-tail", Why: "encoding/asn1 ignores what follows an attribute's values.", Spoil: extensions(func(san []byte) []byte {
			return inside(sanRequestOf(san), null())
		})},
	}
}

func badServingNames() []Case {
	return []Case{
		{Name: "serving-san-twice", Why: "Readers differ on which of two SANs counts.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(extension(oidSAN, san), extension(oidSAN, sequence(dnsName("api.example.com"))))
		})},
		{Name: "serving-san-twice-in-two-requests", Why: "Readers differ on which of two SANs counts.", Spoil: extensions(func(san []byte) []byte {
			return slices.Concat(sanRequestOf(san), sanRequest(dnsName("api.example.com")))
		})},
		{Name: "serving-san-long-length", Why: "A length with leading zeros is BER: two encodings of one request.", Spoil: extensions(func(san []byte) []byte {
			return extensionRequest(extension(oidSAN, longLength(san)))
		})},
		{Name: "serving-ip-with-mask", Why: "An address with its mask is a constraint, not an address.", Spoil: alsoNamed(choice(7, []byte{192, 0, 2, 7, 255, 255, 255, 0}))},
		{Name: "serving-ip-empty", Why: "An IP address has four bytes or sixteen.", Spoil: alsoNamed(choice(7, nil))},
		{Name: "serving-ip-as-text", Why: "An IP address in a certificate is not text.", Spoil: alsoNamed(choice(7, []byte("192.0.2.7")))},
		{Name: "serving-dns-not-ascii", Why: "A DNS name in a certificate is ASCII.", Spoil: alsoNamed(choice(2, []byte("w\xd0\xberker")))},
		{Name: "serving-email-not-ascii", Why: "A mail address in a certificate is ASCII.", Spoil: alsoNamed(choice(1, []byte("r\xc3\xb6\xc3\xb6t@example.com")))},
	}
}

// servingNames have names of other kinds, or in another order, in addition to the good ones.
func servingNames() []Case {
	return []Case{
		{Name: "serving-san-email", Why: "Some authenticators take the user's name from the mail address.", Spoil: alsoNamed(choice(1, []byte("root@example.com")))},
		{Name: "serving-san-uri", Why: "A URI is an identity for a service mesh.", Spoil: alsoNamed(choice(6, []byte("spiffe://example.com/ns/kube-system/sa/default")))},
		{Name: "serving-san-other-name", Why: "crypto/x509 does not show a user principal name.", Spoil: alsoNamed(otherName())},
		{Name: "serving-san-other-name-in-front", Why: "crypto/x509 does not show a user principal name.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(otherName(), p.names())
		})},
		{Name: "serving-san-x400", Why: "crypto/x509 does not show an X.400 address.", Spoil: alsoNamed(tagged(3, sequence()))},
		{Name: "serving-san-directory-name", Why: "crypto/x509 does not show a subject in the SAN.", Spoil: alsoNamed(directoryName("system:node:other-node"))},
		{Name: "serving-san-registered-id", Why: "crypto/x509 does not show an object identifier.", Spoil: alsoNamed(choice(8, []byte{42, 3, 4}))},
		{Name: "serving-san-constructed-dns", Why: "crypto/x509 ignores a DNS name in pieces; another reader may put them together.", Spoil: alsoNamed(tagged(2, text(asn1.TagIA5String, "api.example.com")))},
		{Name: "serving-san-universal-string", Why: "crypto/x509 ignores a name without a kind.", Spoil: alsoNamed(text(asn1.TagIA5String, "api.example.com"))},
		{Name: "serving-san-unknown-kind", Why: "crypto/x509 ignores a kind of name that does not exist.", Spoil: alsoNamed(choice(30, []byte("api.example.com")))},
		{Name: "serving-san-ips-first", Why: "A kubelet's names come first: another order is another request.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(slices.Concat(p.ips...), slices.Concat(p.dns...))
		})},
		{Name: "serving-san-mixed", Why: "A kubelet's names come first: another order is another request.", Spoil: rebuild(func(p *parts, _ string) {
			p.useSAN(p.dns[0], p.ips[0], slices.Concat(p.dns[1:]...), slices.Concat(p.ips[1:]...))
		})},
		{Name: "serving-ip-mapped", Why: "The IPv4 address in sixteen bytes is another name in the certificate, and the same to net.IP.", Spoil: alsoNamed(choice(7, net.ParseIP("192.0.2.7").To16()))},
		{Name: "serving-ip-mapped-loopback", Why: "A loopback address in sixteen bytes must not pass for IPv6.", Spoil: alsoNamed(choice(7, net.ParseIP("127.0.0.1").To16()))},
		{Name: "serving-ip-mapped-elsewhere", Why: "Another node's address in sixteen bytes must not pass for IPv6.", Spoil: alsoNamed(choice(7, net.ParseIP("192.0.2.8").To16()))},
	}
}

// extensions replaces the attributes by those that a function derives from the good SAN.
func extensions(of func(san []byte) []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.attributes = tagged(0, of(sequence(p.names()))) })
}

func sanRequestOf(san []byte) []byte { return extensionRequest(extension(oidSAN, san)) }

// besidesSAN adds an extension after the good SAN.
func besidesSAN(more []byte) spoil {
	return extensions(func(san []byte) []byte { return extensionRequest(extension(oidSAN, san), more) })
}

// alsoNamed adds a name after the good ones.
func alsoNamed(more []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.useSAN(p.names(), more) })
}

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
