// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"encoding/asn1"
	"net"
	"slices"
)

// clientExtensions request extensions; a kubelet's client certificate has none.
func clientExtensions() []Case {
	ask := func(extensions ...[]byte) spoil { return attributes(extensionRequest(extensions...)) }
	san := func(names ...[]byte) spoil { return ask(extension(oidSAN, sequence(names...))) }
	return slices.Concat(
		all(deny, unexpectedAttributes, []Case{
			{Name: "san-dns", Why: "With a DNS name the certificate could serve under it.", Spoil: san(dnsName("api.example.com"))},
			{Name: "san-ip", Why: "With an IP address the certificate could serve under it.", Spoil: san(ipAddress(net.IPv4(10, 0, 0, 1)))},
			{Name: "san-email", Why: "Some authenticators take the user's name from the mail address.", Spoil: san(choice(1, []byte("root@example.com")))},
			{Name: "san-uri", Why: "A URI is an identity for a service mesh.", Spoil: san(choice(6, []byte("spiffe://example.com/ns/kube-system/sa/default")))},
			{Name: "san-other-name", Why: "A user principal name is an identity for Windows, and crypto/x509 does not show it.", Spoil: san(otherName())},
			{Name: "san-directory-name", Why: "crypto/x509 does not show a subject in the SAN.", Spoil: san(directoryName("system:node:other-node"))},
			{Name: "san-registered-id", Why: "crypto/x509 does not show an object identifier in the SAN.", Spoil: san(choice(8, []byte{42, 3, 4}))},
			{Name: "san-empty", Why: "An empty SAN asks for nothing, and no kubelet sends it.", Spoil: san()},
			{Name: "san-critical", Why: "An empty critical SAN hides the subject from those that go by RFC 6125.", Spoil: ask(critical(oidSAN, sequence()))},
			{Name: "ext-ca", Why: "A certificate that can sign certificates can create any node and any user.", Spoil: ask(critical(oidBasicConstraints, sequence(der(true))))},
			{Name: "ext-not-ca", Why: "Even the harmless form is none that a kubelet sends.", Spoil: ask(extension(oidBasicConstraints, sequence()))},
			{Name: "ext-key-usage-cert-sign", Why: "A key that can sign certificates can create any node and any user.", Spoil: ask(critical(oidKeyUsage, keyUsage(5)))},
			{Name: "ext-usage-any", Why: "A certificate for any use is one for servers as well.", Spoil: ask(extension(oidExtKeyUsage, sequence(der(asn1.ObjectIdentifier{2, 5, 29, 37, 0}))))},
			{Name: "ext-usage-server", Why: "A certificate for servers could serve in place of others.", Spoil: ask(extension(oidExtKeyUsage, sequence(der(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}))))},
			{Name: "ext-name-constraints", Why: "Constraints are for certificate authorities.", Spoil: ask(critical(oidNameConstraints, sequence(tagged(0, sequence(dnsName(""))))))},
			{Name: "ext-subject-key-id", Why: "A key id of one's choice stands for someone else's key.", Spoil: ask(extension(oidSubjectKeyID, octetString([]byte("someone else's key"))))},
			{Name: "ext-unknown", Why: "An unknown extension cannot be evaluated.", Spoil: ask(extension(oidUnknown, null()))},
			{Name: "ext-unknown-critical", Why: "A critical extension that is not known makes the certificate useless to those that keep the rules.", Spoil: ask(critical(oidUnknown, null()))},
			{Name: "ext-none", Why: "A list of no extensions is none that a kubelet sends.", Spoil: ask()},
			{Name: "ext-second-value", Why: "crypto/x509 reads the first list of extensions and ignores the second.", Spoil: attributes(requestAttribute(oidExtensionRequest,
				sequence(), sequence(extension(oidSAN, sequence(dnsName("api.example.com"))))))},
			{Name: "ext-tail", Why: "crypto/x509 ignores what follows an extension's value.", Spoil: ask(inside(extension(oidUnknown, null()), null()))},
			{Name: "ext-microsoft", Why: "Microsoft's name for the extension request is one that crypto/x509 ignores.", Spoil: attributes(requestAttribute(oidMicrosoftRequest,
				sequence(extension(oidSAN, sequence(dnsName("api.example.com"))))))},
		}),
		all(deny, malformed, []Case{
			{Name: "ext-twice", Why: "Readers differ on which of two extensions of one kind counts.", Spoil: ask(extension(oidUnknown, null()), extension(oidUnknown, null()))},
			{Name: "ext-twice-in-two-attributes", Why: "Readers differ on which of two extensions of one kind counts.", Spoil: attributes(
				sanRequest(dnsName("a.example.com")), sanRequest(dnsName("b.example.com")))},
			{Name: "ext-no-list", Why: "An extension request holds a list.", Spoil: attributes(requestAttribute(oidExtensionRequest, null()))},
			{Name: "ext-critical-one", Why: "Any byte but zero is true in BER, only 0xff is in DER.", Spoil: ask(sequence(der(oidUnknown), []byte{asn1.TagBoolean, 1, 1}, octetString(null())))},
			{Name: "san-no-list", Why: "A SAN holds a list of names.", Spoil: ask(extension(oidSAN, null()))},
			{Name: "san-ip-of-five-bytes", Why: "An IP address has four bytes or sixteen.", Spoil: san(choice(7, []byte{192, 0, 2, 7, 0}))},
			{Name: "san-dns-not-ascii", Why: "A DNS name in a certificate is ASCII.", Spoil: san(choice(2, []byte("w\xc3\xb6rker")))},
			{Name: "san-uri-broken", Why: "A URI that cannot be parsed is none.", Spoil: san(choice(6, []byte("https://[::1/")))},
		}),
	)
}

// clientAttributes have attributes that are no extension request.
func clientAttributes() []Case {
	utf8 := func(content string) []byte { return text(asn1.TagUTF8String, content) }
	return all(deny, unexpectedAttributes, []Case{
		{Name: "attr-challenge-password", Why: "A password in a request is one that everybody may read.", Spoil: attributes(requestAttribute(oidChallengePassword, utf8("secret")))},
		{Name: "attr-unstructured-name", Why: "Some authorities take names from here.", Spoil: attributes(requestAttribute(oidUnstructuredName, utf8("api.example.com")))},
		{Name: "attr-email", Why: "Some authorities take names from here.", Spoil: attributes(requestAttribute(oidEmailAddress, text(asn1.TagIA5String, "root@example.com")))},
		{Name: "attr-unknown", Why: "An attribute that is not known cannot be judged.", Spoil: attributes(requestAttribute(oidUnknown, utf8("x")))},
		{Name: "attr-twice", Why: "An attribute may be there once.", Spoil: attributes(requestAttribute(oidUnknown, utf8("x")), requestAttribute(oidUnknown, utf8("x")))},
		{Name: "attr-without-values", Why: "crypto/x509 ignores an attribute without values.", Spoil: attributes(requestAttribute(oidUnknown))},
		{Name: "attr-request-without-values", Why: "crypto/x509 ignores an extension request without values.", Spoil: attributes(requestAttribute(oidExtensionRequest))},
		{Name: "attr-values-as-sequence", Why: "crypto/x509 ignores an extension request that it cannot read; another reader may find the names.", Spoil: attributes(
			sequence(der(oidExtensionRequest), sequence(sequence(extension(oidSAN, sequence(dnsName("api.example.com")))))))},
		{Name: "attr-no-attribute", Why: "crypto/x509 ignores what is no attribute.", Spoil: attributes(null())},
		{Name: "attr-no-oid", Why: "crypto/x509 ignores what is no attribute.", Spoil: attributes(sequence(utf8("extensionRequest"), set(null())))},
		{Name: "attr-tail", Why: "encoding/asn1 ignores what follows an attribute's values.", Spoil: attributes(inside(requestAttribute(oidUnknown, utf8("x")), null()))},
	})
}

// attributes replaces the attributes of a request.
func attributes(list ...[]byte) spoil {
	return rebuild(func(p *parts, _ string) { p.attributes = tagged(0, list...) })
}

func requestAttribute(oid asn1.ObjectIdentifier, values ...[]byte) []byte {
	return sequence(der(oid), set(values...))
}

func extensionRequest(extensions ...[]byte) []byte {
	return requestAttribute(oidExtensionRequest, sequence(extensions...))
}

func sanRequest(names ...[]byte) []byte {
	return extensionRequest(extension(oidSAN, sequence(names...)))
}

func extension(oid asn1.ObjectIdentifier, value []byte) []byte {
	return sequence(der(oid), octetString(value))
}

func critical(oid asn1.ObjectIdentifier, value []byte) []byte {
	return sequence(der(oid), der(true), octetString(value))
}

// keyUsage is one bit of a key usage extension.
func keyUsage(bit int) []byte {
	return der(asn1.BitString{Bytes: []byte{0x80 >> bit}, BitLength: bit + 1})
}

// The kinds of names in a SAN extension (RFC 5280, section 4.2.1.6).

func dnsName(name string) []byte { return choice(2, []byte(name)) }

// ipAddress has four bytes for IPv4, even if it is passed with sixteen.
func ipAddress(ip net.IP) []byte {
	if short := ip.To4(); short != nil {
		ip = short
	}
	return choice(7, ip)
}

// otherName is a user principal name of Microsoft.
func otherName() []byte {
	return tagged(0, der(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}), tagged(0, text(asn1.TagUTF8String, "root@example.com")))
}

func directoryName(cn string) []byte { return tagged(4, name(organization(), commonName(cn))) }
