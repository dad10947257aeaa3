// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/decisions"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const (
	nodeUser   = "system:node:"
	nodesGroup = "system:nodes"
	// kubeadmGroup is the group of kubeadm's tokens for nodes (cmd/kubeadm/app/constants).
	kubeadmGroup = "system:bootstrappers:kubeadm:default-node-token"
	// certificateID is the extra data of a user who authenticated with a certificate (k8s.io/apiserver/pkg/authentication/user).
	certificateID = "authentication.kubernetes.io/credential-id"
)

// whose says who sent a CSR that the operator decides.
func (s *situation) whose() string {
	if lifecycle.ServingNode(s.request) != "" {
		return "the kubelet of the node " + clean(s.facts.Name) + ", for a serving certificate"
	}
	id := token.IDOfUser(s.request.Spec.Username)
	switch {
	case s.unknown[factRequester] != "":
		return "nobody yet: the API server sets the requester when the CSR is created"
	case s.unknown[factNodeBootstrap] != "":
		return "the bootstrap token " + id + ", in the operator's group"
	case s.facts.NodeBootstrap == nil || s.ownerOf(id) == nil && s.facts.TokenSecret(token.SecretName(id)) == nil:
		return "the bootstrap token " + id + ", in the operator's group, which no NodeBootstrap has"
	default:
		return fmt.Sprintf("the bootstrap token %s of the NodeBootstrap %s", id, clean(s.facts.Name))
	}
}

// foreign says whose a CSR looks to be that the operator does not decide, and what to do.
func (s *situation) foreign() (whose, toDo string) {
	const (
		kubeadm = "Nothing, if a machine is joining with kubeadm. kube-controller-manager approves it, whatever the name. See docs/migrating.md for tokens that are good for one node"
		byHand  = "Nothing of the operator's. See who sent it; if it is right: "
	)
	r := s.request
	approve := "kubectl certificate approve " + clean(r.Name)
	groups := r.Spec.Groups
	asNode, isNode := strings.CutPrefix(r.Spec.Username, nodeUser)
	switch {
	case isNode && r.Spec.SignerName == certificatesv1.KubeletServingSignerName:
		if s.named(asNode) == nil {
			return "the kubelet of the node " + clean(asNode) + ", for a serving certificate; no NodeBootstrap has this name",
				"Create a NodeBootstrap that declares the node's addresses (docs/security.md, \"Serving certificates\"), or check the names and approve it: " + approve
		}
		return "the kubelet of the node " + clean(asNode) + ", for a serving certificate; its NodeBootstrap declares no addresses",
			"Declare the node's addresses in spec.servingCertificate.addresses, or check the names and approve it: " + approve
	case isNode && r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && csr.RequestedNode(r) == asNode:
		return "the kubelet of the node " + clean(asNode) + ", which renews its client certificate",
			"Nothing: kube-controller-manager approves renewals, through the ClusterRole selfnodeclient. If it stays Pending, see docs/troubleshooting.md, \"CSRs stay Pending\""
	case isNode:
		return "the node " + clean(asNode) + ", for something else than its own certificates", "Find out what runs on that node. Do not approve it"
	case slices.Contains(groups, token.Group) || slices.Contains(groups, token.ClusterWideGroup):
		return "a bootstrap token in the operator's groups that no NodeBootstrap owns", "Find out who created the token (docs/troubleshooting.md, \"Tokens that no NodeBootstrap owns\"), and delete it"
	case slices.Contains(groups, kubeadmGroup):
		return "a kubelet with a token of kubeadm", kubeadm
	case token.IDOfUser(r.Spec.Username) != "":
		return "another bootstrap token, " + token.IDOfUser(r.Spec.Username) + ", which is not the operator's", byHand + approve
	case slices.Contains(groups, bootstrapapi.BootstrapDefaultGroup) || r.Spec.Username == "kubelet-bootstrap" || slices.Contains(groups, "system:kubelet-bootstrap"):
		return "a kubelet with a static token (kube-apiserver's --token-auth-file)",
			"Give the machine a NodeBootstrap instead (docs/migrating.md): a static token never expires, and is good for any name. For this one: " + byHand + approve
	case strings.HasPrefix(r.Spec.Username, "system:serviceaccount:"):
		return "the ServiceAccount " + clean(strings.TrimPrefix(r.Spec.Username, "system:serviceaccount:")), otherSigner(r, byHand+approve)
	default:
		return person(r), otherSigner(r, byHand+approve)
	}
}

func person(r *certificatesv1.CertificateSigningRequest) string {
	how := ""
	if _, ok := r.Spec.Extra[certificateID]; ok {
		how = ", who used a client certificate"
	}
	switch r.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		return "a person or a program" + how + ", for a client certificate of the API server"
	case certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
		return "a person or a program" + how + ", for a kubelet's certificate"
	default:
		return "a person or a program" + how + ", for another signer: " + clean(r.Spec.SignerName)
	}
}

func otherSigner(r *certificatesv1.CertificateSigningRequest, advice string) string {
	if strings.HasPrefix(r.Spec.SignerName, "kubernetes.io/") {
		return advice
	}
	return "Nothing of the operator's: whoever runs the signer decides"
}

// advice is what to do about a verdict of a NodeBootstrap's CSR.
func advice(reason, node, request string) string {
	node, request = clean(node), clean(request)
	reissue := "kubectl nodebootstrap reissue " + node
	const stock = "Use a stock kubelet. If one runs on the machine, this CSR is not its own: someone else has the kubeconfig, so request a reissue: "
	switch reason {
	case csr.ReasonKubeletClient, csr.ReasonKubeletServing, "":
		return "Nothing"
	case csr.ReasonWrongSubject:
		return "Start the kubelet with --hostname-override=" + node + ", or give the machine a NodeBootstrap of its own. If it was sent with the bootstrap token, that is no longer safe: " + reissue
	case csr.ReasonWrongSigner:
		return "Find out who has the kubeconfig (docs/troubleshooting.md, \"The alarm\"), then: " + reissue
	case csr.ReasonKeyNotPinned:
		return "Compare the machine's key with spec.clientCertificate.keyFingerprint (docs/pinned-keys.md)"
	case csr.ReasonSecondKey:
		return "Compare the keys (docs/troubleshooting.md, \"The alarm\"), then: " + reissue
	case csr.ReasonKeyReplaced, decisions.ReasonTooManyKeys:
		return "See on the machine why the kubelet was restarted: journalctl -u kubelet. Then: " + reissue
	case csr.ReasonSuperseded:
		return "Nothing, if the kubelet was restarted: its newest CSR counts. Otherwise someone else has the certificate (docs/troubleshooting.md, \"The alarm\")"
	case csr.ReasonKeyOfAnotherNode:
		return "If the machine was cloned: stop its kubelet, delete its files in /var/lib/kubelet/pki, and start it again"
	case decisions.ReasonTooManyRequests:
		return "Find out who sends them, or why the kubelet is restarted (docs/troubleshooting.md, \"The alarm\"). For a bootstrap token, then: " + reissue
	case csr.ReasonWrongRequester:
		return "Find out who edited the token's Secret, then restart the kubelet, which sends another CSR"
	case csr.ReasonWrongDuration:
		return "Request at most 366 days, or no duration, as a kubelet does"
	case csr.ReasonUnexpectedAttributes:
		return "If an admission policy changes CSRs, exempt them from it. " + stock + reissue
	case csr.ReasonTooLarge, csr.ReasonMalformed, csr.ReasonBadSignature, csr.ReasonWrongKey, csr.ReasonWrongUsages, csr.ReasonNoAddress:
		return stock + reissue
	case decisions.ReasonTokenRevoked, csr.ReasonTokenExpired, csr.ReasonOlderThanToken:
		return "Nothing about this CSR. If the machine is still to join, bring it the current kubeconfig: kubectl nodebootstrap kubeconfig " + node
	case v1alpha1.ReasonAwaitingApproval, v1alpha1.ReasonSeveralKeys:
		return "Compare the key with the machine's (docs/troubleshooting.md, \"Approving by hand\"), then: kubectl certificate approve " + request
	case lifecycle.ReasonApprovalDelayed, lifecycle.ReasonNotNewest, csr.ReasonNotOurs:
		return "Nothing"
	case v1alpha1.ReasonApprovalClusterWide:
		return "Nothing. With approval Node the operator would check it"
	case v1alpha1.ReasonKeyPinnedTwice:
		return "Correct or remove the fingerprint in all but one of the NodeBootstraps"
	case v1alpha1.ReasonTokenMisused:
		return "See docs/troubleshooting.md, \"The alarm\""
	case csr.ReasonNoAddressesDeclared, csr.ReasonAddressNotDeclared:
		return "If the node may serve as it, declare it: kubectl edit nodebootstrap " + node + ", spec.servingCertificate.addresses"
	case csr.ReasonAddressReserved, csr.ReasonAddressDeclaredElsewhere:
		return "Remove the address from the machine, or, if it is right: kubectl certificate approve " + request
	default:
		return elsewhere(reason, request)
	}
}

// elsewhere is what to do about a decision of someone else.
func elsewhere(reason, request string) string {
	switch reason {
	case "KubectlApprove", "AutoApproved", decisions.ReasonApprovedElsewhere:
		return "If the operator should have decided, see docs/troubleshooting.md, \"Someone else approves\""
	case "KubectlDeny", decisions.ReasonDeniedElsewhere:
		return "Find out who denied it, then restart the kubelet, which sends another CSR"
	default:
		return "See kubectl describe csr " + request + " and docs/troubleshooting.md"
	}
}
