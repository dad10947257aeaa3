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

// claim writes down the verdicts and the evidence in the status.
func (r *Reconciler) claim(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if f.NodeBootstrap == nil {
		return nil
	}
	stored, err := r.claimKeys(f, p)
	if err != nil {
		return err
	}
	defer stored()
	s := status.Claimed(p, f, r.Clock.Now())
	if s == nil {
		return nil
	}
	if p.Misuse != nil || p.Revokes() { // each request is evidence once, so that this is bounded
		err = r.storeStatusNow(ctx, f.NodeBootstrap, s, false)
	} else {
		err = r.storeStatus(ctx, f.NodeBootstrap, s)
	}
	if apierrors.IsNotFound(err) { // only what is stored is a claim
		err = apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name, err)
	}
	o.Claimed = err == nil && !p.Revokes()
	return err
}

func (r *Reconciler) approve(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	return r.decide(ctx, f, p, o, csr.Approve)
}

// decide carries out the decisions of one verdict; the others were only to be written down. The first error is returned: the
// other requests do not wait for that one.
func (r *Reconciler) decide(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome, verdict csr.Verdict) error {
	var first error
	for _, d := range p.Decisions {
		if d.Result.Verdict != verdict {
			continue
		}
		if err := r.decideOne(ctx, f, p, o, d); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// decideOne carries out a decision. An approval is final, so that what it rests on is read from the API server before: the cache may not
// know yet that some of it is gone.
func (r *Reconciler) decideOne(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome, d lifecycle.Decision) error {
	if d.Result.Verdict == csr.Approve {
		holds, err := r.stillHolds(ctx, f, o.Claimed, d)
		o.Claimed = false
		if err != nil {
			return err
		}
		if !holds {
			log.FromContext(ctx).Info("not approving a request, since its token or its NodeBootstrap has changed", "request", d.Request.Name)
			p.RequeueBy(r.Clock.Now())
			return nil
		}
	}
	decided, err := r.carryOut(ctx, d)
	if err == nil && !lifecycle.HasVerdict(decided, d) {
		r.interferes(&drift.Interference{
			Object: requestName(d.Request), Difference: drift.Difference{Needed: []string{"status.conditions"}}, ByAdmission: true,
		}, p, o)
	}
	return err
}

// requestName is what Limits and messages call a request.
func requestName(r *certificatesv1.CertificateSigningRequest) string {
	return "CertificateSigningRequest " + r.Name
}

// stillHolds reads what an approval rests on from the API server. The answer to a claim that was just stored shows the NodeBootstrap.
func (r *Reconciler) stillHolds(ctx context.Context, f *lifecycle.Facts, claimed bool, d lifecycle.Decision) (bool, error) {
	nb := f.NodeBootstrap
	if !claimed {
		var err error
		if nb, err = r.nodeBootstrap(ctx, r.Uncached, f.Name); err != nil || nb == nil {
			return false, err
		}
	}
	if d.Request.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		return r.servingHolds(ctx, f.NodeBootstrap, nb, d.Request)
	}
	secret, err := r.liveSecret(ctx, f.Name, token.Namespace, token.SecretName(d.Record.TokenID))
	if err != nil || secret == nil {
		return false, err
	}
	return lifecycle.Supports(f.NodeBootstrap, nb, secret, d, r.Clock.Now()), nil
}

// wholeRequest is a request as it has to be sent with a verdict, in the version that was decided on. The API server takes metadata
// and conditions as they are sent, so that what the cache leaves out is read before: admission policies may go by their labels.
func (r *Reconciler) wholeRequest(ctx context.Context, shown *certificatesv1.CertificateSigningRequest) (*certificatesv1.CertificateSigningRequest, error) {
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

// carryOut sends a verdict under the resourceVersion that the request was read at, and returns the request as it is stored. The
// times of the condition are left to the API server, whose clock everything else about the request is stamped by.
func (r *Reconciler) carryOut(ctx context.Context, d lifecycle.Decision) (*certificatesv1.CertificateSigningRequest, error) {
	condition := certificatesv1.CertificateDenied
	if d.Result.Verdict == csr.Approve {
		condition = certificatesv1.CertificateApproved
	}
	request, err := r.wholeRequest(ctx, d.Request)
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
		noteVerdict(ctx, d)
	}
	return request, nil
}

// deleteRequest deletes a request whose token is no more. One that waits for a verdict is denied before, and finalizers are removed:
// a request that is being deleted can still be approved and signed until its last finalizer is gone. One that has got its
// certificate since it was read is history, and stays.
func (r *Reconciler) deleteRequest(ctx context.Context, p *lifecycle.Plan, request *certificatesv1.CertificateSigningRequest) error {
	var denial error
	why := status.WhyDeleted(p, request)
	if d := p.DenyBeforeDeletion(request); d != nil {
		denied, err := r.carryOut(ctx, *d)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err):
			return err
		case err != nil: // the deletion does not wait for it
			denial = err
		default:
			request = denied
		}
	}
	deleted := false
	if len(request.Finalizers) > 0 {
		if wait := r.Writes.Wait(requestName(request), r.Clock.Now()); wait > 0 { // another client adds them again and again
			return errors.Join(denial, &writes.HeldError{Object: requestName(request), Wait: wait})
		}
		stripped := request.DeepCopy()
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q,"finalizers":null}}`, request.UID, request.ResourceVersion)
		if err := r.Client.Patch(ctx, stripped, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			if !apierrors.IsNotFound(err) {
				err = fmt.Errorf("removing the finalizers of the request %s: %w", request.Name, err)
			}
			return errors.Join(denial, client.IgnoreNotFound(err))
		}
		r.Writes.Wrote(requestName(request), writes.Write{Object: requestName(request)}, r.Clock.Now())
		deleted = request.DeletionTimestamp != nil
		request = stripped
	}
	found, err := r.deleteIf(ctx, request, client.Preconditions{UID: &request.UID, ResourceVersion: &request.ResourceVersion})
	if len(request.Finalizers) > 0 { // admission control has added them again, so that it stays, denied
		return errors.Join(denial, err, &writes.HeldError{Object: requestName(request), Wait: writes.ObjectInterval})
	}
	if deleted || found {
		noteDeleted(ctx, request, why)
	}
	return errors.Join(denial, err)
}
