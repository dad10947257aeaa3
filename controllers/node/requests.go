// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/drift"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// storeClaim stores the verdicts and the evidence in the status.
func (r *Reconciler) storeClaim(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if f.NodeBootstrap == nil {
		return nil
	}
	stored, err := r.holdKeys(f, p)
	if err != nil {
		return err
	}
	defer stored()
	s := status.Claimed(p, f, r.Clock.Now())
	if s == nil {
		return nil
	}
	if p.Misuse != nil || p.Revokes() { // each CSR is evidence only once, so this is bounded
		err = r.storeStatusNow(ctx, f.NodeBootstrap, s, false)
	} else {
		err = r.storeStatus(ctx, f.NodeBootstrap, s, false)
	}
	if apierrors.IsNotFound(err) { // only what is stored is a claim
		err = apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name, err)
	}
	o.Claimed = err == nil && !p.Revokes()
	return err
}

func (r *Reconciler) approve(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	return r.storeVerdicts(ctx, f, p, o, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Approve && !d.Pinned })
}

// approvePinned comes before all other writes: nothing that is sent with the token, and no failure, may delay the machine.
func (r *Reconciler) approvePinned(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	return r.storeVerdicts(ctx, f, p, o, func(d lifecycle.Decision) bool { return d.Pinned })
}

// storeVerdicts stores some of the decisions on their CSRs. A failure does not stop the other CSRs; the first error is
// returned.
func (r *Reconciler) storeVerdicts(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome, which func(lifecycle.Decision) bool) error {
	var first error
	for _, d := range p.Decisions {
		if !which(d) {
			continue
		}
		if err := r.storeVerdict(ctx, f, o, d); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// storeVerdict stores a decision. An approval is final, so the objects that it depends on are read from the API server first:
// the cache may not show yet that some were deleted.
func (r *Reconciler) storeVerdict(ctx context.Context, f *lifecycle.Facts, o *status.Outcome, d lifecycle.Decision) error {
	if d.Result.Verdict == csr.Approve {
		holds, err := r.stillHolds(ctx, f, o.Claimed, d)
		o.Claimed = false
		if err != nil {
			return err
		}
		if !holds {
			log.FromContext(ctx).Info("not approving a request, since its token or its NodeBootstrap has changed", "request", d.Request.Name)
			o.RequeueBy(r.Clock.Now())
			return nil
		}
	}
	decided, err := r.updateApproval(ctx, d)
	if err == nil && !lifecycle.HasVerdict(decided, d) {
		r.reportInterference(&drift.Interference{
			Object: csrName(d.Request), Difference: drift.Difference{Needed: []string{"status.conditions"}}, ByAdmission: true,
		}, o)
	}
	return err
}

// csrName is the name of a CSR in Limits and messages.
func csrName(r *certificatesv1.CertificateSigningRequest) string {
	return "CertificateSigningRequest " + r.Name
}

// stillHolds reads the objects that an approval depends on from the API server, and reports whether they still allow it. If a
// claim was just stored, its response already shows the current NodeBootstrap.
func (r *Reconciler) stillHolds(ctx context.Context, f *lifecycle.Facts, claimed bool, d lifecycle.Decision) (bool, error) {
	nb := f.NodeBootstrap
	if !claimed {
		var err error
		if nb, err = objects.FindNodeBootstrap(ctx, r.Uncached, f.Name); err != nil || nb == nil {
			return false, err
		}
	}
	if d.Request.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		return r.servingStillHolds(ctx, f.NodeBootstrap, nb, d.Request)
	}
	if d.Pinned {
		return lifecycle.ApprovesPinned(f.NodeBootstrap, nb, d), nil
	}
	secret, err := r.uncachedSecret(ctx, f.Name, token.Namespace, token.SecretName(d.Record.TokenID))
	if err != nil || secret == nil {
		return false, err
	}
	return lifecycle.Supports(f.NodeBootstrap, nb, secret, d, r.Clock.Now()), nil
}

// wholeCSR returns a CSR as it must be sent with a verdict, in the version that was decided on. The API server stores
// metadata and conditions as they are sent, so what the cache leaves out is read first: admission policies may use the labels.
func (r *Reconciler) wholeCSR(ctx context.Context, shown *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
	if !objects.IsPartial(shown) {
		return shown.DeepCopy(), nil
	}
	var list certificatesv1.CertificateSigningRequestList
	if err := objects.ReadByName(ctx, r.Uncached, &list, shown.Name); err != nil {
		return nil, err
	}
	if len(list.Items) != 1 || !objects.SameVersion(&list.Items[0], shown) {
		return nil, objects.ErrBehind(certificatesv1.Resource("certificatesigningrequests"), shown.Name)
	}
	return &list.Items[0], nil
}

// updateApproval sends a verdict with the resourceVersion that the CSR was read at, and returns the stored CSR. The API server
// sets the times of the condition, since its clock also sets the other times of the CSR.
func (r *Reconciler) updateApproval(ctx context.Context, d lifecycle.Decision) (*certificatesv1.CertificateSigningRequest, error) {
	condition, message := certificatesv1.CertificateDenied, status.RecordDenied
	if d.Result.Verdict == csr.Approve {
		condition, message = certificatesv1.CertificateApproved, status.RecordApproved
	}
	request, err := r.wholeCSR(ctx, d.Request)
	if err != nil {
		return nil, err
	}
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: condition, Status: corev1.ConditionTrue, Reason: d.Result.Reason, Message: d.Result.Message,
	})
	if err := r.Client.SubResource("approval").Update(ctx, request); err != nil {
		return nil, fmt.Errorf("storing the verdict %s on the request %s: %w", condition, request.Name, err)
	}
	r.consistency.WroteAt(request, r.Clock.Now())
	if lifecycle.HasVerdict(request, d) {
		log.FromContext(ctx).Info(message, append(csrFields(d.Request), "reason", d.Result.Reason)...)
	}
	return request, nil
}

// deleteCSR deletes a CSR whose token no longer exists. A CSR that waits for a verdict is denied first, and finalizers are
// removed: until its last finalizer is removed, a CSR that is being deleted can still be approved and signed. A CSR whose
// certificate was issued since it was read stays.
func (r *Reconciler) deleteCSR(ctx context.Context, d lifecycle.RequestDeletion) error {
	request := d.Request
	var denial error
	if d.Denial != nil {
		denied, err := r.updateApproval(ctx, *d.Denial)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err):
			return err
		case err != nil: // the deletion goes on
			denial = err
		default:
			request = denied
		}
	}
	deleted := false
	if len(request.Finalizers) > 0 {
		if wait := r.Writes.Wait(csrName(request), r.Clock.Now()); wait > 0 { // another client keeps adding them
			return errors.Join(denial, &writes.HeldError{Object: csrName(request), Wait: wait})
		}
		stripped := request.DeepCopy()
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"finalizers":null}}`, request.UID, request.ResourceVersion)
		if err := r.Client.Patch(ctx, stripped, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			if !apierrors.IsNotFound(err) {
				err = fmt.Errorf("removing the finalizers of the request %s: %w", request.Name, err)
			}
			return errors.Join(denial, client.IgnoreNotFound(err))
		}
		r.Writes.Wrote(csrName(request), writes.Write{Object: csrName(request)}, r.Clock.Now())
		deleted = request.DeletionTimestamp != nil
		request = stripped
	}
	found, err := r.deleteIf(ctx, request, client.Preconditions{UID: &request.UID, ResourceVersion: &request.ResourceVersion})
	if len(request.Finalizers) > 0 { // admission control added them again, so the CSR stays, denied
		return errors.Join(denial, err, &writes.HeldError{Object: csrName(request), Wait: writes.ObjectInterval})
	}
	if deleted || found {
		log.FromContext(ctx).Info(status.RecordDeleted, append(csrFields(request), "reason", d.Reason)...)
	}
	return errors.Join(denial, err)
}
