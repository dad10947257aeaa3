// SPDX-License-Identifier: Apache-2.0

package csr_test

// spoil is a list of operations of mutate, with the rule that a good certificate request breaks after them.
type spoil struct {
	name, ops string
	want      error
}

// op is one operation of mutate.
func op(kind, where byte, argument string) string {
	return string([]byte{kind, where, byte(len(argument))}) + argument
}

// The places in the signed part, as mutate counts them: level by level, from the top. They are the same in both kinds of certificate
// request down to the key; then come the attributes, of which a client certificate's has none.
const (
	placeInfo = iota
	placeVersion
	placeSubject
	placeKey
	placeAttributes
	placeOrganization
	placeCommonName
	placeKeyAlgorithm
	placeKeyBits
)

// The next ones for a client certificate: the pairs of a type and a value in the subject, and within them.
const (
	placeOrganizationPair  = 9
	placeCommonNamePair    = 10
	placeCurve             = 12
	placeOrganizationValue = 14
	placeCommonNameValue   = 16
)

// The next ones for a serving certificate.
const (
	placeAttribute      = 9
	placeAttributeOID   = 14
	placeAttributeSet   = 15
	placeExtensions     = 20
	placeExtension      = 21
	placeExtensionOID   = 22
	placeExtensionValue = 23
	placeNames          = 24
	placeFirstName      = 25
)

// infoSpoils spoil the signed part for a client certificate with a key on P-256.
var infoSpoils = []spoil{
	{"version 1", op(opContent, placeVersion, "\x01"), errVersion},
	{"version -1", op(opContent, placeVersion, "\xff"), errVersion},
	{"version 0 in two bytes", op(opContent, placeVersion, "\x00\x00"), errVersion},
	{"an empty version", op(opContent, placeVersion, ""), errVersion},
	{"no version", op(opDelete, placeVersion, ""), errDER},
	{"two versions", op(opCopy, placeVersion, "\x01"), errDER},
	{"no attributes at all", op(opDelete, placeAttributes, ""), errDER},
	{"attributes of another tag", op(opTag, placeAttributes, "\xa1"), errDER},
	{"two sets of attributes", op(opCopy, placeAttributes, "\x04"), errDER},
	{"an attribute", op(opAppend, placeAttributes, "\x05\x00"), errAttributes},
	{"an attribute with a name", op(opAppend, placeAttributes, "\x30\x05\x06\x01\x2a\x31\x00"), errAttributes},
	{"trailing data in what is signed", op(opAppend, placeInfo, "\x05\x00"), errDER},
	{"a long length of the subject", op(opLong, placeSubject, ""), errDER},
	{"a long length of the attributes", op(opLong, placeAttributes, ""), errDER},
	{"a long length of a name", op(opLong, placeCommonNameValue, ""), errSubject},
	{"no organization", op(opDelete, placeOrganization, ""), errSubject},
	{"no common name", op(opDelete, placeCommonName, ""), errSubject},
	{"two common names", op(opCopy, placeCommonName, "\x06"), errSubject},
	{"two organizations", op(opCopy, placeOrganization, "\x05"), errSubject},
	{"the common name first", op(opSwap, placeOrganization, ""), errSubject},
	{"an empty name in the subject", op(opAppend, placeSubject, "\x31\x00"), errSubject},
	{"two organizations in one set", op(opCopy, placeOrganizationPair, "\x09"), errSubject},
	{"a common name in the organization's set", op(opCopy, placeOrganizationPair, "\x0a"), errSubject},
	{"a pair of another tag", op(opTag, placeCommonNamePair, "\x31"), errSubject},
	{"something after a name", op(opAppend, placeCommonNamePair, "\x05\x00"), errSubject},
	{"an organization as UTF8String", op(opTag, placeOrganizationValue, "\x0c"), errSubject},
	{"an organization as IA5String", op(opTag, placeOrganizationValue, "\x16"), errSubject},
	{"a common name as UTF8String", op(opTag, placeCommonNameValue, "\x0c"), errSubject},
	{"a common name as T61String", op(opTag, placeCommonNameValue, "\x14"), errSubject},
	{"another organization", op(opFlip, placeOrganizationValue, "\x00\x20"), errSubject},
	{"another common name", op(opFlip, placeCommonNameValue, "\x0c\x20"), errSubject},
	{"a common name with more to it", op(opAppend, placeCommonNameValue, "x"), errSubject},
	{"a common name with a NUL", op(opAppend, placeCommonNameValue, "\x00"), errSubject},
	{"trailing data in the key", op(opAppend, placeKey, "\x05\x00"), errDER},
	{"parameters after the curve", op(opAppend, placeKeyAlgorithm, "\x05\x00"), errKey},
	{"no curve", op(opDelete, placeCurve, ""), errKey},
	{"unused bits in the key", op(opFlip, placeKeyBits, "\x00\x01"), errDER},
	{"a compressed point", op(opFlip, placeKeyBits, "\x01\x06"), errKey},
	{"a point off the curve", op(opFlip, placeKeyBits, "\x07\x02"), errKey},
	{"trailing data after the point", op(opAppend, placeKeyBits, "\x00"), errKey},
	{"no key", op(opDelete, placeKeyBits, ""), errDER},
	{"a set instead of what is signed", op(opTag, placeInfo, "\x31"), errDER},
	{"an indefinite length", op(opRawSet, 0, "\x00\x01\x80"), errDER},
	{"bytes put in", op(opRawInsert, 0, "\x00\x05\x00"), errDER},
	{"bytes taken out", op(opRawDelete, 0, "\x00\x05\x00"), errDER},
}

// attributeSpoils spoil the attributes for a serving certificate.
var attributeSpoils = []spoil{
	{"no attribute", op(opDelete, placeAttribute, ""), errAttributes},
	{"two attributes", op(opCopy, placeAttribute, "\x09"), errAttributes},
	{"something after the attribute's values", op(opAppend, placeAttribute, "\x31\x00"), errAttributes},
	{"an attribute named by another tag", op(opTag, placeAttributeOID, "\x0c"), errAttributes},
	{"another attribute", op(opFlip, placeAttributeOID, "\x08\x01"), errAttributes},
	{"a second list of extensions, empty", op(opAppend, placeAttributeSet, "\x30\x00"), errAttributes},
	{"the list of extensions twice", op(opCopy, placeExtensions, "\x14"), errAttributes},
	{"no values", op(opDelete, placeAttributeSet, ""), errAttributes},
	{"no list of extensions", op(opDelete, placeExtensions, ""), errAttributes},
	{"a long length", op(opLong, placeExtensions, ""), errAttributes},
	{"a sequence instead of a set", op(opTag, placeAttributeSet, "\x30"), errAttributes},
	{"the extension twice", op(opCopy, placeExtension, "\x15"), errAttributes},
	{"no extension", op(opDelete, placeExtension, ""), errAttributes},
	{"critical", op(opInsert, placeExtensionValue, "\x01\xff"), errAttributes},
	{"explicitly not critical", op(opInsert, placeExtensionValue, "\x01\x00"), errAttributes},
	{"another extension", op(opFlip, placeExtensionOID, "\x02\x01"), errAttributes},
	{"something after the extension", op(opAppend, placeExtension, "\x05\x00"), errAttributes},
	{"something after the names", op(opAppend, placeExtensionValue, "\x05\x00"), errAttributes},
	{"a constructed OCTET STRING", op(opTag, placeExtensionValue, "\x24"), errAttributes},
	{"names in a set", op(opTag, placeNames, "\x31"), errAttributes},
	{"no names", op(opContent, placeNames, ""), errNoAddress},
	{"a name after the IPs", op(opAppend, placeNames, "\x82\x01a"), errAttributes},
	{"a mail address first", op(opPrepend, placeNames, "\x81\x03a@b"), errAttributes},
	{"a URI last", op(opAppend, placeNames, "\x86\x03a:b"), errAttributes},
	{"a long length of a name", op(opLong, placeFirstName, ""), errAttributes},
	{"a constructed name", op(opTag, placeFirstName, "\xa2"), errAttributes},
	{"no set of attributes", op(opDelete, placeAttributes, ""), errDER},
	{"another attribute last", op(opAppend, placeAttributes, "\x30\x05\x06\x01\x2a\x31\x00"), errAttributes},
	{"another attribute first", op(opPrepend, placeAttributes, "\x30\x05\x06\x01\x2a\x31\x00"), errAttributes},
}

// outerSpoils spoil the outer structure: 0 is everything, 1 the signed part, 2 the algorithm of the signature, 3 the signature.
var outerSpoils = []spoil{
	{"trailing data", op(opAppend, 0, "\x05\x00"), errDER},
	{"no signature", op(opDelete, 3, ""), errDER},
	{"two signatures", op(opCopy, 3, "\x03"), errDER},
	{"unused bits in the signature", op(opFlip, 3, "\x00\x01"), errDER},
	{"another signature", op(opFlip, 3, "\x0a\x01"), errSignature},
	{"trailing data after the signature", op(opAppend, 3, "\x00"), errSignature},
	{"a 0 before the signature", op(opContent, 3, "\x00\x00"), errSignature},
	{"parameters of the algorithm", op(opAppend, 2, "\x05\x00"), errSignature},
	{"the signature before its algorithm", op(opSwap, 2, ""), errDER},
	{"a long length of the algorithm", op(opLong, 2, ""), errDER},
	{"a signature of another tag", op(opTag, 3, "\x04"), errDER},
	{"an empty signature", op(opContent, 3, "\x00"), errSignature},
	{"a set instead of the request", op(opRawSet, 0, "\x00\x00\x31"), errDER},
}
