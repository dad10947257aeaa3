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

// IDOfUser is the id of the bootstrap token that authenticates as a user; empty when it is no token's user.
func IDOfUser(username string) string {
	id, ok := strings.CutPrefix(username, bootstrapapi.BootstrapUserPrefix)
	if !ok || !bootstraputil.IsValidBootstrapTokenID(id) {
		return ""
	}
	return id
}

// IDOfSecret is the id of the bootstrap token that a Secret of a name can hold; empty when it can hold none.
func IDOfSecret(name string) string {
	id, ok := strings.CutPrefix(name, bootstrapapi.BootstrapTokenSecretPrefix)
	if !ok {
		return ""
	}
	return IDOfUser(bootstrapapi.BootstrapUserPrefix + id)
}

// maxGivenIDs bounds how far back the ids are derived that a NodeBootstrap's tokens had: thirty years of daily renewals.
const maxGivenIDs = 10_000

// Gave reports whether an id is one that the tokens of a NodeBootstrap have had so far. All its ids follow each other, so that a
// token is known by its id when somebody has taken away all else that its Secret says of it.
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

// NextID derives the id of the token that follows another one of the same NodeBootstrap; the first follows "".
// A second creation of the same token, out of a stale cache or after a lost reply, thereby meets AlreadyExists.
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

// maxSkipped is how many ids that someone else holds are skipped in a row when a token is made. There are two thousand
// million ids: more than one is no accident.
const maxSkipped = 5

// NextIDs are the ids that a token may have that follows another one, in the order in which they are tried.
func NextIDs(owner types.UID, last string) []string {
	ids := make([]string, maxSkipped)
	for i := range ids {
		last = NextID(owner, last)
		ids[i] = last
	}
	return ids
}

// Follows reports whether a token was made after another one.
func Follows(owner types.UID, id, last string) bool {
	return slices.Contains(NextIDs(owner, last), id)
}
