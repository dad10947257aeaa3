// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// The types of status.conditions.
const (
	// ConditionReady is True when the one rule holds: a node that is waited for has one live credential, a joined one none.
	ConditionReady = "Ready"
	// ConditionCredentialsAvailable is True when the token and the kubeconfig are live and agree.
	ConditionCredentialsAvailable = "CredentialsAvailable"
	// ConditionJoined is True when the node has used a certificate of its own.
	ConditionJoined = "Joined"
	// ConditionApprovalEnforced is True when nothing else in the cluster would approve what the node's token asks for, whatever
	// the name. It is there while there is a token.
	ConditionApprovalEnforced = "ApprovalEnforced"
	// ConditionTokenMisused is True, and present, when a token of the node was used for something else than this node: evidence
	// that somebody has it who should not. It stays until a reissue.
	ConditionTokenMisused = "TokenMisused"
	// ConditionKeyConflict is True, and present, when CertificateSigningRequests with different keys were sent with one token:
	// the kubelet was restarted before it had its certificate, or two machines have the token. It stays until a reissue.
	ConditionKeyConflict = "KeyConflict"
	// ConditionCertificateNotRevoked is True, and present, while a client certificate is valid whose token was revoked before
	// the node joined with it, or in place of whose key another one was approved. Kubernetes cannot revoke a certificate.
	ConditionCertificateNotRevoked = "CertificateNotRevoked"
	// ConditionServingCertificateApproved is True when the node's last request for a serving certificate was approved. It is
	// there while spec.servingCertificate.addresses declares any.
	ConditionServingCertificateApproved = "ServingCertificateApproved"
	// ConditionReconciling is True, and present, while the operator is on its way to Ready (kstatus).
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True, and present, when action is required before the operator can go on (kstatus).
	ConditionStalled = "Stalled"
)

// The reasons of a condition Ready that is True: what the node is waiting for.
const (
	// ReasonAwaitingNode surfaces when the credential is published and the node has not joined yet.
	ReasonAwaitingNode = "AwaitingNode"
	// ReasonAwaitingApproval surfaces with approval Manual when the node's request waits for a person to approve it.
	ReasonAwaitingApproval = "AwaitingApproval"
	// ReasonJoined surfaces when the node has joined and its credential is gone.
	ReasonJoined = "Joined"
)

// The reasons for which there is no credential, or none that works. Somebody has to act, unless noted.
const (
	// ReasonServerUnknown surfaces when no API server URL is given and none can be discovered.
	ReasonServerUnknown = "ServerUnknown"
	// ReasonServerInvalid surfaces when the API server URL found is not an https URL that a node can use.
	ReasonServerInvalid = "ServerInvalid"
	// ReasonCAUnknown surfaces when no CA is given and none can be discovered.
	ReasonCAUnknown = "CAUnknown"
	// ReasonCAInvalid surfaces when the CA found is not made of PEM certificates alone.
	ReasonCAInvalid = "CAInvalid"
	// ReasonCAExpired surfaces when all of the CA certificates found have expired.
	ReasonCAExpired = "CAExpired"
	// ReasonCADoesNotVerify surfaces when the operator cannot verify the API server that it talks to with the CA that was
	// discovered. A CA that is set explicitly is not checked.
	ReasonCADoesNotVerify = "CADoesNotVerify"
	// ReasonClusterWideNotAllowed surfaces when spec.clientCertificate.approval is ClusterWide and the manager runs without
	// --allow-cluster-wide-approval.
	ReasonClusterWideNotAllowed = "ClusterWideNotAllowed"
	// ReasonObjectNotOurs surfaces when an object of a name that the operator needs belongs to someone else.
	ReasonObjectNotOurs = "ObjectNotOurs"
	// ReasonAdmissionInterferes surfaces when admission control changes an object that the operator writes so that it is of no use.
	// Nothing is created until a dry run shows that it no longer does.
	ReasonAdmissionInterferes = "AdmissionInterferes"
	// ReasonContested surfaces when another client changes or deletes an object again and again that the operator writes. The operator
	// restores it once a minute.
	ReasonContested = "Contested"
	// ReasonTokensNotAccepted surfaces when the API server does not authenticate a token that was just made.
	ReasonTokensNotAccepted = "TokensNotAccepted"
	// ReasonCertificateNotIssued surfaces when an approved request has had no certificate for a minute.
	ReasonCertificateNotIssued = "CertificateNotIssued"
	// ReasonKeyReplaced surfaces when a request was denied because another key was approved with the token, and nobody uses that one:
	// usually the kubelet was restarted before it received its certificate. It takes a reissue.
	ReasonKeyReplaced = "KeyReplaced"
	// ReasonJoinDeadlineExceeded surfaces when spec.token.joinDeadline has passed and the last token has expired.
	ReasonJoinDeadlineExceeded = "JoinDeadlineExceeded"
	// ReasonTokenMisused surfaces when a token was misused before the node had a certificate approved, so that it was revoked.
	ReasonTokenMisused = "TokenMisused"
	// ReasonBindingsPending surfaces until the shared ClusterRoleBindings are there; nobody has to act.
	ReasonBindingsPending = "BindingsPending"
	// ReasonVerifying surfaces until the API server has confirmed that it accepts a new token, or while the first Lease of a Node
	// that a kubelet has reported as is to come; nobody has to act.
	ReasonVerifying = "Verifying"
	// ReasonForbidden surfaces when the operator's RBAC does not let it read what it has to know.
	ReasonForbidden = "Forbidden"
	// ReasonWriteFailed surfaces when a write failed before the credential was available; it is retried.
	ReasonWriteFailed = "WriteFailed"
)

// The reasons of ApprovalEnforced.
const (
	// ReasonNothingElseApproves surfaces when it is True.
	ReasonNothingElseApproves = "NothingElseApproves"
	// ReasonApprovedByOthers surfaces when the token's user or groups may create certificatesigningrequests/nodeclient.
	ReasonApprovedByOthers = "ApprovedByOthers"
	// ReasonApprovalClusterWide surfaces when spec.clientCertificate.approval says so.
	ReasonApprovalClusterWide = "ApprovalClusterWide"
	// ReasonApproversUnknown surfaces when the API server could not be asked.
	ReasonApproversUnknown = "ApproversUnknown"
)

// Reasons of other conditions. Those of TokenMisused, and of ServingCertificateApproved when it is False, are the reasons of
// decisions on requests (docs/security.md has them all).
const (
	// ReasonAwaitingRequest surfaces on ServingCertificateApproved until the kubelet has asked for a serving certificate.
	ReasonAwaitingRequest = "AwaitingRequest"
	// ReasonPublished surfaces on CredentialsAvailable when the kubeconfig Secret holds the live token.
	ReasonPublished = "Published"
	// ReasonNodeHasCertificate surfaces on Joined when the node has used its own certificate.
	ReasonNodeHasCertificate = "NodeHasCertificate"
	// ReasonReissued surfaces on Joined when a reissue was asked for and the node has not used the new certificate yet.
	ReasonReissued = "Reissued"
)

// The reasons of the conditions KeyConflict, CertificateNotRevoked and Joined that are about a second machine.
const (
	// ReasonSeveralKeys is the reason of KeyConflict.
	ReasonSeveralKeys = "SeveralKeys"
	// ReasonIssuedBeforeRevocation is the reason of CertificateNotRevoked when the request or its token was revoked.
	ReasonIssuedBeforeRevocation = "IssuedBeforeRevocation"
	// ReasonIssuedBeforeReplacement is the reason of CertificateNotRevoked when another key was approved with the same token.
	ReasonIssuedBeforeReplacement = "IssuedBeforeReplacement"
	// ReasonNodeAlive is the reason of Joined when a kubelet worked as the node between the reissue and the approval of the new
	// certificate, so that the Lease does not prove that the new certificate is used.
	ReasonNodeAlive = "NodeAlive"
)

// The reasons of events that no condition carries.
const (
	// ReasonKubeconfigChanged is the warning when the server or the CA changes in a kubeconfig whose token is live.
	ReasonKubeconfigChanged = "KubeconfigChanged"
	// ReasonReissueOutdated is the event when a requested reissue counts as handled: it is older than the NodeBootstrap, which is new
	// to the operator, and a kubelet works as the node.
	ReasonReissueOutdated = "ReissueOutdated"
	// ReasonCertificateApproved is the event when a request of the node was approved, or the operator has decided to approve it.
	ReasonCertificateApproved = "CertificateApproved"
	// ReasonCertificateDenied is the warning when a request of the node, or one that was sent with its token, was denied.
	ReasonCertificateDenied = "CertificateDenied"
	// ReasonRequestIgnored is the warning when more requests were sent with one token than are decided on.
	ReasonRequestIgnored = "RequestIgnored"
	// ReasonCertificateIssued is the event when a certificate was issued to a request sent with the node's token.
	ReasonCertificateIssued = "CertificateIssued"
)
