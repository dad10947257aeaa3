// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/adversarial"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// attack is a case that the API server admitted.
type attack struct {
	adversarial.Case
	node    string
	request *certificatesv1.CertificateSigningRequest
	// refusal is why the API server did not admit it.
	refusal error
}

// submit turns a good CSR into that of a case, sends it as a user, and reports whether the API server admitted it.
func submit(t *testing.T, cfg *rest.Config, a *attack, spec certificatesv1.CertificateSigningRequestSpec, key crypto.Signer) bool {
	t.Helper()
	cfg.QPS = -1
	c, err := client.New(cfg, client.Options{Scheme: cluster.Client.Scheme()})
	env.Must(t, err)
	a.request = &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "adversarial-"}, Spec: spec}
	a.Apply(a.request, a.node, key)
	giveOwners(t, a.request)
	err = c.Create(t.Context(), a.request)
	if err != nil && !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
		t.Fatalf("%s: %v", a.Name, err)
	}
	a.refusal = err
	if err == nil {
		t.Cleanup(func() { cluster.DeleteAfter(t, a.request) })
	}
	return err == nil
}

// ownerNode creates the Node that owns some CSRs, for all tests.
var ownerNode = sync.OnceValue(func() error {
	return cluster.Client.Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: adversarial.OwnerNode}})
})

func createOwnerNode(t *testing.T) {
	t.Helper()
	env.Must(t, ownerNode())
}

// giveOwners gives the owners of a CSR the UIDs of existing objects, because the garbage collector deletes at once an object
// whose owners do not exist. A ConfigMap cannot own a CSR, so the garbage collector ignores it.
func giveOwners(t *testing.T, r *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	for i := range r.OwnerReferences {
		owner := &r.OwnerReferences[i]
		switch owner.Kind {
		case "NodeBootstrap":
			var nb v1alpha1.NodeBootstrap
			cluster.Get(t, "", owner.Name, &nb)
			owner.UID = nb.UID
		case "Node":
			var node corev1.Node
			cluster.Get(t, "", owner.Name, &node)
			owner.UID = node.UID
		}
	}
}

// outcome is nil if a CSR has come to the end that its case requires.
func outcome(t *testing.T, a attack) error {
	t.Helper()
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", a.node, &nb)
	if len(nb.Status.Certificates) == 0 {
		return errors.New("no decision is recorded")
	}
	d := nb.Status.Certificates[len(nb.Status.Certificates)-1]
	if d.UID != a.request.UID || d.Verdict != v1alpha1.VerdictDenied || d.Reason != a.Reason {
		return fmt.Errorf("the record is %+v, want %s", d, a.Reason)
	}
	err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(a.request), a.request)
	if gone := apierrors.IsNotFound(err); gone || err != nil {
		if gone && a.Reason == csr.ReasonWrongSigner {
			return nil
		}
		return fmt.Errorf("the request is not there: %w", err)
	}
	if !wasDenied(a.request, a.Reason) {
		return fmt.Errorf("the conditions are %+v, want Denied with %s", a.request.Status.Conditions, a.Reason)
	}
	return nil
}

// withoutCertificate fails the test for each CSR with a certificate. All of them have had as much time as the last one took.
func withoutCertificate(t *testing.T, attacks []attack) {
	t.Helper()
	for _, a := range attacks {
		err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(a.request), a.request)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err == nil && len(a.request.Status.Certificate) > 0 {
			t.Errorf("%s (%s): the request has a certificate", a.Name, a.Why)
		}
	}
}

// No CSR of the table that the API server admits gets a certificate while the operator and kube-controller-manager run,
// and each is denied for the expected reason.
func TestAdversarialClientRequests(t *testing.T) {
	t.Parallel()
	const prefix = "client-"
	key := env.Key(t)
	var cases []adversarial.Case
	for _, c := range adversarial.Client() {
		if !c.Requester {
			cases = append(cases, c)
			cluster.Create(t, cluster.NodeBootstrap(prefix+c.Name))
		}
	}
	createOwnerNode(t)
	var attacks []attack
	refused := 0
	for _, c := range cases {
		a := attack{Case: c, node: prefix + c.Name}
		submitted := submitClient(t, &a, key)
		spec := a.request.Spec
		if submitted {
			attacks = append(attacks, a)
		}
		if policies && spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName && !apierrors.IsInvalid(a.refusal) {
			refused++
			if !operator.Refuses("nodebootstrap-guard-tokens", a.refusal) {
				t.Errorf("%s: a token requests the signer %s, and the policy does not refuse it: %v", a.Name, spec.SignerName, a.refusal)
			}
		}
	}
	if policies && refused == 0 {
		t.Error("no request asks for another signer")
	}
	t.Logf("of %d requests the API server admitted %d", len(cases), len(attacks))
	if len(attacks) < 100 {
		t.Errorf("the API server admitted only %d CSRs: does the operator see them?", len(attacks))
	}
	for _, a := range attacks {
		env.Eventually(t, a.Name, func() error { return outcome(t, a) })
		explainsDenial(t, a)
	}
	withoutCertificate(t, attacks)
}

// Neither metadata that admission may add to a CSR nor the name of a CSR stops a node. The test is not parallel, because these
// nodes request addresses that one of TestAdversarialServingRequests declares as its own.
func TestHarmlessMetadata(t *testing.T) {
	for _, prefix := range []string{"", "serving-"} {
		for _, c := range adversarial.Harmless() {
			nb := cluster.NodeBootstrap(prefix + c.Name)
			if prefix != "" {
				nb.Spec.ServingCertificate.Addresses = []string{nb.Name, nb.Name + ".example.com", "192.0.2.0/28", "2001:db8::/120"}
			}
			cluster.Create(t, nb)
		}
	}
	var sent []attack
	for prefix, send := range map[string]func(*testing.T, *attack, crypto.Signer) bool{"": submitClient, "serving-": submitServing} {
		for _, c := range adversarial.Harmless() {
			cluster.WaitAwaited(t, prefix+c.Name)
			key := env.Key(t) // one key is good for one node
			a := attack{Case: c, node: prefix + c.Name}
			if !send(t, &a, key) {
				t.Fatalf("the API server refuses %s", a.node)
			}
			sent = append(sent, a)
		}
	}
	for _, a := range sent {
		cluster.WaitCertificate(t, a.request)
		reason := csr.ReasonKubeletClient
		if a.request.Spec.SignerName == certificatesv1.KubeletServingSignerName {
			reason = csr.ReasonKubeletServing
		}
		explainsApproval(t, a.request.Name, reason)
	}
}

// submitClient sends a case's CSR with the token of its node.
func submitClient(t *testing.T, a *attack, key crypto.Signer) bool {
	t.Helper()
	nb, kubeconfig := cluster.WaitAwaited(t, a.node)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	env.Must(t, err)
	return submit(t, cfg, a, adversarial.GoodClient(a.node, nb.Status.Token.ID, key), key)
}

// The adversarial CSRs for serving certificates. A CSR that could still be approved waits; each of these is sent without others,
// so that the condition is about it.
func TestAdversarialServingRequests(t *testing.T) {
	t.Parallel()
	const waiting = "adversary"
	key := env.Key(t)
	declare := func(name string, addresses ...string) {
		nb := cluster.NodeBootstrap(name)
		nb.Spec.ServingCertificate.Addresses = addresses
		nb.Spec.Cluster.Server = "https://api.example.com:6443"
		cluster.Create(t, nb)
	}
	declare(waiting, waiting, waiting+".example.com", "192.0.2.7", "2001:db8::7", "198.51.100.0/24")
	declare("other-node", "other-node", "other-node.example.com", "192.0.2.8")
	cluster.WaitAwaited(t, waiting)
	cluster.WaitAwaited(t, "other-node")
	createOwnerNode(t)
	for name, server := range map[string]string{"rack-a": "https://lb.rack-a.example.com:6443", "rack-a-v6": "https://[2001:db8:a::1]:6443", "rack-b": "https://lb.räck-b.example.com"} {
		nb := cluster.NodeBootstrap(name)
		nb.Spec.Cluster.Server = server
		cluster.Create(t, nb)
		cluster.WaitAwaited(t, name)
	}
	var denials, all []attack
	sent := 0
	for _, c := range adversarial.Serving() {
		if c.Requester || c.Verdict == "Leave" {
			continue
		}
		sent++
		a := attack{Case: c, node: waiting}
		if c.Verdict == "Deny" {
			a.node = c.Name
			declare(c.Name, c.Name)
			cluster.WaitAwaited(t, c.Name)
		}
		if !submitServing(t, &a, key) {
			continue
		}
		all = append(all, a)
		if c.Verdict == "Deny" {
			denials = append(denials, a)
			continue
		}
		waits(t, a)
	}
	t.Logf("of %d requests the API server admitted %d", sent, len(all))
	if len(all) < 100 {
		t.Errorf("the API server admitted only %d CSRs: does the operator see them?", len(all))
	}
	for _, a := range denials {
		env.Eventually(t, a.Name, func() error { return outcome(t, a) })
		explainsDenial(t, a)
	}
	withoutCertificate(t, denials)
	// The good CSR of the same node is approved, so the others did not wait for another reason.
	good := attack{Case: adversarial.Case{Name: "good"}, node: waiting}
	if !submitServing(t, &good, key) {
		t.Fatal("the API server refuses the good request")
	}
	cluster.WaitCertificate(t, good.request)
	explainsApproval(t, good.request.Name, csr.ReasonKubeletServing)
}

// submitServing sends a case's CSR with a certificate of its node.
func submitServing(t *testing.T, a *attack, key crypto.Signer) bool {
	t.Helper()
	cfg, err := cluster.ConfigFor("system:node:"+a.node, "system:nodes")
	env.Must(t, err)
	spec := adversarial.GoodServing(a.node, key, []string{a.node, a.node + ".example.com"}, []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")})
	return submit(t, cfg, a, spec, key)
}

// waits waits until the condition reports why a CSR is not approved, checks that it is undecided, and deletes it.
func waits(t *testing.T, a attack) {
	t.Helper()
	condition := func(want func(*metav1.Condition) bool) {
		env.Eventually(t, a.Name, func() error {
			var nb v1alpha1.NodeBootstrap
			cluster.Get(t, "", a.node, &nb)
			c := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionServingCertificateApproved)
			if c == nil || !want(c) {
				return fmt.Errorf("the condition is %+v, want %s", c, a.Reason)
			}
			return nil
		})
	}
	condition(func(c *metav1.Condition) bool {
		return c.Status == metav1.ConditionFalse && c.Reason == a.Reason
	})
	cluster.Get(t, "", a.request.Name, a.request)
	if len(a.request.Status.Conditions) > 0 || len(a.request.Status.Certificate) > 0 {
		t.Errorf("%s (%s): the request is decided: %+v", a.Name, a.Why, a.request.Status)
	}
	explainsWait(t, a)
	cluster.Delete(t, a.request)
	condition(func(c *metav1.Condition) bool { return c.Status == metav1.ConditionUnknown })
}
