// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// Reasons of a verdict on a CSR that was sent with a bootstrap token.
const (
	// ReasonKubeletClient is the reason when the CSR is approved.
	ReasonKubeletClient = "KubeletClientOfThisNode"
	// ReasonOlderThanToken is the reason when the CSR is older than the token: it was sent with another token of the same id.
	ReasonOlderThanToken = "OlderThanToken"
	// ReasonTokenExpired is the reason when the token has expired since the CSR was sent.
	ReasonTokenExpired = "TokenExpired"
	// ReasonWrongRequester is the reason when the requester has groups, a uid or extra data that a bootstrap token does not have.
	ReasonWrongRequester = "WrongRequester"
	// ReasonWrongSigner is the reason when the requested signer is not that of kubelet client certificates.
	ReasonWrongSigner = "WrongSigner"
	// ReasonSecondKey is the reason when another key was approved with the same token before this CSR was sent, and a machine works with
	// it: two machines have the token.
	ReasonSecondKey = "SecondKey"
	// ReasonKeyReplaced is the reason when another key was approved with the same token before this CSR was sent, and that key is unused:
	// usually the kubelet restarted before it received its certificate, and has another key now.
	ReasonKeyReplaced = "KeyReplaced"
	// ReasonKeyOfAnotherNode is the reason when the key is claimed for another node: each key belongs to one node. Machines that were
	// cloned from one disk send the same key.
	ReasonKeyOfAnotherNode = "KeyOfAnotherNode"
	// ReasonKeyNotPinned is the reason when the node's key is pinned and the CSR has another one.
	ReasonKeyNotPinned = "KeyNotPinned"
	// ReasonSuperseded is the reason when another key was approved with the same token while this CSR was pending: a kubelet that
	// restarts, or gives up waiting, sends another key.
	ReasonSuperseded = "Superseded"
)

// Request is a CSR that may have been sent with a bootstrap token, with the facts about the token.
type Request struct {
	// CSR is the object as it was read.
	CSR *certificatesv1.CertificateSigningRequest
	// NodeName is the node that the token is for.
	NodeName string
	// TokenID is the id of the token.
	TokenID string
	// TokenCreated and TokenExpires are when the token was created and when it expires.
	TokenCreated, TokenExpires time.Time
	// TokenGroup is the group that the token's user must be in, in addition to those of every bootstrap token.
	TokenGroup string
	// MayHave are further groups that are allowed.
	MayHave []string
	// ClaimedKeys are the fingerprints of the keys that were approved with the token before, the first one first, and ClaimedAt is when
	// the last one was approved; empty for none.
	ClaimedKeys []string
	ClaimedAt   time.Time
	// ClaimUsed reports whether a machine works with one of these keys.
	ClaimUsed bool
	// Replacements is how many keys may be approved after the first one while none is used.
	Replacements int
	// PinnedKey is the fingerprint of the only key that may be approved; empty for any. ClaimedKeys do not count with it.
	PinnedKey string
	// OtherNode is another node that the CSR's key is claimed for; empty for none.
	OtherNode string
	// Now is the time of the verdict.
	Now time.Time
}

// clockTolerance is the maximum difference between the clocks of several API servers.
const clockTolerance = 10 * time.Second

// clientChecks are all the rules, in this order: who sent the CSR, then evidence of theft, so that no lesser defect hides it, then the
// rest.
var clientChecks = []check{
	{"sentWithToken", sentWithToken},
	{"sentAfterTokenWasMade", sentAfterTokenWasMade},
	{"sentWithLiveToken", sentWithLiveToken},
	{"hasNoOtherIdentity", hasNoOtherIdentity},
	{"asksKubeletClientSigner", asksKubeletClientSigner},
	{"isOfModestSize", isOfModestSize},
	{"isOnePEMBlock", isOnePEMBlock},
	{"hasTokensSubject", hasTokensSubject},
	{"hasPinnedKey", hasPinnedKey},
	{"hasPlainMetadata", hasPlainMetadata},
	{"isSigned", isSigned},
	{"hasSoundKey", hasSoundKey},
	{"livesAYearAtMost", livesAYearAtMost},
	{"hasClientUsages", hasClientUsages},
	{"asksForNothingElse", asksForNothingElse},
	{"hasClaimedKey", hasClaimedKey},
	{"hasKeyOfNoOtherNode", hasKeyOfNoOtherNode},
}

// Evaluate is the verdict on a CSR that may have been sent with a bootstrap token.
func Evaluate(r Request) Result {
	e := &evaluation{csr: r.CSR, node: r.NodeName, client: &r}
	return e.run(clientChecks, Result{
		Verdict: Approve,
		Reason:  ReasonKubeletClient,
		Message: fmt.Sprintf("client certificate of the kubelet of node %s, requested with its own bootstrap token %s", r.NodeName, r.TokenID),
	})
}

// DeniesClient reports whether CSRs that were sent with a token are denied for a reason.
func DeniesClient(reason string) bool {
	switch reason {
	case ReasonWrongRequester, ReasonWrongSigner, ReasonKeyNotPinned, ReasonSecondKey, ReasonKeyReplaced, ReasonKeyOfAnotherNode, ReasonSuperseded, ReasonWrongUsages, ReasonWrongDuration,
		ReasonTooLarge, ReasonMalformed, ReasonBadSignature, ReasonWrongKey, ReasonWrongSubject, ReasonUnexpectedAttributes:
		return true
	default:
		return false
	}
}

func sentWithToken(e *evaluation) *Result {
	if e.csr.Spec.Username != bootstrapapi.BootstrapUserPrefix+e.client.TokenID {
		return objection(Leave, ReasonNotOurs, "the request was sent by %.300q, not with the token %s", e.csr.Spec.Username, e.client.TokenID)
	}
	return nil
}

func sentAfterTokenWasMade(e *evaluation) *Result {
	if e.csr.CreationTimestamp.Add(clockTolerance).Before(e.client.TokenCreated) {
		return objection(Leave, ReasonOlderThanToken, "the request was sent at %s, before the token %s was created at %s", stamp(e.csr.CreationTimestamp.Time), e.client.TokenID, stamp(e.client.TokenCreated))
	}
	return nil
}

func sentWithLiveToken(e *evaluation) *Result {
	if !e.client.Now.Before(e.client.TokenExpires) {
		return objection(Leave, ReasonTokenExpired, "the token %s expired at %s", e.client.TokenID, stamp(e.client.TokenExpires))
	}
	return nil
}

// stamp is a time in a message.
func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// hasNoOtherIdentity compares with the identity that the API server's token authenticator gives every bootstrap token
// (plugin/pkg/auth/authenticator/token/bootstrap): no uid, no extra, and these groups.
func hasNoOtherIdentity(e *evaluation) *Result {
	must := []string{bootstrapapi.BootstrapDefaultGroup, everyGroup, e.client.TokenGroup}
	for _, group := range must {
		if !slices.Contains(e.csr.Spec.Groups, group) {
			return deny(ReasonWrongRequester, "the requester is not in the group %s: the groups of its token were different when the request was sent. "+
				"The operator has restored them: restart the kubelet, which sends another request", group)
		}
	}
	for _, group := range e.csr.Spec.Groups {
		if !slices.Contains(must, group) && !slices.Contains(e.client.MayHave, group) {
			return deny(ReasonWrongRequester, "the requester is in the group %q, which no token of this operator is in. See who edited the token's Secret. "+
				"The operator has restored it: restart the kubelet, which sends another request", group)
		}
	}
	if e.csr.Spec.UID != "" || len(e.csr.Spec.Extra) > 0 {
		return deny(ReasonWrongRequester, "the requester has a uid or extra data, which a bootstrap token does not have: see who sends requests in its name")
	}
	return nil
}

func asksKubeletClientSigner(e *evaluation) *Result {
	if want := certificatesv1.KubeAPIServerClientKubeletSignerName; e.csr.Spec.SignerName != want {
		return deny(ReasonWrongSigner, "the requested signer is %q; with a bootstrap token it may only be %s. "+
			"No kubelet requests that with such a token, so someone else has the kubeconfig: request a reissue", e.csr.Spec.SignerName, want)
	}
	return nil
}

func hasClientUsages(e *evaluation) *Result { return hasUsages(e, certificatesv1.UsageClientAuth) }

func hasTokensSubject(e *evaluation) *Result {
	return hasSubject(e, "the requested subject is %.300q; the token is only for %q. If this is another machine, give it "+
		"the kubeconfig of a NodeBootstrap of its own; if it is the right one, start its kubelet with --hostname-override=%[3]s. "+
		"In either case request a reissue, since the token is no longer safe: %[4]s",
		e.parsed.Subject.String(), nodesSubject(e.node).String(), e.node, ReissueCommand(e.node))
}

// hasPinnedKey comes before all lesser defects: whoever asks in the node's name with another key may be a thief.
func hasPinnedKey(e *evaluation) *Result {
	pinned := e.client.PinnedKey
	if pinned == "" || fingerprint(e.parsed) == pinned {
		return nil
	}
	return deny(ReasonKeyNotPinned, "the key is %s, and spec.clientCertificate.keyFingerprint pins %s. If this is the machine's own request, its key "+
		"is not the pinned one: a kubelet that bootstraps by itself makes another one, so get the certificate first (docs/pinned-keys.md). If not, "+
		"someone else has the kubeconfig, which is of no use without the pinned key; for a new token request a reissue: %s",
		fingerprint(e.parsed), pinned, ReissueCommand(e.node))
}

func asksForNothingElse(e *evaluation) *Result {
	if len(e.parsed.DNSNames) == 0 && len(e.parsed.IPAddresses) == 0 && isCanonical(e) {
		return nil
	}
	return deny(ReasonUnexpectedAttributes, "the request has %s; that of a kubelet for a client certificate has no names, extensions, attributes or hidden data"+stockKubelet, surplus(e.parsed, true))
}

// hasClaimedKey binds a token to one key, plus the allowed replacements. A kubelet with rotateCertificates keeps its key in memory until
// it has the certificate, so after a restart it sends another key. That is no evidence of a second machine until the earlier key is used.
func hasClaimedKey(e *evaluation) *Result {
	claimed := e.client.ClaimedKeys
	switch {
	case e.client.PinnedKey != "" || len(claimed) == 0 || slices.Contains(claimed, fingerprint(e.parsed)):
		return nil
	case e.csr.CreationTimestamp.Time.Before(e.client.ClaimedAt):
		return deny(ReasonSuperseded, "while this request was pending, another one with another key (%s) was approved; the key of this one is %s", claimed[len(claimed)-1], fingerprint(e.parsed))
	case e.client.ClaimUsed:
		return deny(ReasonSecondKey, "another key (%s) was approved with this token before, and a machine works with it as the node: two machines "+
			"have the kubeconfig. Compare the keys (docs/security.md), then request a reissue: %s", strings.Join(claimed, ", "), ReissueCommand(e.node))
	case len(claimed) <= e.client.Replacements:
		return nil
	default:
		return deny(ReasonKeyReplaced, "the kubelet restarted before it received its certificate, or another machine has the kubeconfig: another key "+
			"was approved with this token. See the kubelet's log for why it restarted, then request a reissue: %s. The approved key: %s",
			ReissueCommand(e.node), strings.Join(claimed, ", "))
	}
}

// hasKeyOfNoOtherNode comes after hasClaimedKey: a second key for one token can be evidence of theft, even if another node has that key.
func hasKeyOfNoOtherNode(e *evaluation) *Result {
	other := e.client.OtherNode
	if other == "" {
		return nil
	}
	return deny(ReasonKeyOfAnotherNode, "the key %s was approved for the node %s, and this request is for the node %s: each node needs a key "+
		"of its own. If this machine was cloned from the other one, stop its kubelet, delete its files in /var/lib/kubelet/pki and start it again. "+
		"If the node was renamed, delete the other NodeBootstrap and this request, and start the kubelet again", fingerprint(e.parsed), other, e.node)
}

// ReissueCommand is the command that requests a reissue for a node.
func ReissueCommand(node string) string {
	return "kubectl annotate nodebootstrap " + node + " --overwrite nodebootstrap.io/reissue-requested-at=\"$(date -u +%FT%TZ)\""
}
