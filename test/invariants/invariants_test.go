// SPDX-License-Identifier: Apache-2.0

package invariants_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// recorder stores and checks writes, one for each revision, and collects the violations.
type recorder struct {
	*invariants.Checker
	history  invariants.History
	revision int64
	found    []string
}

func newRecorder() *recorder {
	r := &recorder{history: invariants.History{}}
	r.Checker = invariants.New(r.history, nodetest.Namespace, time.Second, func(text string) { r.found = append(r.found, text) })
	r.others(nodetest.NodeBootstrap())
	return r
}

func (r *recorder) store(k invariants.Key, o client.Object, byOperator bool) {
	w := invariants.Write{Key: k, Before: r.At(k, r.revision), After: o, Revision: r.revision + 1, At: nodetest.Now, Seen: []int64{r.revision}}
	r.revision++
	r.history[k] = append(r.history[k], invariants.Version{r.revision, o})
	if r.Learn(w, byOperator); byOperator {
		r.Check(w)
	}
}

func keyOf(o client.Object) invariants.Key {
	return invariants.Key{reflect.TypeOf(o).Elem().Name(), o.GetNamespace(), o.GetName()}
}

// operator stores objects as the operator does, and others one as another client does.
func (r *recorder) operator(objects ...client.Object) {
	for _, o := range objects {
		r.store(keyOf(o), o, true)
	}
}

func (r *recorder) others(o client.Object) { r.store(keyOf(o), o, false) }

// deletes deletes an object.
func (r *recorder) deletes(o client.Object) { r.store(keyOf(o), nil, true) }

// approves records the approval of a CSR in the status, and then approves it.
func (r *recorder) approves(request *certificatesv1.CertificateSigningRequest) {
	key, _ := csr.Fingerprint(request)
	nb := nodetest.NodeBootstrap()
	if current, ok := r.At(keyOf(nb), r.revision).(*v1alpha1.NodeBootstrap); ok {
		nb = current.DeepCopy()
	}
	nb.Status.Tokens = append(nb.Status.Tokens, v1alpha1.LiveToken{ID: token.IDOfUser(request.Spec.Username), CSRs: []v1alpha1.DecidedCSR{
		{UID: request.UID, Verdict: v1alpha1.VerdictApproved, KeyFingerprint: key},
	}})
	nodetest.Approved(0)(request)
	r.operator(nb, request)
}

// edited is the NodeBootstrap with changes.
func edited(how ...func(*v1alpha1.NodeBootstrap)) *v1alpha1.NodeBootstrap {
	nb := nodetest.NodeBootstrap()
	for _, edit := range how {
		edit(nb)
	}
	return nb
}

// pins pins the key with a name.
func pins(name string) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.KeyFingerprint = nodetest.KeyOf(name) }
}

func asksReissue(nb *v1alpha1.NodeBootstrap) {
	nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: nodetest.ReissueAt}
}

func handledReissue(nb *v1alpha1.NodeBootstrap) { nb.Status.LastHandledReissueAt = nodetest.ReissueAt }

func hasJoined(nb *v1alpha1.NodeBootstrap) { nb.Status = nodetest.JoinedBefore().NodeBootstrap.Status }

func awaits(nb *v1alpha1.NodeBootstrap) { nb.Status = nodetest.StatusOf(1, nodetest.Young) }

// Each check reports the violation that it is about, and none of them a correct life of a NodeBootstrap.
func TestEachCheckFindsItsViolation(t *testing.T) {
	awaited, kubeconfig := nodetest.NodeBootstrap(), nodetest.KubeconfigSecret(1)
	first, second, due := nodetest.TokenSecret(1, nodetest.Young), nodetest.TokenSecret(2, 0), nodetest.TokenSecret(1, nodetest.Due)
	former := due.DeepCopy()
	former.OwnerReferences[0].UID = nodetest.FormerUID
	ask := func(edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
		return nodetest.Request("csr-a", 1, 0, edit...)
	}
	final := func(r *certificatesv1.CertificateSigningRequest) { r.Finalizers = []string{"example.com/stay"} }
	with := func(certificate []byte) *certificatesv1.CertificateSigningRequest {
		return ask(func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = certificate })
	}
	neighbour := edited(func(nb *v1alpha1.NodeBootstrap) { nb.Name = "worker-2" })
	for want, violate := range map[string]func(*recorder){
		"": func(r *recorder) {
			r.operator(due, kubeconfig, second, nodetest.KubeconfigSecret(2), edited(func(nb *v1alpha1.NodeBootstrap) { nb.Status = nodetest.StatusOf(2, 0) }))
			r.CheckTruth(nodetest.NodeName, r.revision, nodetest.Now)
			r.deletes(due)
			r.approves(nodetest.Request("csr-a", 2, 0))
			r.others(nodetest.Request("csr-a", 2, 0, nodetest.Approved(0), nodetest.WithCertificate))
			r.deletes(second)
			r.deletes(nodetest.KubeconfigSecret(2))
			r.operator(edited(hasJoined))
			r.CheckNothingLeft(r.revision)
		},
		"not ours: the operator writes to Secret": func(r *recorder) {
			r.Foreign[keyOf(first)] = true
			r.operator(first)
		},
		"not ours: the operator writes the spec": func(r *recorder) {
			r.operator(edited(func(nb *v1alpha1.NodeBootstrap) { nb.Generation++ }))
		},
		"the secret part of": func(r *recorder) {
			changed := first.DeepCopy()
			changed.Data["token-secret"] = []byte("another canary 1")
			r.operator(first, changed)
		},
		"live tokens: worker-1 has 3": func(r *recorder) {
			r.operator(due, nodetest.TokenSecret(2, nodetest.Due), nodetest.TokenSecret(3, 0))
		},
		"which worker-1 had before, is used again": func(r *recorder) {
			r.operator(first)
			r.deletes(first)
			r.operator(first)
		},
		"is created for a NodeBootstrap that no longer exists": func(r *recorder) {
			r.deletes(awaited)
			r.operator(first)
		},
		"is created although a token was misused": func(r *recorder) {
			f := nodetest.Fresh()
			nodetest.Raised(csr.ReasonSecondKey)(f)
			r.operator(f.NodeBootstrap, first)
		},
		"is created for a node that has joined": func(r *recorder) {
			r.others(&corev1.Node{ObjectMeta: nodetest.JoinedBefore().Node.ObjectMeta})
			r.operator(edited(hasJoined), first)
		},
		"is good for another":              func(r *recorder) { r.operator(first, second) },
		"of another NodeBootstrap is live": func(r *recorder) { r.operator(former, second) },
		"is created for a reissue while": func(r *recorder) {
			r.others(edited(asksReissue))
			r.operator(due, nodetest.TokenSecretOf(edited(asksReissue), 2, 0))
		},
		"carries the token": func(r *recorder) { r.operator(kubeconfig) },
		"counts as the token for the reissue": func(r *recorder) {
			r.operator(first, edited(asksReissue, awaits, handledReissue))
		},
		"counts as handled, and": func(r *recorder) {
			r.operator(first, kubeconfig)
			r.others(edited(asksReissue))
			r.operator(edited(asksReissue, handledReissue))
		},
		"nothing left: worker-1 counts as joined, and": func(r *recorder) { r.operator(first, edited(hasJoined)) },
		"nothing left: Secret kube-system/": func(r *recorder) {
			r.operator(first)
			r.deletes(awaited)
			r.CheckNothingLeft(r.revision)
		},
		"nothing left: request csr-a": func(r *recorder) {
			r.operator(first)
			r.others(ask())
			r.deletes(first)
			r.CheckNothingLeft(r.revision)
		},
		"CredentialsAvailable of worker-1 is true": func(r *recorder) {
			r.operator(edited(awaits))
			r.CheckTruth(nodetest.NodeName, r.revision, nodetest.Now)
		},
		"the status does not name the token": func(r *recorder) {
			r.operator(nodetest.TokenSecret(2, nodetest.Young), nodetest.KubeconfigSecret(2), edited(awaits))
			r.CheckTruth(nodetest.NodeName, r.revision, nodetest.Now)
		},
		"is awaited and has no token": func(r *recorder) { r.CheckTruth(nodetest.NodeName, r.revision, nodetest.Now) },
		"not of the current generation": func(r *recorder) {
			r.operator(first, kubeconfig, edited(awaits, func(nb *v1alpha1.NodeBootstrap) { nb.Status.ObservedGeneration-- }))
			r.CheckTruth(nodetest.NodeName, r.revision, nodetest.Now)
		},
		"sent with a token that the operator did not create": func(r *recorder) { r.approves(ask()) },
		"csr-a cannot be read": func(r *recorder) {
			r.operator(first)
			r.approves(ask(nodetest.Spoilt["none that is parsed"]))
		},
		"csr-a has the signer": func(r *recorder) { r.operator(first); r.approves(ask(nodetest.AnotherSigner)) },
		"csr-a names CN=system:node:worker-2": func(r *recorder) {
			r.operator(first)
			r.approves(ask(nodetest.ForNode("worker-2")))
		},
		"which could not be revoked": func(r *recorder) { r.operator(first); r.approves(ask(final)) },
		"key 2 is approved with the token": func(r *recorder) {
			r.operator(first)
			r.approves(ask())
			r.approves(nodetest.Request("csr-b", 1, 0))
		},
		" is pinned": func(r *recorder) {
			r.others(edited(pins("csr-b")))
			r.operator(first)
			r.approves(ask())
		},
		"key 2 is approved with the token " + nodetest.NthID(1): func(r *recorder) { // the pinned key counts after its pin was removed
			r.operator(first)
			r.others(edited(pins("csr-a")))
			r.operator(ask(nodetest.Approved(0)))
			r.others(edited())
			r.approves(nodetest.Request("csr-b", 1, 0))
		},
		"one key is approved for": func(r *recorder) {
			r.others(neighbour)
			r.operator(first, nodetest.TokenSecretOf(neighbour, 2, 0))
			r.approves(ask())
			r.approves(nodetest.Request("csr-b", 2, 0, func(r *certificatesv1.CertificateSigningRequest) {
				r.Spec.Request = nodetest.KubeletPEM("csr-a", "worker-2")
			}))
		},
		"is approved for a NodeBootstrap that no longer exists": func(r *recorder) {
			r.operator(first)
			r.deletes(awaited)
			r.operator(ask(nodetest.Approved(0)))
		},
		"is approved for a token that no longer exists": func(r *recorder) {
			r.operator(first)
			r.deletes(first)
			r.approves(ask())
		},
		"is approved with approval Manual": func(r *recorder) {
			r.others(edited(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }))
			r.operator(first)
			r.approves(ask())
		},
		"is approved although a reissue is asked for": func(r *recorder) {
			r.others(edited(asksReissue))
			r.operator(first)
			r.approves(ask())
		},
		"does not have the approval of csr-a": func(r *recorder) { r.operator(first, ask(nodetest.Approved(0))) },
		"is approved that someone requests": func(r *recorder) {
			r.operator(nodetest.ServingRequest("csr-s", 0, nodetest.Approved(0), sentBy("someone")))
		},
		"for worker-1 is approved without a NodeBootstrap": func(r *recorder) {
			r.deletes(awaited)
			r.operator(nodetest.ServingRequest("csr-s", 0, nodetest.Approved(0)))
		},
		"for worker-1 is approved that names":                  func(r *recorder) { r.operator(nodetest.ServingRequest("csr-s", 0, nodetest.Approved(0))) },
		"csr-a or its certificate cannot be read":              func(r *recorder) { r.operator(with([]byte("junk"))) },
		"the certificate of csr-a was issued for another name": func(r *recorder) { r.operator(with(nodetest.Certificate(nodetest.Now, nodetest.Now))) },
	} {
		t.Run(want, func(t *testing.T) {
			r := newRecorder()
			violate(r)
			if all := strings.Join(r.found, "\n"); want == "" && all != "" || !strings.Contains(all, want) {
				t.Errorf("the violations are %q, want %q", r.found, want)
			}
		})
	}
}

// The approval of a pinned key needs no record in the status, and no alarm keeps a node with a pinned key from its credential.
func TestPinnedKeyNeedsNoClaim(t *testing.T) {
	r := newRecorder()
	f := nodetest.Awaited(1, nodetest.Young)
	nodetest.Edits(nodetest.Pins("csr-a"), nodetest.Raised(csr.ReasonKeyNotPinned))(f)
	r.others(f.NodeBootstrap)
	r.operator(f.TokenSecrets[0], nodetest.Request("csr-a", 1, 0, nodetest.Approved(0)), nodetest.Request("csr-a/2", 1, 0, nodetest.Approved(0)))
	if len(r.found) > 0 || r.Checked[invariants.Approvals] != 2 || r.Checked[invariants.LiveTokens] == 0 {
		t.Errorf("the violations are %q, after the checks %v", r.found, r.Checked)
	}
}

func sentBy(user string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = user }
}
