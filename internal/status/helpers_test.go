// SPDX-License-Identifier: Apache-2.0

package status_test

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

func readyMessage(s *v1alpha1.NodeBootstrapStatus) string {
	return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady).Message
}

// reportOf is the status after a plan was carried out without errors.
func reportOf(f *lifecycle.Facts) *v1alpha1.NodeBootstrapStatus {
	p := nodetest.Decide(f, nodetest.Now)
	o := status.Outcome{Token: p.Token, Published: p.Token != nil, Acceptance: status.Accepted, Revoked: true}
	return status.Report(f, &p, &o, nodetest.Now)
}

// blank is a CSR for a serving certificate without content, which is quick to create.
func blank(name string) *certificatesv1.CertificateSigningRequest {
	r := &certificatesv1.CertificateSigningRequest{}
	r.Name, r.UID, r.Spec.SignerName = name, types.UID(name), certificatesv1.KubeletServingSignerName
	return r
}
