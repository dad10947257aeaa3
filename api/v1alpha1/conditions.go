// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// The types of status.conditions.
const (
	// ConditionReady is True when the one rule holds: an awaited node has one live credential, a joined node has none.
	ConditionReady = "Ready"
	// ConditionCredentialsAvailable is True when the token is live and the kubeconfig contains it.
	ConditionCredentialsAvailable = "CredentialsAvailable"
	// ConditionJoined is True when the node has used a certificate of its own.
	ConditionJoined = "Joined"
	// ConditionApprovalEnforced is True when nothing else in the cluster would approve the CSRs of the node's token, whatever the name.
	// It exists while the node has a token.
	ConditionApprovalEnforced = "ApprovalEnforced"
	// ConditionTokenMisused is True when a token of the node was used for anything other than this node: evidence that someone else has
	// it. It exists only while it is True, until a reissue.
	ConditionTokenMisused = "TokenMisused"
	// ConditionKeyConflict is True when CSRs with different keys were sent with one token: the kubelet restarted before it had its
	// certificate, or two machines have the token. It exists only while it is True, until a reissue.
	ConditionKeyConflict = "KeyConflict"
	// ConditionCertificateNotRevoked is True while a client certificate is valid whose token was revoked before the node joined with it,
	// or whose key was replaced by another approved key. Kubernetes cannot revoke a certificate. It exists only while it is True.
	ConditionCertificateNotRevoked = "CertificateNotRevoked"
	// ConditionServingCertificateApproved is True when the node's last CSR for a serving certificate was approved. It exists while
	// spec.servingCertificate.addresses is not empty.
	ConditionServingCertificateApproved = "ServingCertificateApproved"
	// ConditionClientCertificateExpiring is True while the kubelet of a joined node does not renew its Lease, and the node's last known client
	// certificate expires within 30 days, or has expired. It exists only while it is True.
	ConditionClientCertificateExpiring = "ClientCertificateExpiring"
	// ConditionReconciling is True while the operator works towards Ready (kstatus). It exists only while it is True.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when action is required before the operator can continue (kstatus). It exists only while it is True.
	ConditionStalled = "Stalled"
)

// Reasons of Ready when it is True.
const (
	// ReasonAwaitingNode is the reason when the credential is published and the node has not joined yet.
	ReasonAwaitingNode = "AwaitingNode"
	// ReasonAwaitingApproval is the reason when the node's CSR waits for a person, with approval Manual.
	ReasonAwaitingApproval = "AwaitingApproval"
	// ReasonJoined is the reason when the node has joined and its credential was deleted.
	ReasonJoined = "Joined"
)

// Reasons why no working credential exists. Action is required, except as noted.
const (
	// ReasonServerUnknown is the reason when no API server URL is configured and none can be discovered.
	ReasonServerUnknown = "ServerUnknown"
	// ReasonServerInvalid is the reason when the API server URL is not an https URL that a node can use.
	ReasonServerInvalid = "ServerInvalid"
	// ReasonCAUnknown is the reason when no CA is configured and none can be discovered.
	ReasonCAUnknown = "CAUnknown"
	// ReasonCAInvalid is the reason when the CA contains anything other than PEM certificates.
	ReasonCAInvalid = "CAInvalid"
	// ReasonCAExpired is the reason when all of the CA certificates have expired.
	ReasonCAExpired = "CAExpired"
	// ReasonCADoesNotVerify is the reason when the discovered CA does not verify the API server that the operator is connected to. A
	// configured CA is not checked.
	ReasonCADoesNotVerify = "CADoesNotVerify"
	// ReasonClusterWideNotAllowed is the reason when spec.clientCertificate.approval is ClusterWide and the manager runs without
	// --allow-cluster-wide-approval.
	ReasonClusterWideNotAllowed = "ClusterWideNotAllowed"
	// ReasonKeyPinnedTwice is the reason when another NodeBootstrap pins the same key: neither gets a certificate.
	ReasonKeyPinnedTwice = "KeyPinnedTwice"
	// ReasonObjectNotOurs is the reason when an object with a name that the operator needs exists and the operator did not create it.
	ReasonObjectNotOurs = "ObjectNotOurs"
	// ReasonAdmissionInterferes is the reason when admission control changes an object that the operator writes so that it does not work.
	// Nothing is created until a dry run shows that the change no longer happens.
	ReasonAdmissionInterferes = "AdmissionInterferes"
	// ReasonContested is the reason when another client repeatedly changes or deletes an object that the operator writes. The operator
	// restores it once a minute.
	ReasonContested = "Contested"
	// ReasonTokensNotAccepted is the reason when the API server does not authenticate a newly created token.
	ReasonTokensNotAccepted = "TokensNotAccepted"
	// ReasonCertificateNotIssued is the reason when an approved CSR has had no certificate for a minute.
	ReasonCertificateNotIssued = "CertificateNotIssued"
	// ReasonKeyReplaced is the reason when a CSR was denied because another key was approved with the token, and the approved key is
	// unused: usually the kubelet restarted before it received its certificate. A reissue is required.
	ReasonKeyReplaced = "KeyReplaced"
	// ReasonJoinDeadlineExceeded is the reason when spec.token.joinDeadline has passed and the last token has expired.
	ReasonJoinDeadlineExceeded = "JoinDeadlineExceeded"
	// ReasonTokenMisused is the reason when a token was misused before a certificate was approved for the node, so that it was revoked.
	ReasonTokenMisused = "TokenMisused"
	// ReasonBindingsPending is the reason until the shared ClusterRoleBindings exist; no action is required.
	ReasonBindingsPending = "BindingsPending"
	// ReasonVerifying is the reason until the API server has confirmed that it accepts a new token, or until the first Lease of a Node in
	// whose status a kubelet has reported; no action is required.
	ReasonVerifying = "Verifying"
	// ReasonForbidden is the reason when RBAC denies the operator a read that it needs.
	ReasonForbidden = "Forbidden"
	// ReasonWriteFailed is the reason when a write failed before the credential was available; it is retried.
	ReasonWriteFailed = "WriteFailed"
)

// Reasons of ApprovalEnforced.
const (
	// ReasonNothingElseApproves is the reason when only this operator approves the CSRs of the token (True).
	ReasonNothingElseApproves = "NothingElseApproves"
	// ReasonApprovedByOthers is the reason when RBAC lets the token's user or groups create certificatesigningrequests/nodeclient.
	ReasonApprovedByOthers = "ApprovedByOthers"
	// ReasonApprovalClusterWide is the reason when spec.clientCertificate.approval is ClusterWide.
	ReasonApprovalClusterWide = "ApprovalClusterWide"
	// ReasonApproversUnknown is the reason when the API server could not be asked.
	ReasonApproversUnknown = "ApproversUnknown"
)

// Reasons of other conditions. TokenMisused, and ServingCertificateApproved when it is False, have the reasons of decisions on CSRs
// (docs/verdicts.md has them all).
const (
	// ReasonAwaitingRequest is the reason of ServingCertificateApproved until the kubelet has sent a CSR for a serving certificate.
	ReasonAwaitingRequest = "AwaitingRequest"
	// ReasonPublished is the reason of CredentialsAvailable when the kubeconfig Secret contains the live token.
	ReasonPublished = "Published"
	// ReasonNodeHasCertificate is the reason of Joined when the node has used its own certificate.
	ReasonNodeHasCertificate = "NodeHasCertificate"
	// ReasonReissued is the reason of Joined when a reissue was requested and the node has not used the new certificate yet. The event of
	// this reason says that the reissue was handled.
	ReasonReissued = "Reissued"
)

// ReasonNodeNotRunning is the reason of ClientCertificateExpiring.
const ReasonNodeNotRunning = "NodeNotRunning"

// Reasons of KeyConflict, CertificateNotRevoked and Joined that are about a second machine.
const (
	// ReasonSeveralKeys is the reason of KeyConflict when CSRs with different keys were sent with one token.
	ReasonSeveralKeys = "SeveralKeys"
	// ReasonIssuedBeforeRevocation is the reason of CertificateNotRevoked when the CSR was denied or its token was revoked.
	ReasonIssuedBeforeRevocation = "IssuedBeforeRevocation"
	// ReasonIssuedBeforeReplacement is the reason of CertificateNotRevoked when another key was approved with the same token.
	ReasonIssuedBeforeReplacement = "IssuedBeforeReplacement"
	// ReasonNodeAlive is the reason of Joined when a kubelet worked as the node between the reissue and the approval of the new
	// certificate, so that the Lease does not prove that the new certificate is used.
	ReasonNodeAlive = "NodeAlive"
)

// Reasons of events that no condition has.
const (
	// ReasonKubeconfigChanged is the warning when the server or the CA changes in a kubeconfig whose token is live.
	ReasonKubeconfigChanged = "KubeconfigChanged"
	// ReasonTokenReplaced is the event when a token replaces one that was deleted, or that expired before it was renewed.
	ReasonTokenReplaced = "TokenReplaced"
	// ReasonNodeDeleted is the event when the Node of a joined node was deleted, so that the machine is awaited again.
	ReasonNodeDeleted = "NodeDeleted"
	// ReasonReissueOutdated is the event when a requested reissue counts as handled: it is older than the NodeBootstrap, whose status was
	// empty, and a kubelet works as the node.
	ReasonReissueOutdated = "ReissueOutdated"
	// ReasonCertificateApproved is the event when a CSR of the node was approved, or the operator has decided to approve it.
	ReasonCertificateApproved = "CertificateApproved"
	// ReasonCertificateDenied is the warning when a CSR of the node, or one that was sent with its token, was denied.
	ReasonCertificateDenied = "CertificateDenied"
	// ReasonRequestIgnored is the warning when more CSRs were sent with one token than the limit of decisions.
	ReasonRequestIgnored = "RequestIgnored"
	// ReasonCertificateIssued is the event when a certificate was issued for a CSR that was sent with the node's token.
	ReasonCertificateIssued = "CertificateIssued"
)
