// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func AlarmOf(s *v1alpha1.NodeBootstrapStatus) *metav1.Condition {
	return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionTokenMisused)
}

// Short is a condition in short: "True Published"; empty if it is absent.
func Short(s *v1alpha1.NodeBootstrapStatus, conditionType string) string {
	c := meta.FindStatusCondition(s.Conditions, conditionType)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

// ApprovedSince is the state after the operator approved the CSR of the reissued credential a while ago; its certificate is issued.
func ApprovedSince(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		d := ApprovedDecision("csr-b", 2, age)
		d.IssuedTime = nil
		f.Requests = []*certificatesv1.CertificateSigningRequest{Request("csr-b", 2, age+time.Second, Approved(age), WithCertificate)}
		d.KeyFingerprint = Must(csr.Fingerprint(f.Requests[0]))
		f.NodeBootstrap.Status.Certificates = append(f.NodeBootstrap.Status.Certificates, d)
	}
}

func LeaseOf(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.LeaseRenewed = Now.Add(-age) }
}

// ReissuedSince is the state after a reissue was handled a while ago.
func ReissuedSince(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Status.AwaitingSince = new(Ago(age)) }
}

// KeyOf is the fingerprint of a key by its name.
func KeyOf(name string) string { return Must(csr.Fingerprint(Request(name, 1, 0))) }

// Pins pins the key with a name. With approval ClusterWide the API server refuses that.
func Pins(name string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		if c := &f.NodeBootstrap.Spec.ClientCertificate; c.Approval != v1alpha1.ApprovalClusterWide {
			c.KeyFingerprint = KeyOf(name)
		}
	}
}

// PinnedTwice pins a key that another NodeBootstrap pins, too.
func PinnedTwice(name string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		if Pins(name)(f); f.NodeBootstrap.Spec.PinnedKey() != "" {
			f.PinnedElsewhere = []string{"worker-2"}
		}
	}
}

// Raised sets the alarm.
func Raised(reason string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		meta.SetStatusCondition(&f.NodeBootstrap.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue, Reason: reason, Message: "as it was found first",
			ObservedGeneration: 3, LastTransitionTime: Ago(Minutes(30)),
		})
	}
}

func HandledReissue(f *lifecycle.Facts) {
	AskReissue(f)
	f.NodeBootstrap.Status.LastHandledReissueAt = ReissueAt
}

// Further adds CSRs.
func Further(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.Requests = slices.Concat(f.Requests, requests) }
}

func AnotherSigner(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
}

func TooLong(r *certificatesv1.CertificateSigningRequest) {
	r.Spec.ExpirationSeconds = new(int32(10 * 365 * 24 * 60 * 60))
}

// BadRequests were sent with the nth token, one each second, and have a defect that is no evidence of a theft. They share one key,
// because creating keys is slow.
func BadRequests(n, count int) []*certificatesv1.CertificateSigningRequest {
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		out = append(out, Request(fmt.Sprintf("bad/%d-%04d", n, i), n, time.Duration(count-i)*time.Second, TooLong))
	}
	return out
}

// ServingRequests were sent a minute ago, all in one second, with one key.
func ServingRequests(count int, edit ...func(*certificatesv1.CertificateSigningRequest)) []*certificatesv1.CertificateSigningRequest {
	var out []*certificatesv1.CertificateSigningRequest
	for i := range count {
		out = append(out, ServingRequest(fmt.Sprintf("serving/%02d", i), Minutes(1), edit...))
	}
	return out
}

// Spoilt CSRs were sent with the node's token and are not valid for the node's client certificate.
var Spoilt = map[string]func(*certificatesv1.CertificateSigningRequest){
	"another node":        ForNode("worker-2"),
	"a longer name":       ForNode("worker-10"),
	"a shorter name":      ForNode("worker-"),
	"another signer":      AnotherSigner,
	"the serving signer":  Asks(certificatesv1.KubeletServingSignerName),
	"none that is parsed": func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("junk") },
}

// Decision is a decision of one kind from an hour ago: a for an approval, d for a denial, i for an ignored CSR, m for the approval of a
// second key by someone else, o for that of another signer's certificate; lower case for the first token, upper case for the second one.
// s is the approval of a serving certificate, and x its denial.
func Decision(letter rune, name string) v1alpha1.CertificateDecision {
	n := 1
	if lower := letter | 0x20; lower != letter {
		letter, n = lower, 2
	}
	d := ApprovedDecision(name, n, time.Hour)
	switch letter {
	case 'd':
		d = DeniedDecision(name, n, time.Hour)
	case 'i':
		d.Verdict, d.Reason, d.IssuedTime = v1alpha1.VerdictIgnored, decisions.ReasonTooManyRequests, nil
	case 'm':
		d.Reason = csr.ReasonSecondKey
	case 'o':
		d.Reason, d.SignerName, d.IssuedTime = csr.ReasonWrongSigner, certificatesv1.KubeAPIServerClientSignerName, nil
	case 's':
		d = ServingEntry(name, v1alpha1.VerdictApproved, csr.ReasonKubeletServing, time.Hour)
	case 'x':
		d = ServingEntry(name, v1alpha1.VerdictDenied, csr.ReasonNoAddress, time.Hour)
	}
	return d
}

// History has one decision for each letter, the newest last, numbered from the oldest.
func History(letters string) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for i, letter := range letters {
		out = append(out, Decision(letter, fmt.Sprint(i)))
	}
	return out
}

func Names(history []v1alpha1.CertificateDecision) []string {
	var out []string
	for _, d := range history {
		out = append(out, d.Name)
	}
	return out
}

// Judged adds a condition with a reason and a message, set a while ago.
func Judged(c certificatesv1.RequestConditionType, reason, message string, age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: c, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: Ago(age), LastUpdateTime: Ago(age),
		})
	}
}

func KubectlDeny(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return Judged(certificatesv1.CertificateDenied, "KubectlDeny", "This CSR was denied by kubectl certificate deny.", age)
}

// VerdictsOf counts decisions by verdict: "8 Denied, 1 Ignored".
func VerdictsOf(history []v1alpha1.CertificateDecision) string {
	count := map[v1alpha1.Verdict]int{}
	for _, d := range history {
		count[d.Verdict]++
	}
	var out []string
	for _, verdict := range []v1alpha1.Verdict{v1alpha1.VerdictApproved, v1alpha1.VerdictDenied, v1alpha1.VerdictIgnored} {
		if n := count[verdict]; n > 0 {
			out = append(out, fmt.Sprint(n, " ", verdict))
		}
	}
	return strings.Join(out, ", ")
}

// Denials are the log entries of bad CSRs of the nth token.
func Denials(n, count int) []v1alpha1.CertificateDecision {
	var out []v1alpha1.CertificateDecision
	for i := range count {
		out = append(out, Because(csr.ReasonWrongDuration, DeniedDecision(fmt.Sprintf("denied-%d-%d", n, i), n, time.Hour)))
	}
	return out
}

func Conflicting(mode v1alpha1.Approval, requests ...*certificatesv1.CertificateSigningRequest) *lifecycle.Facts {
	f := Awaited(1, Young)
	f.NodeBootstrap.Spec.ClientCertificate.Approval = mode
	f.Requests = requests
	return f
}

// Edits combines several edits.
func Edits(list ...func(*lifecycle.Facts)) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		for _, edit := range list {
			edit(f)
		}
	}
}

func Alarmed(verdicts, misuse string) Outline {
	return Outline{Phase: lifecycle.Awaited, Token: "#1", Verdicts: verdicts, Misuse: misuse}
}

func (o Outline) Deleting(requests string) Outline {
	o.DeleteCSR = requests
	return o
}

func (o Outline) Repairing(tokens string) Outline {
	o.Repair = tokens
	return o
}

func Asks(signer string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName = signer }
}

var Expires = Now.Add(40 * time.Minute)

// IssuedFor is an approved CSR with a certificate that expires at expires.
func IssuedFor(name string, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	edit = append(edit, Approved(time.Minute), func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Certificate = Certificate(Now.Add(-time.Hour), Expires)
	})
	return Request(name, 1, 2*time.Minute, edit...)
}

// Minutes is a duration of n minutes.
func Minutes(n int) time.Duration { return time.Duration(n) * time.Minute }

// Asked is a node that is awaited with its first token. Its kubelet sent a CSR 20 minutes ago, got the certificate a minute later, and
// has neither created a Node nor renewed a Lease since then.
func Asked() *lifecycle.Facts {
	f := Awaited(1, Young)
	f.Requests = []*certificatesv1.CertificateSigningRequest{Request("csr-a", 1, Minutes(20), Approved(Minutes(19)), WithCertificate)}
	return f
}

// Reissued is a node that was a member for a day, and for which a credential was reissued an hour ago.
func Reissued() *lifecycle.Facts {
	f := Awaited(2, Young)
	AskReissue(f)
	f.NodeBootstrap.Status.LastHandledReissueAt = ReissueAt
	f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{ApprovedDecision("csr-1", 1, Old)}
	f.Node = NodeMade(24 * time.Hour)
	f.NodeBootstrap.Status.NodeUID = f.Node.UID
	f.NodeReported, f.LeaseRenewed = true, Now.Add(-2*time.Hour)
	return f
}

func NoRequests(f *lifecycle.Facts) { f.Requests = nil }

func With(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.Requests = requests }
}

func ForNode(node string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = KubeletPEM(r.Name, node) }
}

func Approval(mode v1alpha1.Approval) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.ClientCertificate.Approval = mode }
}

// Claimed is the state after a crash between the claim on a CSR's key and its approval.
func Claimed(name string) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) {
		d := ApprovedDecision(name, 1, Minutes(1))
		d.KeyFingerprint, d.IssuedTime = Must(csr.Fingerprint(Request(name, 1, 0))), nil
		f.NodeBootstrap.Status.Certificates = []v1alpha1.CertificateDecision{d}
	}
}

const (
	Young = time.Hour      // a token that is not due
	Due   = 21 * time.Hour // a token whose renewal is due: the latest moment is at 20 h
	Old   = 25 * time.Hour // a token that has expired
)

func ForeignKubeconfig() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: owned.KubeconfigSecretName(NodeName)}}
}

func NoCluster(f *lifecycle.Facts) {
	f.Cluster, f.ClusterProblem = kubeconfig.Cluster{}, &problem.Problem{Reason: v1alpha1.ReasonServerUnknown, Message: "no server"}
}

// AddToken adds the nth token, created for the current spec and annotations.
func AddToken(f *lifecycle.Facts, n int, age time.Duration) {
	nb := f.NodeBootstrap
	if nb == nil {
		nb = NodeBootstrap()
	}
	f.TokenSecrets = append(f.TokenSecrets, TokenSecretOf(nb, n, age))
}

func DeadlineAfter(d time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.Token.JoinDeadline = &metav1.Duration{Duration: d} }
}

const ReissueAt = "2026-03-04T05:00:00Z"

func AskReissue(f *lifecycle.Facts) {
	f.NodeBootstrap.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: ReissueAt}
}

// ManyStates is enough to include every pair of choices many times, in a second or two.
const ManyStates = 2_000

// Replacements is how many keys may be approved after the first one.
func Replacements(n int32) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.ClientCertificate.ReplacementKeys = n }
}

// Registered adds a Node that was created a while ago and in whose status a kubelet has reported, without a Lease.
func Registered(age time.Duration) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.Node, f.NodeReported, f.LeaseRenewed = NodeMade(age), true, time.Time{} }
}

var ErrWrite = errors.New("storing it: the server is busy")

// Claim is the first step of carrying out a plan: the operator can crash after it, and after each further step.
func Claim(f *lifecycle.Facts, p *lifecycle.Plan) {
	if f.NodeBootstrap == nil {
		return
	}
	if claimed := status.Claimed(p, f, Now); claimed != nil {
		f.NodeBootstrap.Status = *claimed
	}
}

func AsJSON(v any) string { return string(Must(json.Marshal(v))) }

// Situations are the most frequent states in production, and the worst one that a single token can cause.
func Situations() map[string]*lifecycle.Facts {
	asks := Awaited(1, 0)
	asks.Requests = []*certificatesv1.CertificateSigningRequest{Request("csr-1", 1, 0)}
	flooded := Awaited(1, 0)
	for i := range 100 {
		flooded.Requests = append(flooded.Requests, Request(fmt.Sprintf("csr-1/%d", i), 1, 0))
	}
	return map[string]*lifecycle.Facts{"new": Fresh(), "awaited": Awaited(1, 0), "asks": asks, "joined": JoinedBefore(), "100 requests": flooded}
}

// Records adds these decisions to the status.
func Records(decisions ...v1alpha1.CertificateDecision) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Status.Certificates = decisions }
}

// Because changes the reason of a decision.
func Because(reason string, d v1alpha1.CertificateDecision) v1alpha1.CertificateDecision {
	d.Reason = reason
	return d
}
