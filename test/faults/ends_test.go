// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// checkSettled checks a cluster in which nothing is left to do.
func (w *world) checkSettled() {
	w.CheckNothingLeft(int64(w.revision))
	w.checkNoMoreWrites()
}

// Invariant 4: no more writes, neither by the current process nor by a new one. Work that is almost due is done first,
// because the API server's clock is known to a second.
func (w *world) checkNoMoreWrites() {
	const aMoment = 3 * time.Second
	for range 20 {
		if next, ok := w.nextDue(); !ok || next.After(w.clock.Now().Add(aMoment)) {
			break
		}
		w.run(aMoment)
	}
	w.checking = true
	defer func() { w.checking = false }()
	w.Checked[invariants.SameEnd]++
	before := len(w.changes)
	w.op.wakeAll()
	w.idle()
	w.startOperator()
	w.idle()
	w.op.wakeAll() // anything that depends on the order of a map may differ each time
	w.idle()
	for _, c := range w.changes[before:] {
		if c.new.author == operatorAuthor {
			w.violated(invariants.SameEnd.Violated("%s", tracedChange{c}))
		}
	}
}

// Invariant 6: no secret leaks.
func (w *world) checkLeaks() {
	for _, versions := range w.versions {
		for _, v := range versions {
			switch o := v.object.(type) {
			case *v1alpha1.NodeBootstrap:
				w.said("status of "+o.Name, asJSON(o))
			case *certificatesv1.CertificateSigningRequest:
				w.said("status of "+o.Name, asJSON(o.Status))
			}
		}
	}
	w.Checked[invariants.Secrets] += len(w.said_)
	known := invariants.CanariesOf(w.Parts)
	for _, s := range w.said_ {
		for _, found := range known.In([]byte(s.text)) {
			w.violated(invariants.Secrets.Violated("%s has %s: %s", s.where, found.Name, found.Around))
		}
	}
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// timestamps, and the seconds in a message.
var timestamps = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`)

// state is the cluster's end state, without what differs between two runs: times and secret parts.
func (w *world) state() []string {
	var out []string
	known := invariants.CanariesOf(w.Parts)
	for _, kind := range []string{"NodeBootstrap", "Secret", "CertificateSigningRequest", "ClusterRoleBinding", "Node"} {
		for _, k := range w.kinds[kind] {
			v := w.latest(k)
			if v == nil {
				continue
			}
			if r, ok := v.object.(*certificatesv1.CertificateSigningRequest); ok && !invariants.Pending(r) {
				continue // it is history, which status.certificates shows: without its token it is deleted if it seems pending
			}
			o := v.object.DeepCopyObject()
			if nb, ok := o.(*v1alpha1.NodeBootstrap); ok {
				w.forgetVainClaims(&nb.Status)
				forgetAlive(nb)
				nb.Status.Join = nil // which of its times are known depends on the second in which the Node was created
				if w.story.forgetful {
					nb.Status.Certificates, nb.Status.KeyFingerprints, nb.Status.LastTokenID, nb.Status.APIServerHosts = nil, nil, "", nil
				}
			}
			if s, ok := o.(*corev1.Secret); ok {
				for name, value := range s.Data {
					if len(known.In(value)) > 0 {
						id, _, _ := strings.Cut(invariants.Bearer(s), ".")
						s.Data[name] = []byte("the secret part of " + id)
					}
				}
				delete(s.Data, "expiration")
				s.Immutable = nil // admission control may have set that, and it is harmless
			}
			m, _ := meta.Accessor(o)
			m.SetResourceVersion("")
			if kind == "ClusterRoleBinding" || w.Foreign[k.public()] { // one that is not needed for a moment may be created again; the operator never touches foreign ones
				m.SetUID("")
			}
			data, err := json.MarshalIndent(o, "", " ")
			w.must(err)
			for line := range strings.Lines(timestamps.ReplaceAllString(string(data), "(time)")) {
				out = append(out, k.String()+": "+strings.TrimSpace(line))
			}
		}
	}
	return out
}

// forgetAlive drops whether the old kubelet was seen after a reissue, which depends on when it renewed its Lease.
func forgetAlive(nb *v1alpha1.NodeBootstrap) {
	nb.Status.NodeAliveTime = nil
	for i := range nb.Status.Conditions {
		c := &nb.Status.Conditions[i]
		if c.Type == v1alpha1.ConditionJoined && c.Status == metav1.ConditionTrue {
			c.Message, _, _ = strings.Cut(c.Message, ", but it was alive")
		}
	}
}

// forgetVainClaims drops the claims that nothing followed.
func (w *world) forgetVainClaims(s *v1alpha1.NodeBootstrapStatus) {
	vain := map[string]bool{}
	for _, d := range s.Certificates {
		vain[d.KeyFingerprint] = vain[d.KeyFingerprint] || w.cameToNothing(d.Name, d.Verdict)
	}
	s.Certificates = slices.DeleteFunc(s.Certificates, func(d v1alpha1.CertificateDecision) bool { return w.cameToNothing(d.Name, d.Verdict) })
	for _, d := range s.Certificates {
		vain[d.KeyFingerprint] = vain[d.KeyFingerprint] && d.Verdict != v1alpha1.VerdictApproved
	}
	s.KeyFingerprints = slices.DeleteFunc(s.KeyFingerprints, func(key string) bool { return vain[key] })
	for i := range s.Tokens {
		s.Tokens[i].CSRs = slices.DeleteFunc(s.Tokens[i].CSRs, func(c v1alpha1.DecidedCSR) bool { return w.cameToNothing(c.Name, c.Verdict) })
	}
}

// cameToNothing reports whether a decision is a claim that nothing followed: the CSR was deleted, and never approved. A stale
// cache can lead to a claim for a deleted token, which is noticed before the approval.
func (w *world) cameToNothing(name string, verdict v1alpha1.Verdict) bool {
	versions := w.versions[key{kind: "CertificateSigningRequest", name: name}]
	return verdict == v1alpha1.VerdictApproved && len(versions) > 0 && versions[len(versions)-1].object == nil && !slices.ContainsFunc(versions, isApproved)
}

// difference returns where two end states differ; empty if they do not.
func difference(want, got []string) string {
	if slices.Equal(want, got) {
		return ""
	}
	const most, width = 12, 200
	var lines []string
	lack := func(sign string, have, others []string) {
		for _, line := range have {
			if !slices.Contains(others, line) && len(lines) < most {
				lines = append(lines, fmt.Sprintf("  %s %.*s", sign, width, line))
			}
		}
	}
	lack("-", want, got)
	lack("+", got, want)
	return strings.Join(append(lines, "  (at most the first lines, - undisturbed, + with the fault)"), "\n")
}

// checkOutliving: an event reports each certificate of a node whose NodeBootstrap was deleted before it had registered, if the operator deleted
// the token: when the garbage collector did, nothing is left that says whose certificate it is. A process that ends, or cannot delete the
// CSR for a while, can lose the event.
func (w *world) checkOutliving() {
	lost := slices.ContainsFunc(w.happened, func(a at) bool {
		return slices.Contains([]fault{crash, crashBefore, crashAfter, forbidden, cutOff}, a.fault)
	})
	reported := slices.ContainsFunc(w.said_, func(s saying) bool {
		return s.where == "event" && strings.Contains(s.text, v1alpha1.ReasonIssuedBeforeRevocation)
	})
	for _, r := range all[*certificatesv1.CertificateSigningRequest](w.store) {
		node := requestedNode(r)
		if len(r.Status.Certificate) == 0 || get[*v1alpha1.NodeBootstrap](w.store, "", node) != nil || len(w.versions[key{kind: "Node", name: node}]) > 0 {
			continue
		}
		if !lost && !reported && w.deletedByOperator(token.IDOfUser(r.Spec.Username)) {
			w.violated("outliving: no event reports the certificate of " + r.Name)
		}
	}
}

// deletedByOperator reports whether the operator deleted a token.
func (w *world) deletedByOperator(id string) bool {
	return slices.ContainsFunc(w.changes, func(c change) bool {
		return c.new.author == operatorAuthor && c.new.object == nil && c.key.name == token.SecretName(id)
	})
}

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
	switch o := cmp.Or(after, before).(type) {
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
			if invariants.Decided(o, t) && (old == nil || !invariants.Decided(old, t)) {
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
