// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// tokens are the tokens that belong to this NodeBootstrap (by UID), live or not, the newest last.
func (f *Facts) tokens() []token.Token {
	var out []token.Token
	for _, s := range f.TokenSecrets {
		if t, ok := token.Parse(s); ok && owned.By(s, f.NodeBootstrap) && s.DeletionTimestamp == nil {
			out = append(out, t)
		}
	}
	owner := f.NodeBootstrap.UID
	slices.SortFunc(out, func(a, b token.Token) int {
		switch { // ids first: a paused process may have stored the older token later
		case token.Follows(owner, b.ID, a.ID):
			return -1
		case token.Follows(owner, a.ID, b.ID):
			return 1
		default:
			return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
		}
	})
	return out
}

// keep returns the tokens that may live on: the newest live one, and its predecessor, which expires after a renewal. A reissue means that
// older tokens are no longer trusted, so only tokens that were created for it are kept.
func (f *Facts) keep(now time.Time) []token.Token {
	nb := f.NodeBootstrap
	live := f.tokens()
	for i := range live {
		live[i].Expires = live[i].WantExpires(nb, now)
	}
	live = slices.DeleteFunc(live, func(t token.Token) bool { return !t.Live(now) || !f.Trusts(t) || !f.current(t) || t.Spoiled(nb) })
	live = live[max(0, len(live)-2):]
	if len(live) == 2 && live[0].Created.After(live[1].Created) {
		live = live[1:] // stored after its successor by a paused process, and never published
	}
	return live
}

// Trusts reports whether a token may live on as far as reissues are concerned: no reissue is due, or the token was created for it.
func (f *Facts) Trusts(t token.Token) bool { return !f.reissueDue() || t.MadeFor(f.NodeBootstrap) }

// current reports whether the status names a token, or the token was created since that status was stored. The operator has let go of
// every other token, for example when the node joined, and only deletes what is left of it.
func (f *Facts) current(t token.Token) bool {
	s := &f.NodeBootstrap.Status
	return s.LastTokenID == "" || decisions.LiveToken(s, t.ID) != nil || token.Follows(f.NodeBootstrap.UID, t.ID, s.LastTokenID)
}

// lastTokenID is the id that the next token follows: that of the last token, even if it was deleted since. Existing tokens, decisions and
// CSRs may name one that the status does not name yet. An id that any of these name is never used again, because a CSR could then be
// taken for one of the next token.
func (f *Facts) lastTokenID() string {
	last, tokens := f.NodeBootstrap.Status.LastTokenID, f.tokens()
	if last == "" && len(tokens) > 0 {
		last = tokens[len(tokens)-1].ID
	}
	known := slices.Clone(f.FormerTokenIDs)
	for _, t := range tokens {
		known = append(known, t.ID)
	}
	for _, t := range f.NodeBootstrap.Status.Tokens {
		known = append(known, t.ID)
	}
	for _, r := range f.Requests {
		known = append(known, token.IDOfUser(r.Spec.Username))
	}
	for {
		i := slices.IndexFunc(known, func(id string) bool { return token.Follows(f.NodeBootstrap.UID, id, last) })
		if i < 0 {
			return last
		}
		last = known[i]
	}
}
