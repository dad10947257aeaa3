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
	// ConditionReconciling is True, and present, while the operator is on its way to Ready (kstatus).
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True, and present, when somebody has to act before the operator can go on (kstatus).
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
	// ReasonCAExpired surfaces when all of the CA certificates found have run out.
	ReasonCAExpired = "CAExpired"
	// ReasonObjectNotOurs surfaces when an object of a name that the operator needs belongs to somebody else.
	ReasonObjectNotOurs = "ObjectNotOurs"
	// ReasonTokensNotAccepted surfaces when the API server does not authenticate a token that was just made.
	ReasonTokensNotAccepted = "TokensNotAccepted"
	// ReasonCertificateNotIssued surfaces when an approved request has had no certificate for a minute.
	ReasonCertificateNotIssued = "CertificateNotIssued"
	// ReasonJoinDeadlineExceeded surfaces when spec.token.joinDeadline has passed and the last token has run out.
	ReasonJoinDeadlineExceeded = "JoinDeadlineExceeded"
	// ReasonBindingsPending surfaces until the shared ClusterRoleBindings are there; nobody has to act.
	ReasonBindingsPending = "BindingsPending"
	// ReasonVerifying surfaces until the API server has confirmed that it accepts a new token; nobody has to act.
	ReasonVerifying = "Verifying"
	// ReasonWriteFailed surfaces when a write failed before the credential was available; it is retried.
	ReasonWriteFailed = "WriteFailed"
)

// Reasons of other conditions.
const (
	// ReasonPublished surfaces on CredentialsAvailable when the kubeconfig Secret holds the live token.
	ReasonPublished = "Published"
	// ReasonNodeHasCertificate surfaces on Joined when the node has used its own certificate.
	ReasonNodeHasCertificate = "NodeHasCertificate"
	// ReasonReissued surfaces on Joined when a reissue was asked for and the node has not used the new certificate yet.
	ReasonReissued = "Reissued"
)

// The reasons of events that no condition carries.
const (
	// ReasonCertificateApproved is the event when the operator has decided to approve the node's request.
	ReasonCertificateApproved = "CertificateApproved"
	// ReasonCertificateDenied is the warning when the operator has denied a request sent with the node's token.
	ReasonCertificateDenied = "CertificateDenied"
	// ReasonCertificateIssued is the event when a certificate was issued to a request sent with the node's token.
	ReasonCertificateIssued = "CertificateIssued"
)
