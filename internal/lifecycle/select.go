// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// Which objects are facts about a node, for everyone who gathers facts.

// RequestedNode returns the node that a CSR names, if it was sent with a token of ours: the API server sets the groups.
func RequestedNode(r *certificatesv1.CertificateSigningRequest) string {
	if !slices.Contains(r.Spec.Groups, token.Group) {
		return ""
	}
	return csr.RequestedNode(r)
}

// ServingNode returns the node that sent a CSR for a serving certificate; empty for other CSRs.
func ServingNode(r *certificatesv1.CertificateSigningRequest) string {
	node, ok := strings.CutPrefix(r.Spec.Username, "system:node:")
	if !ok || r.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return ""
	}
	return node
}

// KeyElsewhere returns the other node that a key is claimed for, among some NodeBootstraps; empty for none. A key that two NodeBootstraps
// pin is claimed for neither.
func KeyElsewhere(own *v1alpha1.NodeBootstrap, among []v1alpha1.NodeBootstrap, key string) string {
	pins := own.Spec.PinnedKey() == key
	for i := range among {
		nb := &among[i]
		if nb.Name != own.Name && Claims(nb, key) && (!pins || nb.Spec.PinnedKey() != key) {
			return nb.Name
		}
	}
	return ""
}

// PinnedElsewhere returns the names of the other NodeBootstraps, among some, that pin the key that one pins, in order.
func PinnedElsewhere(own *v1alpha1.NodeBootstrap, among []v1alpha1.NodeBootstrap) []string {
	key := own.Spec.PinnedKey()
	if key == "" {
		return nil
	}
	var out []string
	for i := range among {
		if nb := &among[i]; nb.Name != own.Name && nb.Spec.PinnedKey() == key && nb.DeletionTimestamp == nil {
			out = append(out, nb.Name)
		}
	}
	slices.Sort(out)
	return out
}

// LeaseRenewed is when a node's Lease was last renewed, by the API server's clock, in whole seconds, from metadata.managedFields. The
// time in the Lease's spec is by the node's clock. If that clock is fast, the Lease from before a reinstall would look renewed after the
// approval of a certificate that the kubelet does not have yet.
func LeaseRenewed(l *coordinationv1.Lease) time.Time {
	var renewed time.Time
	for _, m := range l.ManagedFields {
		if m.Time != nil && m.Time.After(renewed) && m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), `"f:renewTime"`) {
			renewed = m.Time.Time
		}
	}
	if renewed.IsZero() && l.Spec.RenewTime != nil {
		return l.Spec.RenewTime.Time
	}
	return renewed
}

// KnownTokenIDs are the ids of the tokens that the node has or had, by their Secrets and the status.
func (f *Facts) KnownTokenIDs() sets.Set[string] {
	ids := sets.New[string]()
	for _, s := range f.TokenSecrets {
		ids.Insert(token.IDOfSecret(s.Name))
	}
	if f.NodeBootstrap != nil {
		if t := f.NodeBootstrap.Status.Token; t != nil {
			ids.Insert(t.ID)
		}
		for _, t := range f.NodeBootstrap.Status.Tokens {
			ids.Insert(t.ID)
		}
		for _, d := range f.NodeBootstrap.Status.Certificates { // their certificates may have been issued since
			ids.Insert(d.TokenID)
		}
	}
	ids.Delete("") // from serving certificates and Secrets that cannot hold a token
	return ids
}
