// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/internal/bootstrap"
)

func (l *ledger) seeRequest(c change, name string) {
	r := decode[certificatesv1.CertificateSigningRequest](l, c)
	before := l.requests[name]
	if r == nil {
		delete(l.requests, name)
		if before != nil && ours(before) {
			l.step(c, requestGone, "%s", name)
		}
		return
	}
	l.requests[name] = r
	if !ours(r) {
		return
	}
	id := strings.TrimPrefix(r.Spec.Username, bootstrapapi.BootstrapUserPrefix)
	t := l.tokens[id]
	if t == nil {
		l.violated("the request %s was sent with the token %s, which there never was", name, id)
		return
	}
	switch approved, denied := decided(r, certificatesv1.CertificateApproved), decided(r, certificatesv1.CertificateDenied); {
	case before == nil || before.UID != r.UID:
		l.step(c, requestSent, "%s with %s of %s", name, id, t.node)
	case approved && !decided(before, certificatesv1.CertificateApproved):
		l.step(c, requestApproved, "%s with %s of %s", name, id, t.node)
		l.checkTimely(r, t, c.at)
	case denied && !decided(before, certificatesv1.CertificateDenied):
		l.step(c, requestDenied, "%s with %s of %s", name, id, t.node)
	case len(r.Status.Certificate) > 0 && len(before.Status.Certificate) == 0:
		l.step(c, certificateIssued, "%s with %s of %s", name, id, t.node)
	}
	l.checkApproval(r, t)
}

// checkTimely sees that no request is approved whose token was gone for a while. In the instant between the last look at a
// token and the approval somebody may delete it, which nothing in Kubernetes can prevent.
func (l *ledger) checkTimely(r *certificatesv1.CertificateSigningRequest, t *token, now time.Time) {
	if !t.gone {
		return
	}
	late := now.Sub(t.goneAt)
	l.late++
	l.latest = max(l.latest, late)
	what := fmt.Sprintf("the request %s of %s was approved when its token %v was gone for %s", r.Name, t.node, t, late.Round(time.Millisecond))
	if late > grace+l.leeway.lag() && !l.leeway.overlap() {
		l.violated("%s", what)
	}
	l.note("  %s", what)
}

// ours reports whether a request was sent with a token of the operator's. The API server writes the groups.
func ours(r *certificatesv1.CertificateSigningRequest) bool {
	return slices.Contains(r.Spec.Groups, bootstrap.Group)
}

func decided(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

// checkApproval sees that a request that was approved, or has its certificate, is for the node that its token is bound to,
// and for the only key that the token was ever used for.
func (l *ledger) checkApproval(r *certificatesv1.CertificateSigningRequest, t *token) {
	if !decided(r, certificatesv1.CertificateApproved) && len(r.Status.Certificate) == 0 {
		return
	}
	asked, err := parseRequest(r)
	if err != nil {
		l.violated("the request %s was approved and cannot be read: %v", r.Name, err)
		return
	}
	if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		l.violated("the request %s was approved for the signer %s", r.Name, r.Spec.SignerName)
	}
	if want := "CN=system:node:" + t.node + ",O=system:nodes"; asked.Subject.String() != want {
		l.violated("the request %s, sent with the token %v of %s, was approved for %s", r.Name, t, t.node, asked.Subject)
	}
	key := string(asked.RawSubjectPublicKeyInfo)
	if known := l.keys[t.id]; known != "" && known != key {
		l.violated("the request %s was approved for a second key with the token %v of %s", r.Name, t, t.node)
	}
	l.keys[t.id] = key
	if len(r.Status.Certificate) == 0 {
		return
	}
	if block, _ := pem.Decode(r.Status.Certificate); block == nil {
		l.violated("the certificate of %s cannot be read", r.Name)
	} else if issued, err := x509.ParseCertificate(block.Bytes); err != nil {
		l.violated("the certificate of %s cannot be read: %v", r.Name, err)
	} else if issued.Subject.String() != asked.Subject.String() || string(issued.RawSubjectPublicKeyInfo) != key {
		l.violated("the certificate of %s was issued to %s for another name or key than it asked for", r.Name, issued.Subject)
	}
}

func parseRequest(r *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil {
		return nil, fmt.Errorf("it is no PEM")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
