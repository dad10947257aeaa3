// SPDX-License-Identifier: Apache-2.0

package csr_test

import "bytes"

// A node is one TLV of a DER encoding that can be spoiled. Lengths are calculated again when it is encoded, so that a change deep inside
// keeps the rest readable.
type node struct {
	tag      byte
	content  []byte // if it has no children
	children []*node
	long     bool // the length is not in the shortest form
}

// parseNode reads valid DER. It also parses an OCTET STRING that contains DER.
func parseNode(element tlv) *node {
	n := &node{tag: element.tag, content: element.content}
	if element.tag&0x20 == 0 && element.tag != tagOctetString {
		return n
	}
	for rest := element.content; len(rest) > 0; {
		child, after, err := readOne(rest)
		if err != nil {
			n.children = nil
			return n
		}
		n.children, rest = append(n.children, parseNode(child)), after
	}
	return n
}

func (n *node) encode() []byte {
	content := n.content
	if n.children != nil {
		content = nil
		for _, child := range n.children {
			content = append(content, child.encode()...)
		}
	}
	switch size := len(content); {
	case n.long && size < 0x80:
		return append([]byte{n.tag, 0x81, byte(size)}, content...)
	case n.long && size < 0x100:
		return append([]byte{n.tag, 0x82, 0, byte(size)}, content...)
	default:
		return write(n.tag, content)
	}
}

// clone is a deep copy.
func (n *node) clone() *node {
	c := *n
	c.content = bytes.Clone(n.content)
	c.children = nil
	for _, child := range n.children {
		c.children = append(c.children, child.clone())
	}
	return &c
}

// A place is a node with its parent, which is nil at the top.
type place struct {
	parent *node
	index  int
	node   *node
}

func places(n *node) []place {
	list := []place{{node: n}}
	for i := 0; i < len(list); i++ {
		for j, child := range list[i].node.children {
			list = append(list, place{parent: list[i].node, index: j, node: child})
		}
	}
	return list
}

// splice replaces count children from a place on.
func (p place) splice(count int, with ...*node) {
	if p.parent == nil {
		return
	}
	before, after := p.parent.children[:p.index], p.parent.children[min(p.index+count, len(p.parent.children)):]
	p.parent.children = append(append(append([]*node{}, before...), with...), after...)
	p.parent.content = nil
}

// The operations of mutate, of which a list of bytes holds any number: kind, place, count of bytes, bytes.
const (
	opTag          = iota // set the tag to the first byte
	opContent             // replace the content, including children
	opFlip                // flip the bits of the second byte in the content's byte that the first one names
	opDelete              // remove it
	opCopy                // insert a copy of the node that the first byte names before it
	opInsert              // insert a new node before it: a tag, and its content
	opAppend              // append bytes to its content
	opPrepend             // prepend bytes to its content
	opLong                // write the length in a longer form than needed
	opSwap                // swap it with what follows it
	opRawSet              // set a byte of the whole encoding, lengths and all: two bytes for its place, one for its value
	opRawInsert           // the same, with bytes inserted
	opRawDelete           // the same, with as many bytes removed
	countOfOps            // no operation
	maxOps         = 6    // keeps a request that is copied into itself small
	maxMutatedSize = 1 << 14
)

// mutate applies operations to good DER.
func mutate(der []byte, ops []byte) []byte {
	element, _, err := readOne(der)
	if err != nil {
		return der
	}
	root := parseNode(element).clone()
	var raw [][]byte
	for range maxOps {
		if len(ops) < 3 {
			break
		}
		kind, where, count := ops[0]%countOfOps, ops[1], min(int(ops[2]), len(ops)-3)
		argument := ops[3 : 3+count]
		ops = ops[3+count:]
		if kind >= opRawSet {
			raw = append(raw, append([]byte{kind}, argument...))
			continue
		}
		all := places(root)
		mutateNode(pick(all, where), kind, argument, all)
	}
	der = root.encode()
	for _, op := range raw {
		der = mutateBytes(der, op[0], op[1:])
	}
	return der[:min(len(der), maxMutatedSize)]
}

func mutateNode(p place, kind byte, argument []byte, all []place) {
	firstByte := byte(0)
	if len(argument) > 0 {
		firstByte = argument[0]
	}
	n := p.node
	switch kind {
	case opTag:
		n.tag = firstByte
	case opContent:
		n.content, n.children = bytes.Clone(argument), nil
	case opFlip:
		if content := n.content; n.children == nil && len(content) > 0 && len(argument) > 1 {
			content[int(firstByte)%len(content)] ^= argument[1]
		}
	case opDelete:
		p.splice(1)
	case opCopy:
		p.splice(0, pick(all, firstByte).node.clone())
	case opInsert:
		p.splice(0, &node{tag: firstByte, content: bytes.Clone(argument[min(1, len(argument)):])})
	case opAppend:
		n.content, n.children = append(n.inner(), argument...), nil
	case opPrepend:
		n.content, n.children = append(bytes.Clone(argument), n.inner()...), nil
	case opLong:
		n.long = true
	case opSwap:
		if p.parent != nil && p.index+1 < len(p.parent.children) {
			p.splice(2, p.parent.children[p.index+1], n)
		}
	}
}

// inner is the encoding of a node's content.
func (n *node) inner() []byte {
	if n.children == nil {
		return bytes.Clone(n.content)
	}
	var content []byte
	for _, child := range n.children {
		content = append(content, child.encode()...)
	}
	return content
}

func mutateBytes(der []byte, kind byte, argument []byte) []byte {
	if len(argument) < 3 || len(der) == 0 {
		return der
	}
	at := (int(argument[0])<<8 | int(argument[1])) % len(der)
	argument = argument[2:]
	switch kind {
	case opRawSet:
		der[at] = argument[0]
		return der
	case opRawInsert:
		return append(der[:at:at], append(bytes.Clone(argument), der[at:]...)...)
	default:
		return append(der[:at:at], der[min(len(der), at+len(argument)):]...)
	}
}
