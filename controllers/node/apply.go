// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// apply carries out a plan. It is the only code that writes, and stops at the first error. Decisions are stored in the status
// before they are carried out. Revocations come before creations, so that a crash in between leaves less access, never more.
// Approvals come before new credentials: they depend only on the current ones, and the waiting node may be the one that fixes
// the cause of other failed writes.
func (r *Reconciler) apply(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan) *status.Outcome {
	o := &status.Outcome{Token: p.Token, Published: carries(f, p.Token)}
	if i := r.Writes.Interference(writes.StatusOf(f.Name), r.Clock.Now()); i != nil && i.ByAdmission {
		r.reportInterference(i, o)
	}
	for _, step := range []func(context.Context, *lifecycle.Facts, *lifecycle.Plan, *status.Outcome) error{
		r.approvePinned, r.storeClaim, r.revoke, r.approve, r.createToken, r.repair, r.publish, r.verify, r.forgetWrites, r.reportContested,
	} {
		if err := step(ctx, f, p, o); err != nil {
			o.Err = kubeconfig.RedactSecrets(token.RedactError(err, o.Token), append(slices.Clone(f.TokenSecrets), f.Kubeconfig)...)
			break
		}
	}
	return o
}

// carries reports whether the kubeconfig Secret that was read carries a token.
func carries(f *lifecycle.Facts, t *token.Token) bool {
	return t != nil && f.Kubeconfig != nil && owned.Ours(f.Kubeconfig, f.Name) && kubeconfig.Carries(f.Kubeconfig, *t)
}

// revoke denies CSRs, deletes tokens, then the CSRs that were sent with them, then the kubeconfig. Denials come first, so that
// people can read them: a pending CSR whose token was deleted is deleted by the reconcile of the node that it names. A denial
// that cannot be stored does not stop the deletions.
func (r *Reconciler) revoke(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	denied := r.storeVerdicts(ctx, f, p, o, func(d lifecycle.Decision) bool { return d.Result.Verdict == csr.Deny })
	deleted := r.deleteRevoked(ctx, f, p)
	o.Revoked = deleted == nil
	return errors.Join(denied, deleted)
}

// deleteRevoked deletes tokens, CSRs and the kubeconfig that the plan revokes. A failure does not stop the other deletions.
func (r *Reconciler) deleteRevoked(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan) error {
	r.reportOutliving(ctx, f, p)
	var errs []error
	for _, d := range p.DeleteTokens {
		errs = append(errs, token.WithoutAnswer(d.Secret, r.deleteSecret(ctx, d.Secret, d.Reason)))
	}
	for _, d := range p.DeleteRequests {
		err := r.deleteCSR(ctx, d)
		if apierrors.IsConflict(err) && f.NodeBootstrap == nil {
			err = r.reportIssuedMeanwhile(ctx, f, d.Request, err)
		}
		errs = append(errs, err)
	}
	if p.DeleteKubeconfig != nil {
		errs = append(errs, r.deleteSecret(ctx, p.DeleteKubeconfig, ""))
	}
	return errors.Join(errs...)
}

// reportOutliving reports the certificates that outlive a deleted NodeBootstrap, whose status can no longer report them.
func (r *Reconciler) reportOutliving(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan) {
	if f.NodeBootstrap != nil {
		return
	}
	for _, request := range p.Outliving {
		r.reportOutlives(ctx, f.Name, request)
	}
}

// reportIssuedMeanwhile reports the certificate of a CSR that could not be deleted because it was issued since the CSR was read. The next
// reconcile would not know about it: neither the token nor a status is left. If the CSR has no certificate, it returns the conflict.
func (r *Reconciler) reportIssuedMeanwhile(ctx context.Context, f *lifecycle.Facts, shown *certificatesv1.CertificateSigningRequest, conflict error) error {
	var list certificatesv1.CertificateSigningRequestList
	if err := objects.ReadByName(ctx, r.Uncached, &list, shown.Name); err != nil {
		return errors.Join(conflict, err)
	}
	if len(list.Items) != 1 || list.Items[0].UID != shown.UID || !csr.Issued(&list.Items[0]) {
		return conflict
	}
	r.reportOutlives(ctx, f.Name, &list.Items[0])
	return nil
}

func (r *Reconciler) reportOutlives(ctx context.Context, node string, request *certificatesv1.CertificateSigningRequest) {
	log.FromContext(ctx).Info("a certificate outlives its NodeBootstrap and cannot be revoked", "csr", request.Name,
		"tokenID", token.IDOfUser(request.Spec.Username))
	r.Metrics.Outlives()
	r.Recorder.Eventf(request, nil, corev1.EventTypeWarning, v1alpha1.ReasonIssuedBeforeRevocation, "Reported",
		"the NodeBootstrap %s was deleted before its node had joined, and this certificate, which cannot be revoked, authenticates until it expires. "+
			"If its key is not that of your machine, lock the name out: see docs/troubleshooting.md", node)
}

// createToken creates a token, or adopts the one with the same id that an earlier, interrupted reconcile created.
func (r *Reconciler) createToken(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if p.MintReason == "" || o.Problem != nil {
		return nil
	}
	if err := r.ensureCurrent(ctx, f, p); err != nil {
		return err
	}
	random, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return fmt.Errorf("making the secret part of a token: %w", err)
	}
	_, part := random[:6], random[7:] // <id>.<secret>: the id is derived instead
	ids := token.NextIDs(f.NodeBootstrap.UID, p.LastTokenID)
	for _, id := range ids {
		want := token.NewSecret(f.NodeBootstrap, id, part, r.Clock.Now().Add(f.NodeBootstrap.Spec.TokenTTL()))
		s, err := r.createSecret(ctx, f, o, want, p.MintReason)
		if apierrors.IsAlreadyExists(err) {
			s, err = r.adopt(ctx, f, want)
		}
		if err != nil {
			return token.RedactError(fmt.Errorf("creating the token %s: %w", id, err), &token.Token{Secret: token.NewSecretPart(part)})
		}
		if s == nil { // another writer interferes
			return nil
		}
		if t, ok := token.Parse(s); ok && owned.Ours(s, f.Name) && t.Live(r.Clock.Now()) {
			if !f.Trusts(t) { // the cache does not show it yet, otherwise the plan would have deleted it
				if err := r.deleteSecret(ctx, s, v1alpha1.ReasonReissued); err != nil {
					return err
				}
				continue
			}
			o.Token, o.Published = &t, carries(f, &t)
			return nil
		}
	}
	o.RequeueBy(r.Clock.Now().Add(time.Minute)) // Secrets of others in kube-system cause no events
	o.Problem = &problem.Problem{Reason: v1alpha1.ReasonObjectNotOurs, Message: fmt.Sprintf(
		"the Secret %s/%s and others that follow it exist and do not belong to this NodeBootstrap: delete them",
		token.Namespace, token.SecretName(ids[0]))}
	return nil
}

// adopt reads the existing token Secret of a wanted name. If admission control removed its owner or its type when it was
// created, adopt deletes it: it is ours by its id, which is derived from the UID of the NodeBootstrap.
func (r *Reconciler) adopt(ctx context.Context, f *lifecycle.Facts, want *corev1.Secret) (*corev1.Secret, error) {
	s, err := r.uncachedSecret(ctx, f.Name, want.Namespace, want.Name)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, objects.ErrBehind(corev1.Resource("secrets"), want.Name)
	}
	if _, ok := token.Parse(s); token.Stray(s) || owned.Ours(s, f.Name) && !ok {
		return nil, errors.Join(r.deleteSecret(ctx, s, lifecycle.ReasonOwnerRemoved), objects.ErrBehind(corev1.Resource("secrets"), want.Name))
	}
	return s, nil
}

// ensureCurrent returns a conflict if the NodeBootstrap that a new token is created for is not the current one: a stale cache
// may show it as it was before an alarm or without its deletion. The first token needs no uncached read: if its NodeBootstrap
// is already deleted, the reconcile that sees the deletion removes the token, and so does the garbage collector. But its id
// must not be used twice: the cache must show the last status that this process wrote.
func (r *Reconciler) ensureCurrent(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan) error {
	if p.LastTokenID == "" && !r.consistency.IsBehind(f.NodeBootstrap) {
		return nil
	}
	now, err := objects.FindNodeBootstrap(ctx, r.Uncached, f.Name)
	if err != nil {
		return err
	}
	if now == nil || now.UID != f.NodeBootstrap.UID || now.ResourceVersion != f.NodeBootstrap.ResourceVersion {
		return objects.ErrBehind(v1alpha1.GroupVersion.WithResource("nodebootstraps").GroupResource(), f.Name)
	}
	return nil
}

// repair restores token Secrets that someone edited.
func (r *Reconciler) repair(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	for _, want := range p.RepairTokens {
		if _, err := r.restoreSecret(ctx, f, o, f.TokenSecret(want.Name), want, r.updateSecret); err != nil {
			return fmt.Errorf("restoring the Secret %s/%s: %w", want.Namespace, want.Name, err)
		}
	}
	return nil
}

// publish writes the newest token into the kubeconfig Secret. While a problem exists, the Secret stays as it is.
func (r *Reconciler) publish(ctx context.Context, f *lifecycle.Facts, p *lifecycle.Plan, o *status.Outcome) error {
	if o.Token == nil || p.Problem != nil || o.Problem != nil {
		return nil
	}
	want, err := kubeconfig.NewSecret(f.NodeBootstrap, r.Namespace, f.Cluster, *o.Token)
	if err != nil {
		return err
	}
	have := f.Kubeconfig
	if have == nil {
		created, err := r.createSecret(ctx, f, o, want, "")
		if err == nil {
			o.Published = created != nil
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("creating the Secret %s/%s: %w", want.Namespace, want.Name, err)
		}
		if have, err = r.uncachedSecret(ctx, f.Name, want.Namespace, want.Name); err != nil {
			return err
		}
	}
	return r.updateKubeconfig(ctx, f, o, have, want)
}

func (r *Reconciler) updateKubeconfig(ctx context.Context, f *lifecycle.Facts, o *status.Outcome, have, want *corev1.Secret) error {
	switch {
	case have == nil:
		return objects.ErrBehind(corev1.Resource("secrets"), want.Name)
	case !owned.Ours(have, f.Name):
		o.Problem = owned.NotOurs(have)
		return nil
	case kubeconfig.Immovable(have, want):
		if r.heldBack(writesOf(f.Name, want), o) {
			return nil
		}
		if err := r.deleteSecret(ctx, have, ""); err != nil {
			return err
		}
		created, err := r.createSecret(ctx, f, o, want, "")
		if err != nil {
			return fmt.Errorf("creating the Secret %s/%s again: %w", want.Namespace, want.Name, err)
		}
		o.Published = created != nil
		return nil
	}
	restored := kubeconfig.Restored(have, want)
	if restored == nil {
		o.Published = true
		return nil
	}
	published, err := r.restoreSecret(ctx, f, o, have, restored, r.updateLowPriority)
	if err != nil {
		return kubeconfig.RedactSecrets(fmt.Errorf("updating the Secret %s/%s: %w", want.Namespace, want.Name, err), have)
	}
	o.Published = published || o.Published
	return nil
}

// verify asks the API server whether it accepts a token that was not verified yet.
func (r *Reconciler) verify(ctx context.Context, f *lifecycle.Facts, _ *lifecycle.Plan, o *status.Outcome) error {
	if !o.Published || status.Verified(&f.NodeBootstrap.Status, o.Token) {
		return nil
	}
	now := r.Clock.Now()
	var err error
	o.Acceptance, err = r.tokens.review(ctx, r.Client, o.Token, now)
	switch o.Acceptance {
	case status.AcceptanceUnknown:
		o.RequeueBy(now.Add(unknownRetry))
	case status.Rejected:
		o.RequeueBy(now.Add(rejectedRetry))
	case status.Accepted:
	}
	return err
}
