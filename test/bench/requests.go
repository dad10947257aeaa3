// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func (s *site) tokens(ctx context.Context) ([]corev1.Secret, error) {
	var list corev1.SecretList
	err := s.Client.List(ctx, &list, client.InNamespace(token.Namespace), client.MatchingLabels{owned.ManagedByLabel: owned.ManagedBy})
	return list.Items, err
}

// approve approves a CSR without checks.
func (s *site) approve(ctx context.Context) approver {
	return func(r *certificatesv1.CertificateSigningRequest) error {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Benchmark", Message: "approved with no checks",
		}}
		return s.Client.SubResource("approval").Update(ctx, r)
	}
}

// claim writes the verdict into the status before it is applied: the least that the operator must write.
func (s *site) claim(ctx context.Context, all map[string]*v1alpha1.NodeBootstrap, then approver) approver {
	return func(r *certificatesv1.CertificateSigningRequest) error {
		nb := all[csr.RequestedNode(r)]
		key, err := csr.Fingerprint(r)
		if err != nil {
			return err
		}
		nb.Status.Certificates = []v1alpha1.CertificateDecision{{
			Name: r.Name, UID: r.UID, SignerName: r.Spec.SignerName, TokenID: nb.Status.Token.ID, KeyFingerprint: key,
			Verdict: v1alpha1.VerdictApproved, Reason: csr.ReasonKubeletClient, Time: metav1.Now(),
		}}
		if err := s.Client.Status().Update(ctx, nb); err != nil {
			return err
		}
		return then(r)
	}
}

// controllerManagerRival is the name of kube-controller-manager's approver, alone and without limits.
const controllerManagerRival = "kube_controller_manager_approve"

// approve measures CSRs that kubelets send with their tokens all at once: without checks, without checks but with a claim,
// with only kube-controller-manager's approver, without limits, and with the operator, whose NodeBootstraps pin the keys or not.
func (b *bench) approve(ctx context.Context) error {
	approver := localcluster.Config{ControllerManagerArgs: map[string]string{
		"controllers": "certificatesigningrequest-approving-controller", "kube-api-qps": "10000", "kube-api-burst": "10000",
	}}
	cfgs := []localcluster.Config{quiet, approver, quiet}
	for range b.builds {
		cfgs = append(cfgs, quiet)
	}
	return onSites(ctx, cfgs, func(sites []*site) error {
		rivals, err := b.rawApprovals(ctx, sites[0])
		if err != nil {
			return err
		}
		if _, err := b.withoutOperator(ctx, sites[1], rbac.BindingNames); err != nil {
			return err
		}
		controllerManager, err := withTokens(ctx, sites[1], nil, controllerManagerRival, leaveIt)
		if err != nil {
			return err
		}
		pinned, err := b.withPinnedKeys(ctx, sites[2])
		if err != nil {
			return err
		}
		rivals = append(rivals, controllerManager, pinned)
		for i, build := range b.builds {
			s := sites[3+i]
			m, err := b.mintOn(ctx, s, build, b.requests)
			if err != nil {
				return err
			}
			operator, err := withTokens(ctx, s, m.running, build.name+"approve", leaveIt)
			if err != nil {
				return err
			}
			rivals = append(rivals, operator)
		}
		return b.compete(ctx, rivals)
	})
}

// withTokens is a rival whose CSRs are sent with all existing tokens, one with each.
func withTokens(ctx context.Context, s *site, m *running, name string, approve approver) (*rival, error) {
	tokens, err := s.tokens(ctx)
	if err != nil {
		return nil, err
	}
	senders, err := tokenSenders(tokens)
	if err != nil {
		return nil, err
	}
	c, err := s.anonymous()
	if err != nil {
		return nil, err
	}
	return &rival{name, s, m, c, senders, approve}, m.restAndPause(ctx)
}

// withPinnedKeys is the operator, where each NodeBootstrap pins the key with which its node's CSRs are sent.
func (b *bench) withPinnedKeys(ctx context.Context, s *site) (*rival, error) {
	m, err := b.mintOn(ctx, s, b.builds[0], b.requests)
	if err != nil {
		return nil, err
	}
	r, err := withTokens(ctx, s, nil, "pinned_approve", leaveIt)
	if err != nil {
		return nil, err
	}
	r.manager = m.running
	err = inParallel(len(r.senders), func(i int) error {
		var request certificatesv1.CertificateSigningRequest
		if err := json.Unmarshal(r.senders[i].body, &request); err != nil {
			return err
		}
		key, err := csr.Fingerprint(&request)
		if err != nil {
			return err
		}
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: csr.RequestedNode(&request)}}
		pin := fmt.Appendf(nil, `{"spec":{"clientCertificate":{"keyFingerprint":%q}}}`, key)
		return s.Client.Patch(ctx, nb, client.RawPatch(types.MergePatchType, pin))
	})
	return r, errors.Join(err, r.manager.restAndPause(ctx))
}

// withoutOperator creates the credentials and the bindings that the operator would.
func (b *bench) withoutOperator(ctx context.Context, s *site, bindings []string) ([]*v1alpha1.NodeBootstrap, error) {
	for _, name := range bindings {
		if err := s.Client.Create(ctx, rbac.Binding(name)); err != nil {
			return nil, err
		}
	}
	all, err := s.createNodeBootstraps(ctx, b.requests, nil)
	if err != nil {
		return nil, err
	}
	return all, inParallel(len(all), func(i int) error {
		c, err := s.newCredential(all[i])
		if err != nil {
			return err
		}
		if len(bindings) == len(rbac.BindingNames) {
			c.token.Data["auth-extra-groups"] = []byte(token.Group + "," + token.ClusterWideGroup)
		}
		return s.store(ctx, all[i], c)
	})
}

// rawApprovals are rivals without checks, and without checks but with a claim.
func (b *bench) rawApprovals(ctx context.Context, s *site) ([]*rival, error) {
	all, err := b.withoutOperator(ctx, s, []string{rbac.BindingCreateCSRs})
	if err != nil {
		return nil, err
	}
	raw, err := withTokens(ctx, s, nil, "raw_approve", s.approve(ctx))
	if err != nil {
		return nil, err
	}
	byName := map[string]*v1alpha1.NodeBootstrap{}
	for _, nb := range all {
		byName[nb.Name] = nb
	}
	claim := *raw
	claim.name, claim.approve = "raw_claim", s.claim(ctx, byName, s.approve(ctx))
	return []*rival{raw, &claim}, nil
}

// serving measures CSRs for serving certificates that the nodes themselves send all at once.
func (b *bench) serving(ctx context.Context) error {
	return onSites(ctx, slices.Repeat([]localcluster.Config{quiet}, 1+len(b.builds)), func(sites []*site) error {
		var rivals []*rival
		for i, s := range sites {
			if err := s.createMembers(ctx, b.requests); err != nil {
				return err
			}
			senders, err := s.nodes(b.requests)
			if err != nil {
				return err
			}
			c, err := rest.HTTPClientFor(s.AdminConfig())
			if err != nil {
				return err
			}
			r := &rival{"raw_serving", s, nil, c, senders, s.approve(ctx)}
			if i > 0 {
				build := b.builds[i-1]
				r.name, r.approve = build.name+"serving", leaveIt
				if r.manager, err = s.start(ctx, build); err != nil {
					return err
				}
				if err := s.untilJoined(ctx, r.manager, b.requests); err != nil {
					return err
				}
			}
			if err := r.manager.restAndPause(ctx); err != nil {
				return err
			}
			rivals = append(rivals, r)
		}
		return b.compete(ctx, rivals)
	})
}
