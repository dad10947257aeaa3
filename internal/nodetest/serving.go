// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"crypto/x509/pkix"
	"net"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	certutil "k8s.io/client-go/util/cert"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
)

// Address is what the node's NodeBootstrap declares in addition to the node's name.
const Address = "192.0.2.7"

// ServingRequest is the CSR for a serving certificate that the node's kubelet sent a while ago, for its name and its address. Its key has
// the name of the CSR up to a slash.
func ServingRequest(name string, age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{}
	r.Name, r.UID, r.CreationTimestamp = name, types.UID(name), Ago(age)
	r.Spec = certificatesv1.CertificateSigningRequestSpec{
		Username:   "system:node:" + NodeName,
		Groups:     []string{"system:nodes", "system:authenticated"},
		SignerName: certificatesv1.KubeletServingSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
	Naming(NodeName, Address)(r)
	for _, e := range edit {
		e(r)
	}
	return r
}

// Naming makes a CSR name these DNS names and IPs.
func Naming(addresses ...string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		var names []string
		var ips []net.IP
		for _, a := range addresses {
			if ip := net.ParseIP(a); ip != nil {
				ips = append(ips, ip)
			} else {
				names = append(names, a)
			}
		}
		keyName, _, _ := strings.Cut(r.Name, "/")
		subject := &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + NodeName}
		r.Spec.Request = Must(certutil.MakeCSR(Key(keyName), subject, names, ips))
	}
}

// Reason sets the reason of the last condition.
func Reason(text string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions[len(r.Status.Conditions)-1].Reason = text
	}
}

// Declares sets the declared addresses; without arguments the node's name and Address.
func Declares(addresses ...string) func(*lifecycle.Facts) {
	if len(addresses) == 0 {
		addresses = []string{NodeName, Address}
	}
	return func(f *lifecycle.Facts) { f.NodeBootstrap.Spec.ServingCertificate.Addresses = addresses }
}

// Serves adds CSRs for serving certificates that the node sent.
func Serves(requests ...*certificatesv1.CertificateSigningRequest) func(*lifecycle.Facts) {
	return func(f *lifecycle.Facts) { f.ServingRequests = requests }
}

// ServingEntry is the log entry of a CSR for a serving certificate.
func ServingEntry(name string, verdict v1alpha1.Verdict, reason string, age time.Duration) v1alpha1.CertificateDecision {
	return v1alpha1.CertificateDecision{
		Name: name, UID: types.UID(name), SignerName: certificatesv1.KubeletServingSignerName, Verdict: verdict, Reason: reason, Time: Ago(age),
	}
}
