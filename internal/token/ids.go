// SPDX-License-Identifier: Apache-2.0

package token

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// Namespace is where the API server looks for bootstrap tokens.
const Namespace = metav1.NamespaceSystem

// SecretName is the name of the Secret of the token with an id.
func SecretName(id string) string { return bootstraputil.BootstrapTokenSecretName(id) }

// IDOfUser is the id of the bootstrap token that authenticates as a user; empty if the user is not a bootstrap token.
func IDOfUser(username string) string {
	return idAfter(bootstrapapi.BootstrapUserPrefix, username)
}

// IDOfSecret is the id of the bootstrap token that a Secret with this name can hold; empty if it cannot hold one.
func IDOfSecret(name string) string {
	return idAfter(bootstrapapi.BootstrapTokenSecretPrefix, name)
}

func idAfter(prefix, text string) string {
	id, ok := strings.CutPrefix(text, prefix)
	if !ok || !bootstraputil.IsValidBootstrapTokenID(id) {
		return ""
	}
	return id
}

// maxGivenIDs bounds how many earlier ids of a NodeBootstrap's tokens are derived: thirty years of daily renewals.
const maxGivenIDs = 10_000

// Gave reports whether a token of a NodeBootstrap has had an id so far. Each id follows from the one before, so a token is recognized by
// its id even if everything else that marks its Secret was removed.
func Gave(nb *v1alpha1.NodeBootstrap, id string) bool {
	last := nb.Status.LastTokenID
	if t := nb.Status.Token; t != nil && (t.ID == id || last == "") {
		last = t.ID
	}
	if id == "" || last == "" {
		return false
	}
	given := ""
	for range maxGivenIDs {
		given = NextID(nb.UID, given)
		if given == id {
			return true
		}
		if given == last {
			return false
		}
	}
	return false
}

// NextID derives the id of the token that follows another one of the same NodeBootstrap; the first follows "". So a second creation of
// the same token, from a stale cache or after a lost reply, gets AlreadyExists.
func NextID(owner types.UID, last string) string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(string(owner) + "/" + last))
	n := binary.BigEndian.Uint64(sum[:8])
	id := make([]byte, bootstrapapi.BootstrapTokenIDBytes)
	for i := range id {
		id[i] = alphabet[n%uint64(len(alphabet))]
		n /= uint64(len(alphabet))
	}
	return string(id)
}

// maxSkipped is how many ids in a row are skipped if other objects use them. Two thousand million ids exist: more than one such collision
// is no accident.
const maxSkipped = 5

// NextIDs are the possible ids of the token that follows another one, in the order in which they are tried.
func NextIDs(owner types.UID, last string) []string {
	ids := make([]string, maxSkipped)
	for i := range ids {
		last = NextID(owner, last)
		ids[i] = last
	}
	return ids
}

// Follows reports whether a token was created after another one.
func Follows(owner types.UID, id, last string) bool {
	return slices.Contains(NextIDs(owner, last), id)
}
