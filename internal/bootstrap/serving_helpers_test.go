// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"crypto/x509/pkix"
	"net"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/types"
	certutil "k8s.io/client-go/util/cert"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

// testAddress is what the node's NodeBootstrap declares, where it declares anything, besides the node's name.
const testAddress = "192.0.2.7"

// servingRequest is what the node's kubelet sent a while ago for the certificate that it serves with: for its name and its
// address. Its key is named as the request, up to a slash.
func servingRequest(name string, age time.Duration, edit ...func(*certificatesv1.CertificateSigningRequest)) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{}
	r.Name, r.UID, r.CreationTimestamp = name, types.UID(name), ago(age)
	r.Spec = certificatesv1.CertificateSigningRequestSpec{
		Username:   "system:node:" + testNode,
		Groups:     []string{"system:nodes", "system:authenticated"},
		SignerName: certificatesv1.KubeletServingSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
	}
	naming(testNode, testAddress)(r)
	for _, e := range edit {
		e(r)
	}
	return r
}

// naming has a request name these DNS names and IPs.
func naming(addresses ...string) func(*certificatesv1.CertificateSigningRequest) {
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
		subject := &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + testNode}
		r.Spec.Request = must(certutil.MakeCSR(key(keyName), subject, names, ips))
	}
}

// sent has a request sent a while ago.
func sent(age time.Duration) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) { r.CreationTimestamp = ago(age) }
}

// reason sets that of the last condition.
func reason(text string) func(*certificatesv1.CertificateSigningRequest) {
	return func(r *certificatesv1.CertificateSigningRequest) {
		r.Status.Conditions[len(r.Status.Conditions)-1].Reason = text
	}
}

// declares has the NodeBootstrap declare addresses: its name and testAddress when none are given.
func declares(addresses ...string) func(*Facts) {
	if len(addresses) == 0 {
		addresses = []string{testNode, testAddress}
	}
	return func(f *Facts) { f.NodeBootstrap.Spec.ServingCertificate.Addresses = addresses }
}

// serves has the node ask for serving certificates.
func serves(requests ...*certificatesv1.CertificateSigningRequest) func(*Facts) {
	return func(f *Facts) { f.ServingRequests = requests }
}

// servingEntry is what is recorded of a request for a serving certificate.
func servingEntry(name string, verdict v1alpha1.Verdict, reason string, age time.Duration) v1alpha1.CertificateDecision {
	return v1alpha1.CertificateDecision{
		Name: name, UID: types.UID(name), SignerName: certificatesv1.KubeletServingSignerName, Verdict: verdict, Reason: reason, Time: ago(age),
	}
}
