// SPDX-License-Identifier: Apache-2.0

package adversarial

import (
	"encoding/asn1"
	"slices"
	"strings"
)

// commonNames are CSRs for another name than the node's.
func commonNames() []Case {
	return slices.Concat(all(deny, wrongSubject, []Case{
		{Name: "cn-other-node", Why: "One node's token would register another node.", Spoil: asks("system:node:other-node")},
		{Name: "cn-longer", Why: "A node whose name has the same beginning is another node.", Spoil: asks("system:node:<node>0")},
		{Name: "cn-shorter", Why: "A node whose name is the beginning of the name is another node.", Spoil: asks("system:node:<nod>")},
		{Name: "cn-ending", Why: "A node whose name has the same ending is another node.", Spoil: asks("system:node:x<node>")},
		{Name: "cn-domain", Why: "The node's name with a domain is another node.", Spoil: asks("system:node:<node>.example.com")},
		{Name: "cn-final-dot", Why: "For DNS a final dot changes nothing, for Kubernetes it is another node.", Spoil: asks("system:node:<node>.")},
		{Name: "cn-no-node", Why: "Some authorizers read an empty node name as any.", Spoil: asks("system:node:")},
		{Name: "cn-two-nodes", Why: "A list of nodes is no node.", Spoil: asks("system:node:<node>,system:node:other-node")},
		{Name: "cn-wildcard", Why: "A wildcard is no node.", Spoil: asks("system:node:*")},
		{Name: "cn-without-prefix", Why: "Without the prefix it is a user of that name.", Spoil: asks("<node>")},
		{Name: "cn-prefix-twice", Why: "A prefix that is cut off once leaves a prefix.", Spoil: asks("system:node:system:node:<node>")},
		{Name: "cn-prefix-plural", Why: "A prefix that is nearly right is wrong.", Spoil: asks("system:nodes:<node>")},
		{Name: "cn-prefix-upper-case", Why: "User names are case-sensitive.", Spoil: asks("System:Node:<node>")},
		{Name: "cn-upper-case", Why: "User names are case-sensitive.", Spoil: asks("system:node:<NODE>")},
		{Name: "cn-final-space", Why: "Comparisons of names by X.520 ignore trailing spaces.", Spoil: asks("system:node:<node> ")},
		{Name: "cn-leading-space", Why: "Comparisons of names by X.520 ignore leading spaces.", Spoil: asks(" system:node:<node>")},
		{Name: "cn-inner-space", Why: "A reader that trims what follows the prefix finds the node's name.", Spoil: asks("system:node: <node>")},
		{Name: "cn-final-newline", Why: "A pattern that ends in $ may match before a newline.", Spoil: asks("system:node:<node>\n")},
		{Name: "cn-final-nul", Why: "A reader written in C stops at the NUL.", Spoil: asks("system:node:<node>\x00")},
		{Name: "cn-nul-and-more", Why: "A reader written in C stops at the NUL and sees the node's name.", Spoil: asks("system:node:<node>\x00.example.com")},
		{Name: "cn-nul-in-front", Why: "A reader written in C sees an empty name.", Spoil: asks("\x00system:node:<node>")},
		{Name: "cn-cyrillic", Why: "A Cyrillic letter looks like the Latin one.", Spoil: asks("<cyrillic>")},
		{Name: "cn-full-width", Why: "A full-width letter is the plain one after normalization.", Spoil: asks("system:node:<wide>")},
		{Name: "cn-zero-width-space", Why: "A zero-width space is invisible.", Spoil: asks("system:node:<node>\u200b")},
		{Name: "cn-soft-hyphen", Why: "A soft hyphen is invisible.", Spoil: asks("system:node:\u00ad<node>")},
		{Name: "cn-combining", Why: "A combining character may be dropped by normalization.", Spoil: asks("system:node:<node>\u0301")},
		{Name: "cn-right-to-left", Why: "Text after the mark is shown in reverse.", Spoil: asks("system:node:\u202e<node>")},
		{Name: "cn-byte-order-mark", Why: "A byte order mark in front is often dropped.", Spoil: asks("\ufeffsystem:node:<node>")},
		{Name: "cn-escaped", Why: "A reader that undoes escapes finds the node's name.", Spoil: asks(`system:node\3a<node>`)},
		{Name: "cn-administrator", Why: "The user of the administrator's certificate.", Spoil: asks("kubernetes-admin")},
		{Name: "cn-controller-manager", Why: "kube-controller-manager may sign and reads all Secrets.", Spoil: asks("system:kube-controller-manager")},
		{Name: "cn-bootstrap-user", Why: "A certificate in a token's name outlives the token.", Spoil: asks("system:bootstrap:abc123")},
		{Name: "cn-empty", Why: "A user without a name.", Spoil: asks("")},
		{Name: "cn-very-long", Why: "A name longer than any that Kubernetes allows.", Spoil: asks("system:node:<node>" + strings.Repeat("x", 2000))},
		{Name: "cn-utf8-string", Reason: unexpectedAttributes, Why: "Another kind of string hides behind the same text: a kubelet sends a PrintableString.", Spoil: asksAs(asn1.TagUTF8String, "system:node:<node>")},
		{Name: "cn-ia5-string", Reason: unexpectedAttributes, Why: "Another kind of string hides behind the same text.", Spoil: asksAs(asn1.TagIA5String, "system:node:<node>")},
		{Name: "cn-t61-string", Reason: unexpectedAttributes, Why: "Readers differ on what the bytes of a T61String mean.", Spoil: asksAs(asn1.TagT61String, "system:node:<node>")},
		{Name: "cn-bmp-string", Reason: unexpectedAttributes, Why: "Readers differ on what a BMPString means.", Spoil: asksAs(asn1.TagBMPString, "system:node:<node>")},
		{Name: "cn-universal-string", Why: "encoding/asn1 does not know the UniversalString and leaves the name out.", Spoil: asksAs(28, "system:node:<node>")},
		{Name: "cn-general-string", Why: "A GeneralString may hold escape sequences.", Spoil: asksAs(asn1.TagGeneralString, "system:node:<node>")},
		{Name: "cn-octet-string", Why: "Bytes that are not text may be printed as text.", Spoil: asksAs(asn1.TagOctetString, "system:node:<node>")},
		{Name: "cn-constructed-string", Why: "A string in pieces is left out by encoding/asn1 and read by others.", Spoil: asksFor(func(node string) [][]byte {
			piece := text(asn1.TagPrintableString, "system:node:"+node)
			return [][]byte{organization(), set(sequence(der(oidCommonName), element(asn1.ClassUniversal, asn1.TagPrintableString, true, piece)))}
		})},
		{Name: "cn-printable-with-nul", Why: "A NUL is no character of a PrintableString.", Spoil: asksAs(asn1.TagPrintableString, "system:node:<node>\x00"), Reason: malformed},
		{Name: "cn-printable-with-underscore", Why: "An underscore is no character of a PrintableString.", Spoil: asksAs(asn1.TagPrintableString, "system:node:<node>_"), Reason: malformed},
		{Name: "cn-invalid-utf8", Why: "Each reader prints invalid UTF-8 in its own way.", Spoil: asksAs(asn1.TagUTF8String, "system:node:<node>\xc0\x80"), Reason: malformed},
		{Name: "cn-half-bmp-string", Why: "A BMPString has two bytes for each character.", Spoil: asksFor(func(string) [][]byte {
			return [][]byte{organization(), set(attribute(oidCommonName, asn1.TagBMPString, "odd"))}
		}), Reason: malformed},
	}))
}

// subjects are CSRs for the node's name in a subject of another form.
func subjects() []Case {
	node := func(change func(cn []byte) [][]byte) spoil {
		return asksFor(func(node string) [][]byte { return change(commonName("system:node:" + node)) })
	}
	masters := rdn(oidOrganization, "system:masters")
	return all(deny, wrongSubject, []Case{
		{Name: "o-masters", Why: "system:masters may do everything.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{masters, cn} })},
		{Name: "o-masters-in-front", Why: "Each organization is a group, and system:masters may do everything.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{masters, organization(), cn} })},
		{Name: "o-masters-behind", Why: "Each organization is a group, and system:masters may do everything.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{organization(), masters, cn} })},
		{Name: "o-masters-last", Why: "Each organization is a group, and system:masters may do everything.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{organization(), cn, masters} })},
		{Name: "o-masters-same-part", Why: "A reader that takes one value of each part misses the second group.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{set(attribute(oidOrganization, asn1.TagPrintableString, "system:nodes"), attribute(oidOrganization, asn1.TagPrintableString, "system:masters")), cn}
		})},
		{Name: "o-masters-and-nodes-as-one", Why: "A reader that splits at commas finds two groups.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{rdn(oidOrganization, "system:nodes,system:masters"), cn}
		})},
		{Name: "o-twice", Why: "A certificate with the group twice is none that a kubelet requests.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{organization(), organization(), cn} })},
		{Name: "o-missing", Why: "A user with a node's name who is in no group escapes the node authorizer.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{cn} })},
		{Name: "o-empty", Why: "An empty group is no group.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{rdn(oidOrganization, ""), cn} })},
		{Name: "o-upper-case", Why: "Group names are case-sensitive.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{rdn(oidOrganization, "System:Nodes"), cn} })},
		{Name: "o-final-space", Why: "Comparisons of names by X.520 ignore trailing spaces.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{rdn(oidOrganization, "system:nodes "), cn} })},
		{Name: "o-singular", Why: "A group that is nearly right is wrong.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{rdn(oidOrganization, "system:node"), cn} })},
		{Name: "o-utf8-string", Reason: unexpectedAttributes, Why: "Another kind of string hides behind the same text.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{set(attribute(oidOrganization, asn1.TagUTF8String, "system:nodes")), cn}
		})},
		{Name: "cn-missing", Why: "A certificate without a common name is a user without a name.", Spoil: node(func([]byte) [][]byte { return [][]byte{organization()} })},
		{Name: "cn-twice", Why: "Readers differ on which of two common names counts.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{organization(), cn, cn} })},
		{Name: "cn-other-in-front", Why: "crypto/x509 takes the last common name, others take the first.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{organization(), commonName("system:node:other-node"), cn}
		})},
		{Name: "cn-other-behind", Why: "crypto/x509 takes the last common name, others take the first.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{organization(), cn, commonName("system:node:other-node")}
		})},
		{Name: "subject-reversed", Reason: unexpectedAttributes, Why: "A kubelet's parts have one order; another order is another subject.", Spoil: node(func(cn []byte) [][]byte { return [][]byte{cn, organization()} })},
		{Name: "subject-one-part", Reason: unexpectedAttributes, Why: "Both attributes in one part read the same in pkix.Name.", Spoil: node(func(cn []byte) [][]byte {
			return [][]byte{inside(cn, attribute(oidOrganization, asn1.TagPrintableString, "system:nodes"))}
		})},
		{Name: "subject-unit", Why: "An organizational unit is a group for some authenticators.", Spoil: with(rdn(oidUnit, "system:masters"))},
		{Name: "subject-serial-number", Why: "pkix.Name has a serial number that a careless comparison leaves out.", Spoil: with(rdn(oidSerialNumber, "1"))},
		{Name: "subject-user-id", Why: "Some authenticators take the user's name from the user id.", Spoil: with(rdn(oidUserID, "system:node:other-node"))},
		{Name: "subject-email", Why: "Some authenticators take the user's name from the mail address.", Spoil: with(set(attribute(oidEmailAddress, asn1.TagIA5String, "root@example.com")))},
		{Name: "subject-country", Why: "A country is no part of a kubelet's subject.", Spoil: with(rdn(oidCountry, "DE"))},
		{Name: "subject-domain", Why: "A domain component is no part of a kubelet's subject.", Spoil: with(set(attribute(oidComponent, asn1.TagIA5String, "example")))},
		{Name: "subject-unknown-attribute", Why: "An attribute that pkix.Name does not know is invisible in it.", Spoil: with(rdn(oidUnknown, "x"))},
		{Name: "subject-empty-part", Reason: unexpectedAttributes, Why: "A part without attributes is not seen in pkix.Name.", Spoil: with(set())},
		{Name: "subject-empty", Why: "A certificate without a subject is a user without a name.", Spoil: asksFor(func(string) [][]byte { return nil })},
		{Name: "subject-attribute-tail", Reason: unexpectedAttributes, Why: "encoding/asn1 ignores what follows an attribute's value.", Spoil: asksFor(func(node string) [][]byte {
			return [][]byte{organization(), set(inside(attribute(oidCommonName, asn1.TagPrintableString, "system:node:"+node), null()))}
		})},
		{Name: "subject-as-set", Why: "A name is a SEQUENCE of parts, in an order.", Reason: malformed, Spoil: rebuild(func(p *parts, _ string) {
			_, content := split(p.subject)
			p.subject = set(content)
		})},
		{Name: "subject-part-as-sequence", Why: "A part of a name is a SET.", Reason: malformed, Spoil: node(func(cn []byte) [][]byte {
			_, content := split(cn)
			return [][]byte{organization(), sequence(content)}
		})},
		{Name: "subject-missing", Why: "A request without a subject shifts the fields after it.", Reason: malformed, Spoil: rebuild(func(p *parts, _ string) { p.subject = nil })},
	})
}

func name(rdns ...[]byte) []byte { return sequence(rdns...) }

func attribute(oid asn1.ObjectIdentifier, tag int, content string) []byte {
	return sequence(der(oid), text(tag, content))
}

// rdn is a part of a subject with one attribute, as a PrintableString or, if that is impossible, as a UTF8String.
func rdn(oid asn1.ObjectIdentifier, content string) []byte {
	return set(sequence(der(oid), der(content)))
}

func organization() []byte { return rdn(oidOrganization, "system:nodes") }

func commonName(content string) []byte { return rdn(oidCommonName, content) }

func asksFor(rdns func(node string) [][]byte) spoil {
	return rebuild(func(p *parts, node string) { p.subject = name(rdns(node)...) })
}

// with adds a part to the good subject.
func with(part []byte) spoil {
	return rebuild(func(p *parts, _ string) { p.subject = inside(p.subject, part) })
}

// asks is a subject with another common name. <node> in it stands for the node's name.
func asks(template string) spoil {
	return asksFor(func(node string) [][]byte { return [][]byte{organization(), commonName(fill(template, node))} })
}

// asksAs is the same with the common name as another kind of string.
func asksAs(tag int, template string) spoil {
	return asksFor(func(node string) [][]byte {
		content := fill(template, node)
		switch tag {
		case asn1.TagBMPString:
			content = wide(content, 2)
		case 28:
			content = wide(content, 4)
		}
		return [][]byte{organization(), set(attribute(oidCommonName, tag, content))}
	})
}

// wide is ASCII in so many bytes for each character.
func wide(ascii string, size int) string {
	padding := strings.Repeat("\x00", size-1)
	var b strings.Builder
	for _, c := range []byte(ascii) {
		b.WriteString(padding)
		b.WriteByte(c)
	}
	return b.String()
}

// fill puts the node's name into a template, and variations of it.
func fill(template, node string) string {
	return strings.NewReplacer(
		"<node>", node,
		"<nod>", node[:len(node)-1],
		"<NODE>", strings.ToUpper(node),
		"<cyrillic>", cyrillic("system:node:", node),
		"<wide>", string(rune(node[0])+0xfee0)+node[1:],
	).Replace(template)
}

// cyrillic replaces one letter of the node's name by a similar one, or of the prefix if the name has none.
func cyrillic(prefix, node string) string {
	alike := map[rune]rune{'a': '\u0430', 'c': '\u0441', 'e': '\u0435', 'i': '\u0456', 'j': '\u0458', 'o': '\u043e', 'p': '\u0440', 's': '\u0455', 'x': '\u0445', 'y': '\u0443'}
	for i, letter := range node {
		if other, ok := alike[letter]; ok {
			return prefix + node[:i] + string(other) + node[i+1:]
		}
	}
	return strings.Replace(prefix, "o", "\u043e", 1) + node
}
