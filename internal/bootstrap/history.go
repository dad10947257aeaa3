// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// maxDecisions bounds status.certificates: all decisions on one token, and room for what came before.
const maxDecisions = 16

// reasonApprovedElsewhere and reasonDeniedElsewhere surface in status.certificates when someone else decided on the
// request: a person, or kube-controller-manager with approval ClusterWide.
const (
	reasonApprovedElsewhere = "ApprovedElsewhere"
	reasonDeniedElsewhere   = "DeniedElsewhere"
)

// MisuseReasons are those of decisions that are evidence that a token is in wrong hands.
var MisuseReasons = []string{csr.ReasonWrongSubject, csr.ReasonWrongSigner, csr.ReasonSecondKey, ReasonTooManyRequests}

// Misuse reports whether a reason of a decision on a token's request is such evidence.
func Misuse(reason string) bool { return slices.Contains(MisuseReasons, reason) }

// Evidence reports whether a decision is such evidence.
func Evidence(d v1alpha1.CertificateDecision) bool { return d.TokenID != "" && Misuse(d.Reason) }

// ofThisNode reports whether a decision is on a client certificate in the node's name.
func ofThisNode(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && !Misuse(d.Reason)
}

// NewDecisions are those that one status tells of and an older one does not.
func NewDecisions(old, new *v1alpha1.NodeBootstrapStatus) []v1alpha1.CertificateDecision {
	return slices.DeleteFunc(slices.Clone(new.Certificates), func(d v1alpha1.CertificateDecision) bool { return decisionOn(old.Certificates, d) >= 0 })
}

// decisionOn is the index of the decision on the same request, or -1.
func decisionOn(history []v1alpha1.CertificateDecision, d v1alpha1.CertificateDecision) int {
	return slices.IndexFunc(history, func(o v1alpha1.CertificateDecision) bool { return o.UID == d.UID })
}

// maxServing is how many entries may be for serving certificates. The others are for tokens, so that neither kind pushes
// out the other.
const maxServing = maxDecisions / 4

func ofServing(d v1alpha1.CertificateDecision) bool {
	return d.SignerName == certificatesv1.KubeletServingSignerName && d.TokenID == ""
}

func ofToken(d v1alpha1.CertificateDecision) bool { return !ofServing(d) }

// appendDecisions adds to a history, of which entries go when it grows too long.
func appendDecisions(history []v1alpha1.CertificateDecision, more ...v1alpha1.CertificateDecision) []v1alpha1.CertificateDecision {
	out := append(slices.Clone(history), more...)
	out = bounded(out, ofServing, maxServing, oldestServing)
	return bounded(out, ofToken, maxDecisions-maxServing, expendable)
}

// bounded leaves no more than so many entries of a kind.
func bounded(history []v1alpha1.CertificateDecision, kind func(v1alpha1.CertificateDecision) bool, most int,
	expendable func([]v1alpha1.CertificateDecision) int) []v1alpha1.CertificateDecision {
	of := slices.DeleteFunc(slices.Clone(history), func(d v1alpha1.CertificateDecision) bool { return !kind(d) })
	gone := map[types.UID]bool{}
	for len(of) > most {
		i := expendable(of)
		gone[of[i].UID] = true
		of = slices.Delete(of, i, i+1)
	}
	return slices.DeleteFunc(history, func(d v1alpha1.CertificateDecision) bool { return kind(d) && gone[d.UID] })
}

// expendable is the entry of one kind that is missed least, and never the newest: the oldest denial of a token that is not
// the newest one's, the oldest approval of what was approved again with the same token or with two others since, the oldest
// denial; else the oldest. So no flood of requests pushes out the claim on the key of a live token, of which there are two,
// nor the record of who got the present certificate.
func expendable(history []v1alpha1.CertificateDecision) int {
	older, newest := history[:len(history)-1], history[len(history)-1].TokenID
	// An entry of a certificate that was not revoked is the state of a condition.
	denied := func(_ int, d v1alpha1.CertificateDecision) bool { return d.Verdict != v1alpha1.VerdictApproved }
	reported := func(d v1alpha1.CertificateDecision) bool { return d.ExpirationTime != nil }
	for _, goes := range []func(int, v1alpha1.CertificateDecision) bool{
		func(i int, d v1alpha1.CertificateDecision) bool { return denied(i, d) && d.TokenID != newest },
		func(i int, d v1alpha1.CertificateDecision) bool {
			return !denied(i, d) && approvedAgain(d, history[i+1:])
		},
		denied,
		func(int, v1alpha1.CertificateDecision) bool { return true },
	} {
		for i, d := range older {
			if goes(i, d) && !reported(d) {
				return i
			}
		}
	}
	return 0
}

// oldestServing is the oldest entry except for the last approval. What recordServing adds in one go is never among those that
// go, or it would be added again and again.
func oldestServing(history []v1alpha1.CertificateDecision) int {
	for i, d := range history {
		later := history[i+1:]
		if d.Verdict != v1alpha1.VerdictApproved || slices.ContainsFunc(later, func(o v1alpha1.CertificateDecision) bool { return o.Verdict == v1alpha1.VerdictApproved }) {
			return i
		}
	}
	return 0
}

// approvedAgain reports whether what an entry tells of was approved later with the same token, or with two others.
func approvedAgain(d v1alpha1.CertificateDecision, later []v1alpha1.CertificateDecision) bool {
	with := sets.New[string]()
	for _, o := range later {
		if o.Verdict == v1alpha1.VerdictApproved && o.SignerName == d.SignerName && Evidence(o) == Evidence(d) {
			with.Insert(o.TokenID)
		}
	}
	return with.Has(d.TokenID) || with.Len() > 1
}

// joinSoon is how long a node takes from its certificate to its first Lease, usually: until then the record that it was
// issued waits, since the write that tells of the join tells of it too.
const joinSoon = 15 * time.Second

// recordWaits reports whether the record that a request which the operator approved has its certificate may wait for the node to
// join, at a time, and until when.
func (f *Facts) recordWaits(r *certificatesv1.CertificateSigningRequest, now time.Time) (time.Time, bool) {
	at, approved := approvedAt(r)
	until := at.Add(joinSoon)
	return until, approved && issued(r) && now.Before(until) && slices.ContainsFunc(f.NodeBootstrap.Status.Certificates, func(d v1alpha1.CertificateDecision) bool {
		return d.UID == r.UID && d.Verdict == v1alpha1.VerdictApproved && d.IssuedTime == nil
	})
}

// recordIssued notes which of the node's requests have their certificate, whoever approved them. It goes by time, and not by
// the order in which a cache lists requests: those older than a full history stay out of it.
func recordIssued(history []v1alpha1.CertificateDecision, requests []*certificatesv1.CertificateSigningRequest) []v1alpha1.CertificateDecision {
	for _, r := range slices.SortedFunc(slices.Values(requests), byCreation) {
		at, approved := approvedAt(r)
		if !approved || !issued(r) {
			continue
		}
		i := slices.IndexFunc(history, func(d v1alpha1.CertificateDecision) bool { return d.UID == r.UID })
		switch {
		case i < 0 && olderThanAll(history, at):
		case i < 0:
			d := entry(r, v1alpha1.VerdictApproved, approvalReason(r), at)
			d.IssuedTime = &at
			history = appendDecisions(history, d)
		case history[i].IssuedTime == nil:
			history = slices.Clone(history)
			history[i].IssuedTime = &at
		}
	}
	return history
}

// olderThanAll reports whether a history is full of what came later.
func olderThanAll(history []v1alpha1.CertificateDecision, at metav1.Time) bool {
	i := slices.IndexFunc(history, ofToken)
	return i >= 0 && !at.After(history[i].Time.Time) && len(slices.DeleteFunc(slices.Clone(history), ofServing)) == maxDecisions-maxServing
}

// recordOvertaken corrects the entries on requests that were to be denied, or left alone, and that someone else approved
// before: a certificate is out, and the record must not say otherwise. Of evidence, and of a second key, the reason stays.
func recordOvertaken(history []v1alpha1.CertificateDecision, requests []*certificatesv1.CertificateSigningRequest) []v1alpha1.CertificateDecision {
	out := slices.Clone(history)
	for i, d := range out {
		overtaken := d.Verdict != v1alpha1.VerdictApproved && slices.ContainsFunc(requests, func(r *certificatesv1.CertificateSigningRequest) bool {
			_, approved := approvedAt(r)
			return approved && r.UID == d.UID
		})
		if !overtaken {
			continue
		}
		out[i].Verdict = v1alpha1.VerdictApproved
		if !Evidence(d) && d.Reason != csr.ReasonKeyReplaced {
			out[i].Reason = reasonApprovedElsewhere
		}
	}
	return out
}

// entry is what is recorded of a request that was decided on.
func entry(r *certificatesv1.CertificateSigningRequest, verdict v1alpha1.Verdict, reason string, at metav1.Time) v1alpha1.CertificateDecision {
	key, _ := csr.Fingerprint(r)
	return v1alpha1.CertificateDecision{
		Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: TokenIDOfUser(r.Spec.Username),
		KeyFingerprint: key, Verdict: verdict, Reason: reason, Time: at,
	}
}
