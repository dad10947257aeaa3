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

// tokens are the tokens of this very NodeBootstrap, live or not, the newest last.
func (f *Facts) tokens() []token.Token {
	var out []token.Token
	for _, s := range f.TokenSecrets {
		if t, ok := token.Parse(s); ok && owned.By(s, f.NodeBootstrap) && s.DeletionTimestamp == nil {
			out = append(out, t)
		}
	}
	owner := f.NodeBootstrap.UID
	slices.SortFunc(out, func(a, b token.Token) int {
		switch { // by the ids first: a process that was paused may store the older token later
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

// keep is the tokens that may live on: the newest live one, and its predecessor, which renewal leaves to expire. A reissue
// is asked for when older tokens are not trusted any more: then only those count that were made for it.
func (f *Facts) keep(now time.Time) []token.Token {
	nb := f.NodeBootstrap
	live := f.tokens()
	for i := range live {
		live[i].Expires = live[i].WantExpires(nb, now)
	}
	live = slices.DeleteFunc(live, func(t token.Token) bool { return !t.Live(now) || !f.Trusts(t) || !f.current(t) || t.Spoiled(nb) })
	live = live[max(0, len(live)-2):]
	if len(live) == 2 && live[0].Created.After(live[1].Created) {
		live = live[1:] // stored after its successor, by a process that was paused: nobody was given it
	}
	return live
}

// Trusts reports whether a token of this node may live on as far as a reissue is concerned: it may unless one is due that it was
// not made for.
func (f *Facts) Trusts(t token.Token) bool { return !f.reissueDue() || t.MadeFor(f.NodeBootstrap) }

// current reports whether a token is one that the status names, or was created since that was stored. The operator has let go of every
// other one, for example when the node joined: what is left of it is only deleted.
func (f *Facts) current(t token.Token) bool {
	s := &f.NodeBootstrap.Status
	return s.LastTokenID == "" || decisions.LiveToken(s, t.ID) != nil || token.Follows(f.NodeBootstrap.UID, t.ID, s.LastTokenID)
}

// LastTokenID is the id that the next token follows: that of the last one there was, be it deleted since. Tokens that are
// there, decisions and requests tell of one that the status does not name yet. An id that any of these name is never given
// again: a request would be taken for the next token's.
func (f *Facts) LastTokenID() string {
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
