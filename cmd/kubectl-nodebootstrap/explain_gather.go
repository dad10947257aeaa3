// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// A fact is something that the operator knows about a CSR and that this command may be unable to find out.
type fact string

const (
	factRequester     fact = "who sent the request"
	factNodeBootstrap fact = "the NodeBootstrap"
	factTokenCreated  fact = "when the token was created"
	factTokenExpires  fact = "when the token expires"
	factRequests      fact = "the other requests"
	factOthers        fact = "the other NodeBootstraps"
	factNode          fact = "the Node"
	factReserved      fact = "the addresses of the API server"
)

// factsOfChecks are the facts that checks of internal/csr need in addition to the CSR.
var factsOfChecks = map[string][]fact{
	"sentWithToken":         {factRequester, factNodeBootstrap},
	"sentAfterTokenWasMade": {factTokenCreated},
	"sentWithLiveToken":     {factTokenExpires},
	"hasNoOtherIdentity":    {factRequester},
	"hasTokensSubject":      {factNodeBootstrap},
	"hasPinnedKey":          {factNodeBootstrap},
	"hasClaimedKey":         {factNodeBootstrap, factRequests, factNode},
	"hasKeyOfNoOtherNode":   {factOthers},
	"sentByNode":            {factRequester},
	"addressesAreDeclared":  {factNodeBootstrap},
	"hasRequestersSubject":  {factRequester},
	"namesNothingReserved":  {factReserved},
	"namesNothingOfOthers":  {factOthers},
	"namesWhatIsDeclared":   {factNodeBootstrap},
}

// situation is a CSR with the facts that the operator decides on, as far as they could be found out.
type situation struct {
	request *certificatesv1.CertificateSigningRequest
	// sent is the CSR as it was read.
	sent   *certificatesv1.CertificateSigningRequest
	all    []v1alpha1.NodeBootstrap
	others []*certificatesv1.CertificateSigningRequest
	// facts is nil if the operator does not decide this CSR.
	facts *lifecycle.Facts
	// offline reports that the facts are from a file.
	offline bool
	// unknown says why a fact is not known.
	unknown map[fact]string
	now     time.Time
}

func newSituation(r *certificatesv1.CertificateSigningRequest, now time.Time) *situation {
	return &situation{request: r, sent: r, unknown: map[fact]string{}, now: now}
}

// missing notes that facts are unknown if that is why a read failed; otherwise it returns the error.
func (s *situation) missing(err error, verb, what string, facts ...fact) error {
	if err == nil || apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil
	}
	if !apierrors.IsForbidden(err) {
		return fmt.Errorf("cannot %s %s: %w", verb, what, err)
	}
	for _, f := range facts {
		s.unknown[f] = fmt.Sprintf("this requires permission to %s %s", verb, what)
	}
	return nil
}

// gather reads the facts from a cluster, as controllers/node does, with the permissions of the user.
func (s *situation) gather(ctx context.Context, c client.Reader) error {
	var all v1alpha1.NodeBootstrapList
	err := s.missing(c.List(ctx, &all), "list", "nodebootstraps.nodebootstrap.io", factNodeBootstrap, factOthers)
	if err != nil {
		return err
	}
	s.all = all.Items
	var requests certificatesv1.CertificateSigningRequestList
	if err := s.missing(c.List(ctx, &requests), "list", "certificatesigningrequests.certificates.k8s.io", factRequests); err != nil {
		return err
	}
	for i := range requests.Items {
		if r := &requests.Items[i]; r.UID != s.request.UID {
			s.others = append(s.others, r)
		}
	}
	nb, name, err := s.find(ctx, c)
	if err != nil || name == "" {
		return err
	}
	if _, unknown := s.unknown[factNodeBootstrap]; unknown {
		s.assume()
		return nil
	}
	s.facts = &lifecycle.Facts{Name: name}
	if nb == nil { // of a deleted NodeBootstrap
		s.addRequests()
		return nil
	}
	s.facts.NodeBootstrap = nb.DeepCopy()
	s.addReported()
	if err := s.addTokens(ctx, c); err != nil {
		return err
	}
	s.addRequests()
	if err := s.addNode(ctx, c); err != nil {
		return err
	}
	return s.addReserved(ctx, c)
}

// find returns the NodeBootstrap that a CSR concerns, which can be nil, and its name; no name if the operator does not decide the CSR.
func (s *situation) find(ctx context.Context, c client.Reader) (*v1alpha1.NodeBootstrap, string, error) {
	id := token.IDOfUser(s.request.Spec.Username)
	_, unlisted := s.unknown[factNodeBootstrap]
	switch {
	case id == "" && lifecycle.ServingNode(s.request) == "":
		return nil, "", nil
	case id == "":
		name := lifecycle.ServingNode(s.request)
		if nb := s.named(name); nb != nil && len(nb.Spec.ServingCertificate.Addresses) > 0 || unlisted {
			return nb, name, nil
		}
		return nil, "", nil
	}
	if nb := s.ownerOf(id); nb != nil {
		return nb, nb.Name, nil
	}
	if !slices.Contains(s.request.Spec.Groups, token.Group) {
		return nil, "", nil
	}
	if unlisted {
		return nil, csr.RequestedNode(s.request), nil
	}
	secret, err := s.tokenMetadata(ctx, c, id)
	if err != nil || secret != nil && owned.NodeOf(secret) == "" { // in the operator's group, and nobody's
		return nil, "", err
	}
	if secret != nil {
		return s.named(owned.NodeOf(secret)), owned.NodeOf(secret), nil
	}
	name := lifecycle.RequestedNode(s.request)
	return s.named(name), name, nil
}

func (s *situation) named(name string) *v1alpha1.NodeBootstrap {
	for i := range s.all {
		if s.all[i].Name == name && s.all[i].DeletionTimestamp == nil {
			return &s.all[i]
		}
	}
	return nil
}

// ownerOf returns the NodeBootstrap whose token has or had an id; nil for none.
func (s *situation) ownerOf(id string) *v1alpha1.NodeBootstrap {
	for i := range s.all {
		nb := &s.all[i]
		known := (&lifecycle.Facts{NodeBootstrap: nb}).KnownTokenIDs()
		if nb.DeletionTimestamp == nil && (known.Has(id) || token.Gave(nb, id)) {
			return nb
		}
	}
	return nil
}

// addReported adds what only the operator knows, from the conditions in which it reports that.
func (s *situation) addReported() {
	ready := meta.FindStatusCondition(s.facts.NodeBootstrap.Status.Conditions, v1alpha1.ConditionReady)
	s.facts.Cluster.Server = "reported"
	if ready == nil {
		return
	}
	s.facts.ClusterWideForbidden = ready.Reason == v1alpha1.ReasonClusterWideNotAllowed
	if slices.Contains([]string{v1alpha1.ReasonServerUnknown, v1alpha1.ReasonServerInvalid, v1alpha1.ReasonCAUnknown}, ready.Reason) {
		s.facts.Cluster.Server = ""
		s.facts.ClusterProblem = &problem.Problem{Reason: ready.Reason, Message: ready.Message}
	}
}

// addTokens adds the Secrets of the node's tokens, without their secret parts: only the metadata is read.
func (s *situation) addTokens(ctx context.Context, c client.Reader) error {
	ids := s.facts.KnownTokenIDs()
	if id := token.IDOfUser(s.request.Spec.Username); id != "" {
		ids.Insert(id)
	}
	for _, id := range ids.UnsortedList() {
		found, err := s.tokenMetadata(ctx, c, id)
		if err != nil {
			return err
		}
		_, unreadable := s.unknown[factTokenCreated]
		if found == nil && (!unreadable || !namesToken(&s.facts.NodeBootstrap.Status, id)) {
			continue
		}
		s.facts.TokenSecrets = append(s.facts.TokenSecrets, s.tokenSecret(id, found))
	}
	s.facts.UpgradeStatus()
	return nil
}

func namesToken(status *v1alpha1.NodeBootstrapStatus, id string) bool {
	return decisions.LiveToken(status, id) != nil || status.Token != nil && status.Token.ID == id
}

// tokenMetadata reads the metadata of a token's Secret; nil if it does not exist or must not be read.
func (s *situation) tokenMetadata(ctx context.Context, c client.Reader, id string) (*metav1.PartialObjectMetadata, error) {
	secret := &metav1.PartialObjectMetadata{}
	secret.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := c.Get(ctx, client.ObjectKey{Namespace: token.Namespace, Name: token.SecretName(id)}, secret)
	if err != nil {
		return nil, s.missing(err, "get", "secrets in the namespace "+token.Namespace, factTokenCreated)
	}
	return secret, nil
}

// noSecret has the form of a token's secret part, which this command does not read.
const noSecret = "0000000000000000"

// tokenSecret returns the Secret of a token as the status and its metadata, which can be nil, show it.
func (s *situation) tokenSecret(id string, found *metav1.PartialObjectMetadata) *corev1.Secret {
	nb := s.facts.NodeBootstrap
	expires := s.now.Add(nb.Spec.TokenTTL())
	switch reported := nb.Status.Token; {
	case reported != nil && reported.ID == id:
		expires = reported.ExpirationTime.Time
	case id == token.IDOfUser(s.request.Spec.Username):
		s.unknown[factTokenExpires] = "the status shows that only for the current token"
	}
	secret := token.NewSecret(nb, id, noSecret, expires)
	secret.Annotations[v1alpha1.ReissueRequestedAtAnnotation] = token.NormalReissue(nb.Status.LastHandledReissueAt)
	if found != nil {
		secret.CreationTimestamp, secret.DeletionTimestamp = found.CreationTimestamp, found.DeletionTimestamp
		secret.OwnerReferences, secret.Labels, secret.Annotations = found.OwnerReferences, found.Labels, found.Annotations
	}
	return secret
}

// addRequests adds the CSRs that concern the node, and what other NodeBootstraps say about their keys and addresses.
func (s *situation) addRequests() {
	f, ids := s.facts, s.facts.KnownTokenIDs()
	s.request = neededOf(s.request)
	for _, r := range append([]*certificatesv1.CertificateSigningRequest{s.request}, s.others...) {
		r = neededOf(r)
		switch {
		case lifecycle.ServingNode(r) == f.Name:
			f.ServingRequests = append(f.ServingRequests, r)
		case r.UID == s.request.UID || ids.Has(token.IDOfUser(r.Spec.Username)):
			f.Requests = append(f.Requests, r)
		}
	}
	if f.NodeBootstrap == nil {
		return
	}
	f.PinnedElsewhere = lifecycle.PinnedElsewhere(f.NodeBootstrap, s.all)
	f.KeysElsewhere, f.DeclaredElsewhere = map[string]string{}, map[string]string{}
	keys := lifecycle.KeysToDecide(f.Requests)
	if key, err := csr.Fingerprint(s.request); err == nil {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if other := lifecycle.KeyElsewhere(f.NodeBootstrap, s.all, key); other != "" {
			f.KeysElsewhere[key] = other
		}
	}
	for _, a := range csr.RequestedAddresses(s.request) {
		s.addDeclaredElsewhere(a.Key())
	}
}

// neededOf is a CSR as the operator's cache keeps it.
func neededOf(r *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	r = r.DeepCopy()
	csr.KeepNeeded(&r.Spec, token.Group, token.ClusterWideGroup)
	return r
}

func (s *situation) addDeclaredElsewhere(address string) {
	var names []string
	for i := range s.all {
		nb := &s.all[i]
		if nb.Name != s.facts.Name && slices.Contains(csr.DeclaredAddresses(nb.Spec.ServingCertificate.Addresses), address) {
			names = append(names, nb.Name)
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		s.facts.DeclaredElsewhere[address] = names[len(names)-1]
	}
	if address != s.facts.Name && s.named(address) != nil {
		s.facts.DeclaredElsewhere[address] = address
	}
}

// addNode adds the Node and its Lease.
func (s *situation) addNode(ctx context.Context, c client.Reader) error {
	var node corev1.Node
	err := c.Get(ctx, client.ObjectKey{Name: s.facts.Name}, &node)
	if err != nil {
		return s.missing(err, "get", "nodes", factNode)
	}
	s.facts.Node = &metav1.PartialObjectMetadata{ObjectMeta: node.ObjectMeta}
	s.facts.NodeReported = node.Status.NodeInfo.KubeletVersion != ""
	if !s.facts.NeedsLive() {
		return nil
	}
	var lease coordinationv1.Lease
	if err := c.Get(ctx, client.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: s.facts.Name}, &lease); err != nil {
		return s.missing(err, "get", "leases in the namespace "+corev1.NamespaceNodeLease, factNode)
	}
	s.facts.LeaseRenewed = lifecycle.LeaseRenewed(&lease)
	return nil
}

// addReserved adds the hosts at which the API server is reached. The operator's flags and the API server's certificate are not among them.
func (s *situation) addReserved(ctx context.Context, c client.Reader) error {
	if len(s.facts.ServingRequests) == 0 {
		return nil
	}
	var service corev1.Service
	var slice discoveryv1.EndpointSlice
	var info corev1.ConfigMap
	for _, o := range []struct {
		key    client.ObjectKey
		object client.Object
		what   string
	}{
		{client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: kubeconfig.APIServerService}, &service, "services"},
		{client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: kubeconfig.APIServerService}, &slice, "endpointslices.discovery.k8s.io"},
		{client.ObjectKey{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo}, &info, "configmaps"},
	} {
		what := o.what + " in the namespace " + o.key.Namespace
		if err := s.missing(c.Get(ctx, o.key, o.object), "get", what, factReserved); err != nil {
			return err
		}
	}
	reserve := func(more ...csr.Reservation) { s.facts.ReservedAddresses = append(s.facts.ReservedAddresses, more...) }
	reserve(kubeconfig.ReservedBySources(kubeconfig.Sources{ClusterInfo: info.Data[bootstrapapi.KubeConfigKey]})...)
	own := s.facts.NodeBootstrap
	ordered := slices.SortedFunc(slices.Values(s.all), func(a, b v1alpha1.NodeBootstrap) int {
		return strings.Compare(a.Name, b.Name)
	})
	for _, nb := range append([]v1alpha1.NodeBootstrap{*own}, ordered...) {
		for _, host := range kubeconfig.ServerHosts(&nb) {
			reserve(kubeconfig.ReservedByNodeBootstrap(host, nb.Name))
		}
	}
	reserve(kubeconfig.ReservedByService(&service, &slice)...)
	return nil
}
