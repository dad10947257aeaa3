// SPDX-License-Identifier: Apache-2.0

// Package drift compares objects with what the operator wrote, and reports who changed them.
package drift

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

// Difference is the fields of an object that differ from what the operator sent or wants. The zero value is no difference.
type Difference struct {
	// Needed are fields without which the object does not work.
	Needed []string
	// Other are fields that the operator sets and whose loss does no harm while the rest of the object is right, for example labels.
	Other []string
}

// Fields are all of them, in the order in which they were found.
func (d Difference) Fields() []string { return append(slices.Clone(d.Needed), d.Other...) }

func (d *Difference) metadata(have, want metav1.Object) {
	for key, value := range want.GetLabels() {
		if have.GetLabels()[key] != value {
			d.Other = append(d.Other, "metadata.labels["+key+"]")
		}
	}
	for key, value := range want.GetAnnotations() {
		switch field := "metadata.annotations[" + key + "]"; {
		case have.GetAnnotations()[key] == value:
		case key == v1alpha1.ReissueRequestedAtAnnotation: // it marks a token as created for the reissue
			d.Needed = append(d.Needed, field)
		default:
			d.Other = append(d.Other, field)
		}
	}
	slices.Sort(d.Other) // maps have no order
}

// OfSecret compares a Secret, which may have only the Digest of its data, with the wanted one. Additions by others are not a difference.
func OfSecret(have, want *corev1.Secret) Difference {
	var d Difference
	if have.Type != want.Type {
		d.Needed = append(d.Needed, "type")
	}
	if _, digested := have.Data[kubeconfig.DigestKey]; digested {
		if !bytes.Equal(have.Data[kubeconfig.DigestKey], kubeconfig.Digest(want.Data)[kubeconfig.DigestKey]) {
			d.Needed = append(d.Needed, "data")
		}
	} else {
		d.data(have, want)
	}
	owner, wanted := metav1.GetControllerOfNoCopy(have), metav1.GetControllerOfNoCopy(want)
	switch {
	case wanted != nil && (owner == nil || owner.UID != wanted.UID):
		d.Needed = append(d.Needed, "metadata.ownerReferences")
	case !equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences):
		d.Other = append(d.Other, "metadata.ownerReferences")
	}
	d.metadata(have, want)
	return d
}

func (d *Difference) data(have, want *corev1.Secret) {
	for key, value := range want.Data {
		switch {
		case bytes.Equal(have.Data[key], value):
		case key == bootstrapapi.BootstrapTokenDescriptionKey:
			d.Other = append(d.Other, "data."+key)
		default:
			d.Needed = append(d.Needed, "data."+key)
		}
	}
	for key := range have.Data {
		if _, wanted := want.Data[key]; !wanted { // the cache does not have its name
			d.Other = append(d.Other, "data")
			break
		}
	}
	slices.Sort(d.Needed)
}

// OfBinding compares a shared ClusterRoleBinding with the wanted one.
func OfBinding(have, want *rbacv1.ClusterRoleBinding) Difference {
	var d Difference
	if have.RoleRef != want.RoleRef {
		d.Needed = append(d.Needed, "roleRef")
	}
	if !equality.Semantic.DeepEqual(have.Subjects, want.Subjects) {
		d.Needed = append(d.Needed, "subjects")
	}
	switch {
	case !rbac.Ours(have): // it has lost both the label and the owner
		d.Needed = append(d.Needed, "metadata.labels["+owned.ManagedByLabel+"]", "metadata.ownerReferences")
		return d
	case !equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences):
		d.Other = append(d.Other, "metadata.ownerReferences")
	}
	d.metadata(have, want)
	return d
}

// OfStatus compares a status that the API server has stored with the one that was sent. Fields that decisions use are needed. The others
// may be missing because the CustomResourceDefinition is older than the operator: Helm does not update it.
func OfStatus(have, want *v1alpha1.NodeBootstrapStatus) Difference {
	if StatusDigest(have) == StatusDigest(want) {
		return Difference{}
	}
	needed := differingFields(decidedFrom(have), decidedFrom(want))
	other := differingFields(have, want)
	return Difference{Needed: needed, Other: slices.DeleteFunc(other, func(field string) bool { return slices.Contains(needed, field) })}
}

// Digest32 is a SHA-256.
type Digest32 = [sha256.Size]byte

// StatusDigest is the digest of a status as it is sent.
func StatusDigest(status *v1alpha1.NodeBootstrapStatus) Digest32 {
	text, err := json.Marshal(asSent(status))
	if err != nil { // cannot happen: JSON can express every status
		panic(err)
	}
	return sha256.Sum256(text)
}

// asSent is a status for comparison: other clients do not distinguish an empty list of tokens from a missing one.
func asSent(status *v1alpha1.NodeBootstrapStatus) *v1alpha1.NodeBootstrapStatus {
	sent := *status
	if len(sent.Tokens) == 0 {
		sent.Tokens = nil
	}
	return &sent
}

// decidedFrom is a status without the fields that only people and other NodeBootstraps read.
func decidedFrom(status *v1alpha1.NodeBootstrapStatus) *v1alpha1.NodeBootstrapStatus {
	out := *status
	out.Keys, out.APIServerHosts, out.CAFingerprint, out.NodeAliveTime = nil, nil, "", nil
	out.Join, out.ClientCertificate = nil, nil
	out.Certificates = slices.Clone(status.Certificates)
	for i := range out.Certificates {
		out.Certificates[i].Message, out.Certificates[i].ExpirationTime = "", nil
	}
	return &out
}

// differingFields are the top-level fields in which two statuses differ, in order.
func differingFields(have, want *v1alpha1.NodeBootstrapStatus) []string {
	var out []string
	got, sent := statusFields(have), statusFields(want)
	for _, field := range sets.List(sets.KeySet(got).Union(sets.KeySet(sent))) {
		if !bytes.Equal(got[field], sent[field]) {
			out = append(out, "status."+field)
		}
	}
	return out
}

// statusFields are the top-level fields of a status as they are sent: with times in whole seconds.
func statusFields(status *v1alpha1.NodeBootstrapStatus) map[string]json.RawMessage {
	text, err := json.Marshal(asSent(status))
	fields := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil { // cannot happen: JSON can express all of it
		panic(err)
	}
	return fields
}

// Interference is what changes an object that the operator writes.
type Interference struct {
	// Object is the kind and the name.
	Object string
	// Difference is the changed fields.
	Difference Difference
	// ByAdmission reports that the API server's answer to the write already differed. Otherwise another client writes the object too.
	ByAdmission bool
}

// Harmless reports whether the object works nevertheless.
func (i *Interference) Harmless() bool {
	return len(i.Difference.Needed) == 0 && len(i.Difference.Other) > 0
}

// maxFields bounds the fields in a message.
const maxFields = 8

// Problem describes the interference for a condition.
func (i *Interference) Problem() *problem.Problem {
	all := i.Difference.Fields()
	fields := strings.Join(all[:min(len(all), maxFields)], ", ")
	if i.ByAdmission {
		return problem.New(v1alpha1.ReasonAdmissionInterferes, "admission control changes the %s while the operator writes it: "+
			"%s is not what was sent. Find the policy or webhook (kubectl get mutatingwebhookconfigurations,mutatingadmissionpolicies) and "+
			"exempt the operator's ServiceAccount from it. The operator tries again every minute", i.Object, fields)
	}
	if fields != "" {
		fields = " (" + fields + ")"
	}
	return problem.New(v1alpha1.ReasonContested, "the %s is changed, deleted or reissued again and again%s by another client, and the "+
		"operator writes it once a minute. Find the client (kubectl get --show-managed-fields names those that write, the audit log also those "+
		"that delete) and have it leave the object alone", i.Object, fields)
}
