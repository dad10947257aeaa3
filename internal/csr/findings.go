// SPDX-License-Identifier: Apache-2.0

package csr

// State is what is known about one check of a CSR.
type State string

const (
	// Passed means: the CSR has what the check requires.
	Passed State = "Passed"
	// Failed means: the check decided the verdict.
	Failed State = "Failed"
	// NotReached means: an earlier check decided the verdict.
	NotReached State = "NotReached"
)

// Finding is what one check found in a CSR.
type Finding struct {
	// Check is the name of the check in docs/verdicts.md.
	Check string `json:"check"`
	// Requires is a sentence about what the check requires.
	Requires string `json:"requires"`
	State    State  `json:"state"`
	// Reason and Message are those of the verdict if the check failed.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ClientFindings are the findings of all checks, in their order, behind a result of [Evaluate].
func ClientFindings(r Result) []Finding { return findings(clientChecks, r) }

// ServingFindings are the findings of all checks, in their order, behind a result of [EvaluateServing].
func ServingFindings(r Result) []Finding { return findings(servingChecks, r) }

func findings(checks []check, r Result) []Finding {
	var out []Finding
	state := Passed
	for _, c := range checks {
		f := Finding{Check: c.name, Requires: requirements[c.name], State: state}
		if c.name == r.Check {
			f.State, f.Reason, f.Message = Failed, r.Reason, r.Message
			state = NotReached
		}
		out = append(out, f)
	}
	return out
}

// CheckOf is the name of the only check that gives a reason which depends on more than the CSR; empty for other reasons.
func CheckOf(reason string) string {
	switch reason {
	case ReasonOlderThanToken:
		return "sentAfterTokenWasMade"
	case ReasonTokenExpired:
		return "sentWithLiveToken"
	case ReasonWrongRequester:
		return "hasNoOtherIdentity"
	case ReasonKeyNotPinned:
		return "hasPinnedKey"
	case ReasonSuperseded, ReasonSecondKey, ReasonKeyReplaced:
		return "hasClaimedKey"
	case ReasonKeyOfAnotherNode:
		return "hasKeyOfNoOtherNode"
	case ReasonAddressReserved:
		return "namesNothingReserved"
	case ReasonAddressDeclaredElsewhere:
		return "namesNothingOfOthers"
	case ReasonAddressNotDeclared:
		return "namesWhatIsDeclared"
	case ReasonNoAddressesDeclared:
		return "addressesAreDeclared"
	default:
		return ""
	}
}

// requirements are sentences about what each check requires of a CSR.
var requirements = map[string]string{
	"sentWithToken":           "It was sent with the node's bootstrap token.",
	"sentAfterTokenWasMade":   "It is not older than the token.",
	"sentWithLiveToken":       "The token has not expired.",
	"hasNoOtherIdentity":      "The requester has the groups of the operator's tokens, and no UID or extra data.",
	"asksKubeletClientSigner": "It asks the signer of kubelets' client certificates.",
	"isOfModestSize":          "The certificate request has at most 8192 bytes.",
	"isOnePEMBlock":           "It is exactly one PEM block with a certificate request.",
	"hasTokensSubject":        "The subject is that of the token's node.",
	"hasPinnedKey":            "The key is the pinned one, if one is pinned.",
	"hasPlainMetadata":        "It has no finalizers and no owner references.",
	"isSigned":                "It is signed with its own key, with SHA-256, SHA-384 or SHA-512.",
	"hasSoundKey":             "The key is RSA of 2048 to 8192 bits, or ECDSA on P-256, P-384 or P-521.",
	"livesAYearAtMost":        "It requests at most 366 days.",
	"hasClientUsages":         "The usages are those of a kubelet's client certificate for this kind of key.",
	"asksForNothingElse":      "It requests no names, extensions or attributes.",
	"hasClaimedKey":           "No other key was approved with the token, or this one may replace it.",
	"hasKeyOfNoOtherNode":     "The key is not another node's.",
	"sentByNode":              "The kubelet of the node sent it, with its certificate.",
	"addressesAreDeclared":    "The NodeBootstrap declares addresses.",
	"hasServingUsages":        "The usages are those of a kubelet's serving certificate for this kind of key.",
	"hasRequestersSubject":    "The subject is that of the requester.",
	"namesAnAddress":          "It names a DNS name or an IP.",
	"asksForAddressesAlone":   "It requests nothing else than DNS names and IPs.",
	"namesNothingReserved":    "No name or IP is one at which the API server is reached, or of every machine.",
	"namesNothingOfOthers":    "No name or IP is another node's.",
	"namesWhatIsDeclared":     "The NodeBootstrap declares each name and IP.",
}
