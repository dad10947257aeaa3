// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// checkRecord: the log has one line for each token, verdict, deletion and alarm of the operator's, and none for a write that was
// not stored. A process that ends, or gets no answer, logs nothing about its last write.
func (w *world) checkRecord() {
	done := map[string]int{}
	for _, c := range w.changes {
		if c.new.author == operatorAuthor {
			for _, line := range recordOf(c) {
				done[line]++
			}
		}
	}
	silent := slices.ContainsFunc(w.happened, func(a at) bool { return slices.Contains([]fault{crashAfter, lost, cutOff}, a.fault) })
	said := map[string]int{}
	for _, s := range w.said_ {
		if line := recordLine(s); line != "" {
			said[line]++
		}
	}
	for _, line := range slices.Sorted(maps.Keys(said)) {
		if said[line] > done[line] {
			w.violated(fmt.Sprintf("record: %q is in the log %d times and was done %d times", line, said[line], done[line]))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(done)) {
		if said[line] < done[line] && !silent {
			w.violated(fmt.Sprintf("record: %q was done %d times and is in the log %d times", line, done[line], said[line]))
		}
	}
}

// recordOf is the log lines that a change requires.
func recordOf(c change) []string {
	before, after := objectOf(c.old), objectOf(c.new)
	var out []string
	switch o := cmpOr(after, before).(type) {
	case *corev1.Secret:
		old, _ := before.(*corev1.Secret)
		now, _ := after.(*corev1.Secret)
		switch {
		case o.Type != bootstrapapi.SecretTypeBootstrapToken:
		case old == nil:
			out = append(out, "created a token "+invariants.TokenID(o))
		case old.DeletionTimestamp == nil && (now == nil || now.DeletionTimestamp != nil):
			out = append(out, "revoked a token "+strings.TrimPrefix(o.Name, bootstrapapi.BootstrapTokenSecretPrefix))
		}
	case *certificatesv1.CertificateSigningRequest:
		old, _ := before.(*certificatesv1.CertificateSigningRequest)
		if after == nil {
			return []string{"deleted a CertificateSigningRequest " + o.Name}
		}
		for t, verb := range map[certificatesv1.RequestConditionType]string{certificatesv1.CertificateApproved: "approved", certificatesv1.CertificateDenied: "denied"} {
			if condition(o, t) != nil && (old == nil || condition(old, t) == nil) {
				out = append(out, verb+" a CertificateSigningRequest "+o.Name)
			}
		}
	case *v1alpha1.NodeBootstrap:
		old, _ := before.(*v1alpha1.NodeBootstrap)
		if after != nil && meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConditionTokenMisused) &&
			(old == nil || !meta.IsStatusConditionTrue(old.Status.Conditions, v1alpha1.ConditionTokenMisused)) {
			out = append(out, "raised an alarm "+v1alpha1.ConditionTokenMisused)
		}
	}
	return out
}

func cmpOr(a, b any) any {
	if a != nil {
		return a
	}
	return b
}

// recordLine is the entry of a line of the log; empty if the line is not of the record.
func recordLine(s saying) string {
	if s.where != "log" {
		return ""
	}
	for msg, field := range map[string]string{
		"created a token": "tokenID", "revoked a token": "tokenID", "approved a CertificateSigningRequest": "csr",
		"denied a CertificateSigningRequest": "csr", "deleted a CertificateSigningRequest": "csr", "raised an alarm": "condition",
	} {
		if !strings.Contains(s.text, fmt.Sprintf("%q=%q ", "msg", msg)) {
			continue
		}
		_, rest, _ := strings.Cut(s.text, fmt.Sprintf("%q=\"", field))
		value, _, _ := strings.Cut(rest, `"`)
		if msg == "raised an alarm" && value != v1alpha1.ConditionTokenMisused {
			return ""
		}
		return msg + " " + value
	}
	return ""
}
