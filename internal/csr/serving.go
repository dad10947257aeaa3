// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// Reasons of a verdict on a CSR for a serving certificate.
const (
	// ReasonKubeletServing is the reason when the CSR is approved.
	ReasonKubeletServing = "KubeletServingOfThisNode"
	// ReasonNoAddressesDeclared is the reason when the NodeBootstrap declares no addresses: then a person decides.
	ReasonNoAddressesDeclared = "NoAddressesDeclared"
	// ReasonNoAddress is the reason when the CSR names neither a DNS name nor an IP.
	ReasonNoAddress = "NoAddress"
	// ReasonAddressReserved is the reason while the CSR names an address of the control plane.
	ReasonAddressReserved = "AddressReserved"
	// ReasonAddressDeclaredElsewhere is the reason while the CSR names an address that another NodeBootstrap declares as its own.
	ReasonAddressDeclaredElsewhere = "AddressDeclaredElsewhere"
	// ReasonAddressNotDeclared is the reason while the CSR names an address that its NodeBootstrap does not declare.
	ReasonAddressNotDeclared = "AddressNotDeclared"
)

// ServingRequest is a CSR for a kubelet's serving certificate, with the facts about addresses.
type ServingRequest struct {
	// CSR is the object as it was read.
	CSR *certificatesv1.CertificateSigningRequest
	// NodeName is the node that may have sent it.
	NodeName string
	// Declared are the DNS names, IPs and CIDRs that its NodeBootstrap declares.
	Declared []string
	// Reserved are the hosts at which the API server is reached, except for those that are the same in every cluster.
	Reserved []Reservation
	// Elsewhere are addresses that other NodeBootstraps declare as their own, by Address.Key, with the name of one of them.
	Elsewhere map[string]string
}

// credentialID is the only extra data of a user who authenticated with a certificate
// (staging/src/k8s.io/apiserver/pkg/authentication/user).
const credentialID = "authentication.kubernetes.io/credential-id"

// servingChecks are all the rules, in this order: who sent the CSR, then its metadata and spec, then its content, then whether the node
// may serve at the addresses that it names.
var servingChecks = []check{
	{"sentByNode", sentByNode},
	{"addressesAreDeclared", addressesAreDeclared},
	{"hasPlainMetadata", hasPlainMetadata},
	{"livesAYearAtMost", livesAYearAtMost},
	{"isOfModestSize", isOfModestSize},
	{"isOnePEMBlock", isOnePEMBlock},
	{"isSigned", isSigned},
	{"hasSoundKey", hasSoundKey},
	{"hasServingUsages", hasServingUsages},
	{"hasRequestersSubject", hasRequestersSubject},
	{"namesAnAddress", namesAnAddress},
	{"asksForAddressesAlone", asksForAddressesAlone},
	{"namesNothingReserved", namesNothingReserved},
	{"namesNothingOfOthers", namesNothingOfOthers},
	{"namesWhatIsDeclared", namesWhatIsDeclared},
}

// EvaluateServing is the verdict on a CSR for a serving certificate.
func EvaluateServing(r ServingRequest) Result {
	e := &evaluation{csr: r.CSR, node: r.NodeName, serving: &r}
	return e.run(servingChecks, Result{
		Verdict: Approve,
		Reason:  ReasonKubeletServing,
		Message: fmt.Sprintf("serving certificate of the kubelet of node %s, for addresses that its NodeBootstrap declares", r.NodeName),
	})
}

// DeniesServing reports whether CSRs for serving certificates are denied for a reason.
func DeniesServing(reason string) bool {
	switch reason {
	case ReasonWrongUsages, ReasonWrongDuration, ReasonTooLarge, ReasonMalformed, ReasonBadSignature, ReasonWrongKey,
		ReasonWrongSubject, ReasonUnexpectedAttributes, ReasonNoAddress:
		return true
	default:
		return false
	}
}

// sentByNode requires exactly the fields that the API server sets for a kubelet that authenticated with its client certificate.
func sentByNode(e *evaluation) *Result {
	spec := e.csr.Spec
	groups := slices.Sorted(slices.Values(spec.Groups))
	extra := len(spec.Extra)
	if _, known := spec.Extra[credentialID]; known {
		extra--
	}
	if spec.SignerName == certificatesv1.KubeletServingSignerName && spec.Username == nodeUserPrefix+e.node &&
		slices.Equal(groups, []string{everyGroup, nodesGroup}) && spec.UID == "" && extra == 0 {
		return nil
	}
	return objection(Leave, ReasonNotOurs, "the request was sent by %.200q in the groups %.200q for the signer %.200q, not by the kubelet of the node %s with its certificate for a serving certificate", spec.Username, groups, spec.SignerName, e.node)
}

func addressesAreDeclared(e *evaluation) *Result {
	if len(e.serving.Declared) == 0 {
		return objection(Leave, ReasonNoAddressesDeclared, "spec.servingCertificate.addresses of the NodeBootstrap %s is empty", e.node)
	}
	return nil
}

func hasServingUsages(e *evaluation) *Result { return hasUsages(e, certificatesv1.UsageServerAuth) }

func hasRequestersSubject(e *evaluation) *Result {
	return hasSubject(e, "the requested subject is %.300q; the requester may only be %q"+stockKubelet, e.parsed.Subject.String(), nodesSubject(e.node).String())
}

func namesAnAddress(e *evaluation) *Result {
	if len(addressesOf(e.parsed)) == 0 {
		return deny(ReasonNoAddress, "the request names neither a DNS name nor an IP that the node serves as"+stockKubelet)
	}
	return nil
}

func asksForAddressesAlone(e *evaluation) *Result {
	if isCanonical(e) {
		return nil
	}
	return deny(ReasonUnexpectedAttributes, "the request has %s; that of a kubelet for a serving certificate has DNS names and IPs and nothing else"+stockKubelet, surplus(e.parsed, false))
}

func namesNothingReserved(e *evaluation) *Result {
	const advice = "no node may serve as it. If it is intended, approve it by hand: kubectl certificate approve "
	reserved := newReservations(e.serving.Reserved)
	for _, a := range addressesOf(e.parsed) {
		if a.reservedEverywhere() {
			return objection(Wait, ReasonAddressReserved, "the request names %.300q, an address of the control plane or of every machine: "+
				"%s%s", a.text, advice, e.csr.Name)
		}
		if by, ok := reserved.holder(a); ok {
			return objection(Wait, ReasonAddressReserved, "the request names %.300q, at which the API server is reached according to %.300s: "+
				"%s%s", a.text, by, advice, e.csr.Name)
		}
	}
	return nil
}

func namesNothingOfOthers(e *evaluation) *Result {
	for _, a := range addressesOf(e.parsed) {
		if other, ok := e.serving.Elsewhere[a.Key()]; ok && other == a.Key() {
			return objection(Wait, ReasonAddressDeclaredElsewhere, "the request names %.300q, which is the name of another NodeBootstrap, and a node's "+
				"name is its own. If no machine is to join as %[2]s, delete that NodeBootstrap. If this machine has the name by mistake, remove it from "+
				"the machine: the kubelet requests the status.addresses of its Node. If both are right, approve by hand: kubectl certificate approve %[3]s",
				a.text, other, e.csr.Name)
		} else if ok {
			return objection(Wait, ReasonAddressDeclaredElsewhere, "the request names %.300q, which the NodeBootstrap %s declares as its own. If it is an "+
				"address of this node, remove it from spec.servingCertificate.addresses of %[2]s, and declare it in %[3]s. If it is not, remove it from this "+
				"machine: the kubelet requests the status.addresses of its Node. If both are right, approve by hand: kubectl certificate approve %[4]s",
				a.text, other, e.node, e.csr.Name)
		}
	}
	return nil
}

func namesWhatIsDeclared(e *evaluation) *Result {
	declared := parseDeclared(e.serving.Declared)
	for _, a := range addressesOf(e.parsed) {
		if !declared.holds(a) {
			return objection(Wait, ReasonAddressNotDeclared, "the request names %.300q, which is not among spec.servingCertificate.addresses "+
				"of the NodeBootstrap %s: add it there if the node may serve as it", a.text, e.node)
		}
	}
	return nil
}
