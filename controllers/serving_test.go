// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// askServing sends a kubelet's CSR for a serving certificate with some addresses, as that node.
func askServing(t *testing.T, node string, addresses ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	kubeconfig, err := cluster.KubeconfigFor("system:node:"+node, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}}
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, a)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return send(t, kubeconfig, certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: certificatesv1.KubeletServingSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	})
}

// declare creates a NodeBootstrap that declares addresses.
func declare(t *testing.T, name string, addresses ...string) *v1alpha1.NodeBootstrap {
	t.Helper()
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ServingCertificate.Addresses = addresses
	cluster.Create(t, nb)
	cluster.WaitAwaited(t, name)
	return nb
}

// waitServing waits until the condition of the serving certificate has a reason.
func waitServing(t *testing.T, name string, status metav1.ConditionStatus, reason string) {
	t.Helper()
	env.Eventually(t, "the condition of the serving certificate", func() error {
		if c := waitCond(t, name, v1alpha1.ConditionServingCertificateApproved, status); c.Reason != reason {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// apiServerIP returns the IP of the Service kubernetes.
func apiServerIP(t *testing.T) string {
	t.Helper()
	var service corev1.Service
	cluster.Get(t, metav1.NamespaceDefault, "kubernetes", &service)
	return service.Spec.ClusterIP
}

func TestServingCertificateIsApproved(t *testing.T) {
	const name = "serves"
	declare(t, name, name, "192.0.2.7", "2001:0DB8::7", "198.51.100.0/24")
	waitServing(t, name, metav1.ConditionUnknown, v1alpha1.ReasonAwaitingRequest)
	c := waitCondition(t, askServing(t, name, name, "192.0.2.7", "2001:db8::7", "198.51.100.200"), certificatesv1.CertificateApproved)
	if c.Reason != csr.ReasonKubeletServing {
		t.Errorf("it is approved with %s: %s", c.Reason, c.Message)
	}
	waitServing(t, name, metav1.ConditionTrue, csr.ReasonKubeletServing)
	var nb v1alpha1.NodeBootstrap
	cluster.Get(t, "", name, &nb)
	if len(nb.Status.Certificates) != 1 {
		t.Fatalf("status.certificates is %+v", nb.Status.Certificates)
	}
	if d := nb.Status.Certificates[0]; d.SignerName != certificatesv1.KubeletServingSignerName || d.Verdict != v1alpha1.VerdictApproved ||
		d.TokenID != "" || d.KeyFingerprint == "" || d.Reason != csr.ReasonKubeletServing {
		t.Errorf("status.certificates is %+v", d)
	}
}

// A CSR that cannot be approved now waits, and is approved when that changes.
func TestServingCertificateWaits(t *testing.T) {
	const name = "serves-later"
	nb := declare(t, name, name)
	request := askServing(t, name, name, "192.0.2.9")
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonAddressNotDeclared)
	env.Eventually(t, "the event", func() error {
		if got := eventsOf(t, name); !slices.Contains(got, csr.ReasonAddressNotDeclared) {
			return fmt.Errorf("the events are %v", got)
		}
		return nil
	})
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Spec.ServingCertificate.Addresses = append(nb.Spec.ServingCertificate.Addresses, "192.0.2.9")
	})
	waitCondition(t, request, certificatesv1.CertificateApproved)
	waitServing(t, name, metav1.ConditionTrue, csr.ReasonKubeletServing)
}

// Whatever is declared, no node gets a serving certificate for the control plane or for another node.
func TestServingCertificateOfSomebodyElse(t *testing.T) {
	const name, other = "serves-wrongly", "serves-elsewhere"
	declare(t, other, "shared.example.com", "203.0.113.8/32", "198.18.0.0/15")
	api := apiServerIP(t)
	declare(t, name, name, "kubernetes.default.svc", api, "127.0.0.1", "shared.example.com", "203.0.113.8", "203.0.113.0/24", other, "198.18.0.1")
	for what, reason := range map[string]string{
		"kubernetes.default.svc": csr.ReasonAddressReserved,
		api:                      csr.ReasonAddressReserved,
		"127.0.0.1":              csr.ReasonAddressReserved,
		"shared.example.com":     csr.ReasonAddressDeclaredElsewhere,
		"203.0.113.8":            csr.ReasonAddressDeclaredElsewhere,
		other:                    csr.ReasonAddressDeclaredElsewhere,
	} {
		t.Run(what, func(t *testing.T) {
			request := askServing(t, name, name, what)
			waitServing(t, name, metav1.ConditionFalse, reason)
			cluster.Get(t, "", request.Name, request)
			if len(request.Status.Conditions) > 0 {
				t.Errorf("it is decided: %+v", request.Status.Conditions)
			}
			cluster.Delete(t, request)
		})
	}
	// An address in the other's CIDR does not belong to it: every node of a subnet can declare the same CIDR.
	waitCondition(t, askServing(t, name, name, "198.18.0.1", "203.0.113.9"), certificatesv1.CertificateApproved)
}

// Without declared addresses, and for nodes without a NodeBootstrap, CSRs are left to people.
func TestServingCertificateIsLeftAlone(t *testing.T) {
	const name = "serves-by-hand"
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.WaitAwaited(t, name)
	declare(t, "serves-besides", "serves-besides")
	requests := []*certificatesv1.CertificateSigningRequest{askServing(t, name, name), askServing(t, "nobody", "serves-besides")}
	waitCondition(t, askServing(t, "serves-besides", "serves-besides"), certificatesv1.CertificateApproved) // after the others were reconciled
	for _, r := range requests {
		cluster.Get(t, "", r.Name, r)
		if len(r.Status.Conditions) > 0 {
			t.Errorf("the CSR of %s is decided: %+v", r.Spec.Username, r.Status.Conditions)
		}
	}
}

// A CSR that no edit can fix is denied.
func TestServingCertificateIsDenied(t *testing.T) {
	const name = "serves-nothing"
	declare(t, name, name)
	if c := waitCondition(t, askServing(t, name), certificatesv1.CertificateDenied); c.Reason != csr.ReasonNoAddress {
		t.Errorf("it is denied with %s: %s", c.Reason, c.Message)
	}
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonNoAddress)
}

// The advice for a name of another node was wrong: it said to remove a name from addresses that did not contain it.
func TestAdviceForTheNameOfAnotherNode(t *testing.T) {
	const name, other = "serves-a-name", "serves-as-itself"
	named := declare(t, other, "unrelated.example.com")
	declare(t, name, name, other)
	request := askServing(t, name, name, other)
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonAddressDeclaredElsewhere)
	message := waitCond(t, name, v1alpha1.ConditionServingCertificateApproved, metav1.ConditionFalse).Message
	for _, want := range []string{"is the name of another NodeBootstrap", "delete that NodeBootstrap", "kubectl certificate approve " + request.Name} {
		if !strings.Contains(message, want) {
			t.Errorf("%q is not in the message: %s", want, message)
		}
	}
	if strings.Contains(message, "remove it from spec") {
		t.Errorf("the advice in the message does not work: %s", message)
	}
	cluster.Delete(t, named) // as the message advises
	poke(t, name)
	waitCondition(t, request, certificatesv1.CertificateApproved)
}

// The advice for an address that another NodeBootstrap declares.
func TestAdviceForADeclaredAddress(t *testing.T) {
	const name, other = "serves-an-address", "serves-the-same"
	declared := declare(t, other, "the-same.example.com")
	declare(t, name, name, "the-same.example.com")
	request := askServing(t, name, name, "the-same.example.com")
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonAddressDeclaredElsewhere)
	if got := waitCond(t, name, v1alpha1.ConditionServingCertificateApproved, metav1.ConditionFalse).Message; !strings.Contains(got, "remove it from spec.servingCertificate.addresses") {
		t.Errorf("the message is %s", got)
	}
	env.Change(t, cluster, declared, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = nil })
	poke(t, name)
	waitCondition(t, request, certificatesv1.CertificateApproved)
}
