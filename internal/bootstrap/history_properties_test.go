// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Whatever comes, and one at a time or many at once, these stay in a history: the newest entry, and of each signer the last
// approval, right or wrong.
func TestHistoryKeepsWhatMatters(t *testing.T) {
	const letters = "aadddddixxsmoADDDI"
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		var have, all []v1alpha1.CertificateDecision
		var text strings.Builder
		for len(all) < 60 {
			var more []v1alpha1.CertificateDecision
			for range 1 + random.IntN(1+int(seed%12)) {
				letter := rune(letters[random.IntN(len(letters))])
				text.WriteRune(letter)
				more = append(more, decision(letter, fmt.Sprint(len(all)+len(more))))
			}
			have, all = appendDecisions(have, more...), append(all, more...)

			kinds := map[bool]int{}
			for _, d := range all {
				kinds[ofServing(d)]++
			}
			if want := min(kinds[true], maxServing) + min(kinds[false], maxDecisions-maxServing); len(have) != want {
				t.Fatalf("seed %d: after %s there are %d entries, want %d", seed, &text, len(have), want)
			}
			if have[len(have)-1].UID != all[len(all)-1].UID {
				t.Fatalf("seed %d: after %s the newest entry is lost: %v", seed, &text, names(have))
			}
			if !slices.IsSortedFunc(have, func(a, b v1alpha1.CertificateDecision) int { return decisionOn(all, a) - decisionOn(all, b) }) {
				t.Fatalf("seed %d: after %s the order is %v", seed, &text, names(have))
			}
			last := map[string]v1alpha1.CertificateDecision{}
			for _, d := range all {
				if d.Verdict == v1alpha1.VerdictApproved {
					last[fmt.Sprint(d.SignerName, Misuse(d.Reason))] = d
				}
			}
			for _, d := range last {
				if decisionOn(have, d) < 0 {
					t.Fatalf("seed %d: after %s the last approval %s of its kind is lost: %v", seed, &text, d.Name, names(have))
				}
			}
		}
	}
}

// While tokens follow each other, the only approval with the newest one stays too: it is the claim on its key.
func TestHistoryKeepsTheClaimOfTheNewestToken(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		var have []v1alpha1.CertificateDecision
		var claim v1alpha1.CertificateDecision
		token := 0
		for i := range 80 {
			name := fmt.Sprint(i)
			d := deniedDecision(name, max(1, token-random.IntN(2)), time.Hour)
			switch n := random.IntN(12); {
			case n == 0 || token == 0: // the token is renewed, and the node asks with the new one
				token++
				d = approvedDecision(name, token, time.Hour)
				claim = d
			case n < 4:
				d = decision(rune("xsmo"[n]), name)
			}
			have = appendDecisions(have, d)
			if decisionOn(have, claim) < 0 {
				t.Fatalf("seed %d: the claim %s is lost: %v", seed, claim.Name, names(have))
			}
		}
	}
}
