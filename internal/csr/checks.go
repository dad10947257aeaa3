// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

const (
	nodeUserPrefix = "system:node:"
	// MaxRequestBytes is several times the size of a kubelet's request with an RSA key of 8192 bits.
	MaxRequestBytes = 8 << 10
	// maxMessageBytes is as long as the message of an event may be (pkg/apis/core/validation).
	maxMessageBytes = 1024
	// maxDurationSeconds is a year: kube-controller-manager's own default for --cluster-signing-duration.
	maxDurationSeconds = 366 * 24 * 60 * 60
)

// A check returns nil when it has nothing against the request.
type check func(*evaluation) *Result

// checks are all the rules, in this order: whose request it is, then what the API server tells of it, then what is in it.
// A check may rely on those before it.
var checks = []check{
	sentWithToken,
	hasNoOtherIdentity,
	asksKubeletClientSigner,
	livesAYearAtMost,
	isOfModestSize,
	isOnePEMBlock,
	isSigned,
	hasSoundKey,
	hasKubeletUsages,
	hasNodesSubject,
	asksForNothingElse,
	hasClaimedKey,
}

// deny bounds the message: it quotes what a stranger sent.
func deny(reason, format string, args ...any) *Result {
	message := fmt.Sprintf(format, args...)
	if len(message) > maxMessageBytes {
		message = strings.ToValidUTF8(message[:maxMessageBytes-len("...")], "") + "..."
	}
	return &Result{Verdict: Deny, Reason: reason, Message: message}
}

func sentWithToken(e *evaluation) *Result {
	if e.CSR.Spec.Username != bootstrapapi.BootstrapUserPrefix+e.TokenID {
		return &Result{Verdict: Leave, Reason: ReasonNotOurs, Message: "the request was not sent with the token " + e.TokenID}
	}
	return nil
}

// hasNoOtherIdentity compares with what the API server's token authenticator gives every bootstrap token
// (plugin/pkg/auth/authenticator/token/bootstrap): no uid, no extra, and these groups.
func hasNoOtherIdentity(e *evaluation) *Result {
	must := []string{bootstrapapi.BootstrapDefaultGroup, "system:authenticated", e.TokenGroup}
	for _, group := range must {
		if !slices.Contains(e.CSR.Spec.Groups, group) {
			return deny(ReasonWrongRequester, "the requester is not in the group %s: the groups of its token were changed when it asked", group)
		}
	}
	for _, group := range e.CSR.Spec.Groups {
		if !slices.Contains(must, group) && !slices.Contains(e.MayHave, group) {
			return deny(ReasonWrongRequester, "the requester is in the group %q, which a token of this operator is not in", group)
		}
	}
	if e.CSR.Spec.UID != "" || len(e.CSR.Spec.Extra) > 0 {
		return deny(ReasonWrongRequester, "the requester has a uid or extra data, which a bootstrap token has not")
	}
	return nil
}

func asksKubeletClientSigner(e *evaluation) *Result {
	if want := certificatesv1.KubeAPIServerClientKubeletSignerName; e.CSR.Spec.SignerName != want {
		return deny(ReasonWrongSigner, "the signer asked is %q; with a bootstrap token it may only be %s", e.CSR.Spec.SignerName, want)
	}
	return nil
}

func livesAYearAtMost(e *evaluation) *Result {
	if s := e.CSR.Spec.ExpirationSeconds; s != nil && *s > maxDurationSeconds {
		return deny(ReasonWrongDuration, "a certificate for %d seconds was asked for; %d are the most", *s, maxDurationSeconds)
	}
	return nil
}

func isOfModestSize(e *evaluation) *Result {
	if n := len(e.CSR.Spec.Request); n > MaxRequestBytes {
		return deny(ReasonTooLarge, "the request has more than %d bytes", MaxRequestBytes)
	}
	return nil
}

// isOnePEMBlock also rules out PEM headers and text around the block, by encoding the block again.
func isOnePEMBlock(e *evaluation) *Result {
	block, _ := pem.Decode(e.CSR.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 ||
		!bytes.Equal(pem.EncodeToMemory(block), e.CSR.Spec.Request) {
		return deny(ReasonMalformed, "the request is not exactly one PEM block of type CERTIFICATE REQUEST without headers")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return deny(ReasonMalformed, "the certificate request cannot be parsed: %v", err)
	}
	e.parsed = parsed
	return nil
}

// isSigned does not leave the choice of the algorithm to crypto/x509, which accepts SHA-1 on requests.
func isSigned(e *evaluation) *Result {
	if _, sound := signatureAlgorithms[e.parsed.SignatureAlgorithm]; !sound {
		return deny(ReasonBadSignature, "the request is signed with %s; SHA-256, SHA-384 or SHA-512 is expected, with RSA or ECDSA", e.parsed.SignatureAlgorithm)
	}
	if err := e.parsed.CheckSignature(); err != nil {
		return deny(ReasonBadSignature, "the request is not signed with its own key: %v", err)
	}
	return nil
}

func hasSoundKey(e *evaluation) *Result {
	switch key := e.parsed.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= 2048 && bits <= 8192 {
			return nil
		}
	case *ecdsa.PublicKey:
		if bits := key.Curve.Params().BitSize; bits >= 256 {
			return nil
		}
	}
	return deny(ReasonWrongKey, "the key is neither RSA of 2048 to 8192 bits nor ECDSA on P-256, P-384 or P-521")
}

// hasKubeletUsages: a kubelet asks for key encipherment with an RSA key, and only then
// (client-go util/certificate, DefaultKubeletClientGetUsages).
func hasKubeletUsages(e *evaluation) *Result {
	want := []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}
	if _, ok := e.parsed.PublicKey.(*rsa.PublicKey); ok {
		want = append(want, certificatesv1.UsageKeyEncipherment)
	}
	if have := slices.Sorted(slices.Values(e.CSR.Spec.Usages)); !slices.Equal(have, want) {
		return deny(ReasonWrongUsages, "the usages asked for are %q; a kubelet's client certificate with this kind of key has %q", have, want)
	}
	return nil
}

// hasNodesSubject compares the encoded subject, since the parsed one hides second values, unknown attributes and the
// kinds of strings.
func hasNodesSubject(e *evaluation) *Result {
	subject := pkix.Name{Organization: []string{"system:nodes"}, CommonName: nodeUserPrefix + e.NodeName}
	want, err := asn1.Marshal(subject.ToRDNSequence())
	if err == nil && bytes.Equal(e.parsed.RawSubject, want) {
		return nil
	}
	return deny(ReasonWrongSubject, "the subject asked for is %.300q; the token is for %q alone. If this is another machine, give it "+
		"the kubeconfig of a NodeBootstrap of its own; if nobody gave this token away, ask for a reissue of %s",
		e.parsed.Subject.String(), subject.String(), e.NodeName)
}

// asksForNothingElse encodes the request anew from the parts that were checked, and compares: extensions, attributes and
// whatever a parser passes over would differ. Only the signature's bits are taken as they are.
func asksForNothingElse(e *evaluation) *Result {
	want, err := canonical(e.parsed)
	if err != nil || !bytes.Equal(want, e.parsed.Raw) {
		return deny(ReasonUnexpectedAttributes, "the request asks for names, extensions or attributes, or hides something; a kubelet's client certificate has none of it")
	}
	return nil
}

func hasClaimedKey(e *evaluation) *Result {
	if e.ClaimedKey != "" && e.ClaimedKey != e.fingerprint() {
		return deny(ReasonSecondKey, "another key (%s) was approved with this token before; a kubelet that lost its key needs a reissue: %s",
			strings.TrimPrefix(e.ClaimedKey, "SHA256:"), "kubectl annotate nodebootstrap "+e.NodeName+" --overwrite nodebootstrap.io/reissue-requested-at=\"$(date -u +%FT%TZ)\"")
	}
	return nil
}
