// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// submit returns the CSR for a request: a new one, or one that was approved for an earlier run of this command.
func (o *signOptions) submit(ctx context.Context, holder client.Client, nb *v1alpha1.NodeBootstrap,
	request *signRequest) (*certificatesv1.CertificateSigningRequest, error) {
	for _, d := range nb.Status.Certificates {
		if d.Verdict != v1alpha1.VerdictApproved || d.KeyFingerprint != request.fingerprint || nb.Status.Token == nil || d.TokenID != nb.Status.Token.ID {
			continue
		}
		var r certificatesv1.CertificateSigningRequest
		if err := holder.Get(ctx, client.ObjectKey{Name: d.Name}, &r); err == nil && bytes.Equal(r.Spec.Request, request.spec.Request) {
			return &r, nil
		}
	}
	r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "sign-"}, Spec: request.spec}
	if err := holder.Create(ctx, r); err != nil {
		return nil, explainToken(err, nb.Name)
	}
	fmt.Fprintf(o.ErrOut, "Sent the request %s.\n", r.Name)
	if nb.Spec.ApprovalMode() == v1alpha1.ApprovalManual {
		fmt.Fprintf(o.ErrOut, "Waiting: a person has to approve it:\n\nkubectl certificate approve %s\n\n", r.Name)
	}
	return r, nil
}

// explainToken adds to an error of a request with the node's token what the user can do.
func explainToken(err error, name string) error {
	if apierrors.IsUnauthorized(err) {
		return fmt.Errorf("the API server does not accept the token of NodeBootstrap %s: it was renewed or revoked in the meantime, "+
			"or this connection leads through a proxy that accepts no bootstrap tokens. Run the command again: %w", name, err)
	}
	return fmt.Errorf("requesting the certificate with the token of NodeBootstrap %s: %w", name, err)
}

// awaitCertificate updates r until it has its certificate.
func (o *signOptions) awaitCertificate(ctx context.Context, holder client.Client, nb *v1alpha1.NodeBootstrap,
	r *certificatesv1.CertificateSigningRequest, deadline time.Time) error {
	timed, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var last error // it can be transient
	err := wait.PollUntilContextCancel(timed, certificateInterval, true, func(ctx context.Context) (bool, error) {
		switch last = holder.Get(ctx, client.ObjectKeyFromObject(r), r); {
		case apierrors.IsNotFound(last):
			return false, fmt.Errorf("the request %s was deleted: run the command again", r.Name)
		case apierrors.IsUnauthorized(last), apierrors.IsForbidden(last):
			return false, explainToken(last, nb.Name)
		case last != nil:
			return false, nil
		}
		return csr.Issued(r), checkVerdict(r)
	})
	switch {
	case !wait.Interrupted(err):
		return err
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case last != nil && !errors.Is(last, context.DeadlineExceeded):
		return fmt.Errorf("gave up after %s: %w", o.wait, last)
	case csr.IsApproved(r):
		return fmt.Errorf("gave up after %s: the request %s is approved and not signed: does kube-controller-manager sign certificates? "+
			"Run the command again", o.wait, r.Name)
	}
	return fmt.Errorf("gave up after %s: the request %s is not approved yet. Run the command again when it is", o.wait, r.Name)
}

// checkVerdict returns why a CSR gets no certificate.
func checkVerdict(r *certificatesv1.CertificateSigningRequest) error {
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if c := csr.Condition(r, t); c != nil {
			return fmt.Errorf("the request %s was %s: %s: %s", r.Name, map[certificatesv1.RequestConditionType]string{
				certificatesv1.CertificateDenied: "denied", certificatesv1.CertificateFailed: "approved, and signing it failed"}[t], c.Reason, c.Message)
		}
	}
	return nil
}
