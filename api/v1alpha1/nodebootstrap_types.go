// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// DefaultTokenTTL is the life of a token without spec.token.ttl, the same as kubeadm's default.
const DefaultTokenTTL = 24 * time.Hour

// ReissueRequestedAtAnnotation requests a new credential for a node that already exists, for example for a reinstalled machine or after a
// certificate expired. Each new value is a new request, and is handled once.
const ReissueRequestedAtAnnotation = "nodebootstrap.io/reissue-requested-at"

// NodeBootstrap lets one machine, and only that machine, join the cluster as the node of the same name.
//
// While the node has not joined, exactly one live bootstrap token exists for it, and a Secret with a kubeconfig that contains it. After
// the node has joined, neither exists.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nb
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="What the node is waiting for"
// +kubebuilder:printcolumn:name="Alarm",type=string,JSONPath=`.status.conditions[?(@.type=="TokenMisused")].reason`,description="How a token was misused"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Key",type=string,JSONPath=`.spec.clientCertificate.keyFingerprint`,priority=1,description="The pinned key"
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="ApprovalEnforced")].status`,priority=1,description="False when something else approves requests of the token, whatever the name"
// +kubebuilder:printcolumn:name="Token",type=string,JSONPath=`.status.token.id`,priority=1
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.token.expirationTime`,priority=1,description="When the current token expires"
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.status.server`,priority=1
// +kubebuilder:validation:XValidation:rule="oldSelf.hasValue() || self.metadata.name.size() <= 63",optionalOldSelf=true,message="metadata.name is the node's name and may have 63 characters at most: a kubelet cannot register a longer one, since the label kubernetes.io/hostname holds it. Give the node a shorter name (kubelet --hostname-override)"
type NodeBootstrap struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec says how the node may join. An empty spec works if the cluster's endpoint and CA can be discovered.
	// +optional
	Spec NodeBootstrapSpec `json:"spec,omitzero"`

	// status is the state that the operator last observed or stored.
	// +optional
	Status NodeBootstrapStatus `json:"status,omitzero"`
}

// NodeBootstrapList is a list of NodeBootstraps.
//
// +kubebuilder:object:root=true
type NodeBootstrapList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []NodeBootstrap `json:"items"`
}

// NodeBootstrapSpec is the desired state. Every field has a default.
type NodeBootstrapSpec struct {
	// cluster is how the node reaches the API server.
	// +optional
	Cluster ClusterSpec `json:"cluster,omitzero"`

	// token sets the life of the credential.
	// +optional
	Token TokenSpec `json:"token,omitzero"`

	// clientCertificate sets who approves the node's client certificate.
	// +optional
	ClientCertificate ClientCertificateSpec `json:"clientCertificate,omitzero"`

	// servingCertificate sets the addresses that the kubelet's serving certificate may name.
	// +optional
	ServingCertificate ServingCertificateSpec `json:"servingCertificate,omitzero"`
}

// ClusterSpec is the API server as the node sees it.
type ClusterSpec struct {
	// server is the URL at which the node reaches the API server: a load balancer, usually. Its host is a DNS name
	// without a dot at the end, an IPv4 address, or an IPv6 address in brackets.
	// Defaults to the operator's --cluster-server flag, else to the server in the ConfigMap kube-public/cluster-info.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:reason=FieldValueForbidden,rule="isURL(self) && url(self).getScheme() == 'https' && url(self).getHostname() != '' && !self.contains('@') && !self.contains('?') && !self.contains('#')",message="must be an https URL with a host and without credentials, query or fragment: write for example https://api.example.com:6443"
	// +kubebuilder:validation:XValidation:reason=FieldValueForbidden,rule="!isURL(self) || self.matches('^[^:]*://[^/]*(/[A-Za-z0-9._~%:+,=@?#/-]*)?$') && (self.matches('^[^:]*://[A-Za-z0-9\\\\p{L}\\\\p{M}]([-A-Za-z0-9\\\\p{L}\\\\p{M}]{0,61}[A-Za-z0-9\\\\p{L}\\\\p{M}])?([.][A-Za-z0-9\\\\p{L}\\\\p{M}]([-A-Za-z0-9\\\\p{L}\\\\p{M}]{0,61}[A-Za-z0-9\\\\p{L}\\\\p{M}])?)*([:/?#]|$)') && !self.matches('^[^:]*://([^/:]{254}|([^/:]*[.])?([0-9]+|0[xX][0-9A-Fa-f]*)([:/?#]|$))') || self.matches('^[^:]*://[0-9.]+([:/?#]|$)') && isIP(self.find('[0-9][0-9.]*')) && self.find('[0-9][0-9.]*') != '0.0.0.0' || self.matches('^[^:]*://\\\\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\\\\]([:/?#]|$)') && isIP(self.find('[0-9A-Fa-f:.]*\\\\]').replace(']', '')) && !ip(self.find('[0-9A-Fa-f:.]*\\\\]').replace(']', '')).isUnspecified())",message="the host must be a DNS name or an IP address at which nodes reach the API server, IPv6 in brackets; placeholders, blanks, underscores and a dot at the end are not possible: write for example https://api.example.com:6443 or https://[2001:db8::1]:6443"
	// +kubebuilder:validation:XValidation:reason=FieldValueForbidden,rule="!isURL(self) || self.matches('^[^:]*://(\\\\[[^\\\\]/]*\\\\]|[^/:\\\\[]*)(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?([/?#].*)?$')",message="the port must be a number from 1 to 65535, or absent together with its colon for 443: write for example https://api.example.com:6443"
	Server string `json:"server,omitempty"`

	// caBundle is the PEM of the CA certificates that signed the API server's serving certificate.
	// Defaults to the operator's --cluster-ca-file flag, else to the CA in the ConfigMap kube-public/cluster-info, else
	// to the ConfigMap kube-root-ca.crt in the operator's namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	// +kubebuilder:validation:XValidation:reason=FieldValueForbidden,rule="self.matches('^\\\\s*(-----BEGIN CERTIFICATE-----\\\\s[A-Za-z0-9+/=\\\\s]+-----END CERTIFICATE-----\\\\s*)+$')",message="must be one or more PEM certificates and nothing else, each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----: write the content of the cluster's ca.crt, not base64 of it and no private key"
	CABundle string `json:"caBundle,omitempty"`
}

// TokenSpec is the life of the bootstrap token.
type TokenSpec struct {
	// ttl is the life of one token, from 10m to 8760h. A token is renewed before it expires, until the node joins.
	// Defaults to 24h.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && self != '' && duration(self) >= duration('10m') && duration(self) <= duration('8760h')",message="must be a duration in hours, minutes and seconds from 10m to 8760h: write for example 24h, 90m or 1h30m"
	TTL *metav1.Duration `json:"ttl,omitempty"`

	// joinDeadline is how long tokens are renewed after the creation of the NodeBootstrap or after the last reissue, from 10m to 8760h.
	// By default they are renewed until the node joins.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && self != '' && duration(self) >= duration('10m') && duration(self) <= duration('8760h')",message="must be a duration in hours, minutes and seconds from 10m to 8760h: write for example 168h, 90m or 1h30m"
	JoinDeadline *metav1.Duration `json:"joinDeadline,omitempty"`
}

// Approval is who approves the CertificateSigningRequest that the kubelet sends with its bootstrap token.
//
// +kubebuilder:validation:Enum=Node;ClusterWide;Manual
type Approval string

const (
	// ApprovalNode means: this operator approves, only for this node's name.
	ApprovalNode Approval = "Node"
	// ApprovalClusterWide means: kube-controller-manager approves through a "nodeclient" binding, whatever the name, so whoever has the
	// token can become any node.
	ApprovalClusterWide Approval = "ClusterWide"
	// ApprovalManual means: a person approves, with kubectl certificate approve.
	ApprovalManual Approval = "Manual"
)

// ClientCertificateSpec is for the certificate with which the kubelet authenticates to the API server.
//
// +kubebuilder:validation:XValidation:rule="!has(self.keyFingerprint) || !has(self.approval) || self.approval != 'ClusterWide'",message="keyFingerprint has no effect with approval ClusterWide, with which kube-controller-manager approves every key: leave one of the two out"
// +kubebuilder:validation:XValidation:rule="!has(self.replacementKeys) || self.replacementKeys == 0 || !has(self.approval) || self.approval != 'ClusterWide'",message="replacementKeys has no meaning with approval ClusterWide, with which every key is approved: leave it out"
type ClientCertificateSpec struct {
	// approval is who approves the CertificateSigningRequest that the kubelet sends with its bootstrap token. Node: this operator, only
	// for this node's name. ClusterWide: kube-controller-manager, whatever the name; requires the manager's flag
	// --allow-cluster-wide-approval. Manual: a person, with kubectl certificate approve. Defaults to Node.
	// +optional
	Approval Approval `json:"approval,omitempty"`

	// approvalDelay is how long the operator holds a CertificateSigningRequest before it approves it, from 0s to 10m. It approves only if
	// all CertificateSigningRequests that were sent with the token until then have the same key; otherwise it approves none of them, and
	// the condition KeyConflict reports the keys. It applies to approval Node. Defaults to 0s: no delay.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,2}m)?([0-9]{1,3}s)?$') && self != '' && duration(self) <= duration('10m')",message="must be a duration in minutes and seconds from 0s to 10m: write for example 30s or 1m30s. A kubelet waits 15 minutes for its certificate"
	ApprovalDelay *metav1.Duration `json:"approvalDelay,omitempty"`

	// replacementKeys is how many further keys may be approved with one token while the earlier ones are unused, from 0 to 7. A kubelet
	// that restarts before it has received its certificate sends another key, and so does another machine that has the kubeconfig: with
	// this field both get a certificate. Approval Node approves them; with approval Manual or an approvalDelay they wait for a person
	// instead of being denied. Defaults to 0: one key for one token.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=7
	ReplacementKeys int32 `json:"replacementKeys,omitempty"`

	// keyFingerprint pins the machine's key: SHA256: and the SHA-256 of the DER SubjectPublicKeyInfo in 64 lower-case hex digits. Only a
	// CertificateSigningRequest with this key is approved, however many others were sent before it. Others in the node's name are denied
	// and reported by the condition TokenMisused, and nothing is revoked: the token is of no use to whoever has another key. The key is
	// for the node's first certificate; the kubelet renews it with keys of its own. approvalDelay and replacementKeys have no effect on a
	// pinned key. Two NodeBootstraps cannot pin the same key.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:reason=FieldValueForbidden,rule="self.matches('^SHA256:[0-9a-f]{64}$')",message="must be SHA256: and 64 lower-case hex digits, the SHA-256 of the public key in DER: openssl pkey -in node.key -pubout -outform DER | sha256sum, or openssl req -in node.csr -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum"
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
}

// ServingCertificateSpec is for the certificate with which the kubelet serves its own API on port 10250.
type ServingCertificateSpec struct {
	// addresses are the DNS names, IPs and CIDRs that this node's serving certificate may name. A CertificateSigningRequest is approved
	// if this list declares each DNS name and IP in it, including the node's own name, and if none belongs to the control plane or is
	// declared by another NodeBootstrap as its own. Without addresses, CertificateSigningRequests for serving certificates are left
	// alone.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:XValidation:reason=FieldValueForbidden,rule="isIP(self) || isCIDR(self) || (self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$') && !self.matches('(^|[.])([0-9]+|0x[0-9a-f]*)$'))",messageExpression="(self.matches('^[0-9a-f]{0,4}([.:/][0-9a-f]{0,4})+$') ? self : 'this entry') + ' is neither a lower-case DNS name without wildcards nor an IP address nor a CIDR: write for example worker-1.example.com, 192.0.2.7 or 2001:db8::/64'"
	Addresses []string `json:"addresses,omitempty"`
}

// NodeBootstrapStatus is written only by the operator. It never contains the secret part of a token.
type NodeBootstrapStatus struct {
	// observedGeneration is the generation of the spec for which this status was reported.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions: Ready, CredentialsAvailable, Joined; ApprovalEnforced while the node has a token; TokenMisused after a misuse;
	// KeyConflict after several keys were sent with one token; CertificateNotRevoked while a certificate is valid that should not be;
	// ServingCertificateApproved while addresses are declared; ClientCertificateExpiring while the certificate of a node that does not run
	// is about to expire; and per kstatus Reconciling and Stalled while they are True.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// token is the live bootstrap token; absent if none exists.
	// +optional
	Token *TokenStatus `json:"token,omitempty"`

	// tokens are the live bootstrap tokens, the newest last, with the decisions on the CertificateSigningRequests that were sent with
	// each. Approvals are decided from this list. An entry disappears with its token. The list is absent, not empty, in a status from
	// before the operator had this field.
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=2
	Tokens []LiveToken `json:"tokens,omitzero"`

	// lastTokenID is the id of the last token that was created; the id of the next one is derived from it.
	// +optional
	LastTokenID string `json:"lastTokenID,omitempty"`

	// kubeconfigSecretRef names the Secret with the node's bootstrap kubeconfig; absent if none exists.
	// +optional
	KubeconfigSecretRef *SecretReference `json:"kubeconfigSecretRef,omitempty"`

	// server is the API server's URL in the published kubeconfig.
	// +optional
	Server string `json:"server,omitempty"`

	// caFingerprint is SHA256:<hex> of the CA certificates in the published kubeconfig.
	// +optional
	CAFingerprint string `json:"caFingerprint,omitempty"`

	// apiServerHosts are the hosts of all API server URLs in kubeconfigs that were published for this node, the newest last.
	// The node may still reach the API server there, so no node gets a serving certificate that names one of them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	APIServerHosts []string `json:"apiServerHosts,omitempty"`

	// certificates is a log of the last decisions on the node's CertificateSigningRequests, the newest last: Kubernetes deletes
	// CertificateSigningRequests an hour after the decision. Nothing is decided from this log.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=16
	Certificates []CertificateDecision `json:"certificates,omitempty"`

	// keys are the keys that were sent with one token, if there was more than one: the oldest first, at most 8. They stay until a
	// reissue.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Keys []SentKey `json:"keys,omitempty"`

	// replacedKey is the newest key that was sent since awaitingSince, if it was denied because another key was approved. If the node joins
	// nevertheless, two machines have the kubeconfig.
	// +optional
	ReplacedKey *SentKey `json:"replacedKey,omitempty"`

	// keyFingerprints are the fingerprints of the keys for which client certificates were approved in the node's name, the newest
	// last. No other node gets a certificate for one of these keys.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	KeyFingerprints []string `json:"keyFingerprints,omitempty"`

	// unrevokedCertificates are the client certificates that are still valid although the operator revoked the token that they were
	// issued for, or approved another key instead of theirs. Kubernetes cannot revoke a certificate. The condition CertificateNotRevoked
	// reports them. At most 8 are kept, those that expire last.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=8
	UnrevokedCertificates []UnrevokedCertificate `json:"unrevokedCertificates,omitempty"`

	// awaitingSince is when the current wait for the node began: at the creation of the NodeBootstrap, at the last reissue, or when a
	// joined Node was found deleted. Absent while the node is joined.
	// +optional
	AwaitingSince *metav1.Time `json:"awaitingSince,omitempty"`

	// nodeUID is the UID of the Node that joined, or that existed when the last reissue was handled.
	// +optional
	NodeUID types.UID `json:"nodeUID,omitempty"`

	// nodeAliveTime is when a kubelet was first seen to have renewed the node's Lease after the last reissue and before a certificate was
	// approved for it: a machine works as the node with an earlier certificate. Absent if none did.
	// +optional
	NodeAliveTime *metav1.Time `json:"nodeAliveTime,omitempty"`

	// firstApprovalTime is when a client certificate was first approved since awaitingSince. Absent if none was.
	// +optional
	FirstApprovalTime *metav1.Time `json:"firstApprovalTime,omitempty"`

	// joinProofTime is the time from which a renewal of the node's Lease proves that the node has joined: it uses a certificate that was
	// issued since awaitingSince. Absent while none was issued.
	// +optional
	JoinProofTime *metav1.Time `json:"joinProofTime,omitempty"`

	// join is when each step of the last join was done. It is absent while the node is awaited, and for a node that was a member before
	// its NodeBootstrap, or that joined under a version without this field. Nothing is decided from it.
	// +optional
	Join *JoinTimes `json:"join,omitempty"`

	// clientCertificate is the newest client certificate of the node that the operator has seen: the one that it joined with, or a renewal.
	// It is absent while the node is awaited.
	// +optional
	ClientCertificate *ClientCertificate `json:"clientCertificate,omitempty"`

	// lastHandledReissueAt is the last handled value of the annotation nodebootstrap.io/reissue-requested-at; for a value of more than
	// 128 bytes it is SHA256:<hex> of the value.
	// +optional
	LastHandledReissueAt string `json:"lastHandledReissueAt,omitempty"`
}

// JoinTimes are when the steps of a join were done, in this order. The API server's clock has written all of them, except for readyTime. A
// time that is not known, or not yet, is absent.
type JoinTimes struct {
	// publishedTime is when the credential became available.
	// +optional
	PublishedTime *metav1.Time `json:"publishedTime,omitempty"`
	// requestedTime is when the CertificateSigningRequest was created to which the node's certificate was issued.
	// +optional
	RequestedTime *metav1.Time `json:"requestedTime,omitempty"`
	// approvedTime is when it was approved.
	// +optional
	ApprovedTime *metav1.Time `json:"approvedTime,omitempty"`
	// issuedTime is when the certificate was stored in it.
	// +optional
	IssuedTime *metav1.Time `json:"issuedTime,omitempty"`
	// registeredTime is when the Node was created.
	// +optional
	RegisteredTime *metav1.Time `json:"registeredTime,omitempty"`
	// readyTime is since when the Node was Ready, when the operator first saw that. It is by the node's clock, and never before
	// registeredTime or after the moment in which the operator read it.
	// +optional
	ReadyTime *metav1.Time `json:"readyTime,omitempty"`
	// servingTime is when the first serving certificate after registeredTime was approved.
	// +optional
	ServingTime *metav1.Time `json:"servingTime,omitempty"`
}

// ClientCertificate is a node's client certificate, without its content.
type ClientCertificate struct {
	// startTime is the beginning of its validity.
	StartTime metav1.Time `json:"startTime"`
	// expirationTime is the end of its validity: from then on the node is locked out.
	ExpirationTime metav1.Time `json:"expirationTime"`
}

// TokenStatus identifies a bootstrap token without its secret part.
type TokenStatus struct {
	// id is the public part of the token: its Secret is kube-system/bootstrap-token-<id>.
	ID string `json:"id"`

	// expirationTime is when the API server stops accepting the token.
	ExpirationTime metav1.Time `json:"expirationTime"`
}

// LiveToken is a live bootstrap token with the decisions on its CertificateSigningRequests.
type LiveToken struct {
	// id is the public part of the token: its Secret is kube-system/bootstrap-token-<id>.
	ID string `json:"id"`

	// csrs are the CertificateSigningRequests that were sent with the token and have a decision, in the order of the decisions. The
	// token is bound to the keys of those that were approved. When the list is full, nothing more is decided with the token.
	// +optional
	// +listType=map
	// +listMapKey=uid
	// +kubebuilder:validation:MaxItems=16
	CSRs []DecidedCSR `json:"csrs,omitempty"`
}

// DecidedCSR is a decision on a CertificateSigningRequest that was sent with a live token.
type DecidedCSR struct {
	// name of the CertificateSigningRequest.
	Name string `json:"name"`
	// uid of the CertificateSigningRequest.
	UID types.UID `json:"uid"`
	// keyFingerprint is SHA256:<hex of the SHA-256 of the DER SubjectPublicKeyInfo>; absent when no key could be read.
	// +optional
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// verdict is the decision.
	Verdict Verdict `json:"verdict"`
	// reason is the reason of the decision, in CamelCase.
	Reason string `json:"reason"`
	// time of the decision.
	Time metav1.Time `json:"time"`
}

// UnrevokedCertificate is a client certificate that is still valid but should not be.
type UnrevokedCertificate struct {
	// name of the CertificateSigningRequest that the certificate was issued to.
	Name string `json:"name"`
	// uid of that CertificateSigningRequest.
	UID types.UID `json:"uid"`
	// keyFingerprint is SHA256:<hex of the SHA-256 of the DER SubjectPublicKeyInfo>.
	// +optional
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// reason is IssuedBeforeRevocation or IssuedBeforeReplacement.
	Reason string `json:"reason"`
	// expirationTime is when the certificate expires: until then it authenticates.
	ExpirationTime metav1.Time `json:"expirationTime"`
}

// SecretReference names a Secret.
type SecretReference struct {
	// namespace of the Secret.
	Namespace string `json:"namespace"`
	// name of the Secret.
	Name string `json:"name"`
}

// Verdict is the decision on a CertificateSigningRequest.
//
// +kubebuilder:validation:Enum=Approved;Denied;Ignored
type Verdict string

const (
	// VerdictApproved means: the CSR was approved.
	VerdictApproved Verdict = "Approved"
	// VerdictDenied means: the CSR was denied.
	VerdictDenied Verdict = "Denied"
	// VerdictIgnored means: too many CSRs were sent with the token; this one and all later ones were left alone.
	VerdictIgnored Verdict = "Ignored"
)

// CertificateDecision is one entry of status.certificates.
type CertificateDecision struct {
	// name of the CertificateSigningRequest.
	Name string `json:"name"`
	// uid of the CertificateSigningRequest.
	UID types.UID `json:"uid"`
	// signerName is the requested signer.
	SignerName string `json:"signerName"`
	// tokenID is the id of the bootstrap token that the CertificateSigningRequest was sent with; absent for a serving certificate, which
	// the node requests itself.
	// +optional
	TokenID string `json:"tokenID,omitempty"`
	// keyFingerprint is SHA256:<hex of the SHA-256 of the DER SubjectPublicKeyInfo>; absent when no key could be read.
	// +optional
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// verdict is the decision.
	Verdict Verdict `json:"verdict"`
	// reason is the reason of the decision, in CamelCase.
	Reason string `json:"reason"`
	// message is the message of a denial, cut to 256 characters: it outlives the CertificateSigningRequest.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// time of the decision.
	Time metav1.Time `json:"time"`
	// issuedTime is the time of the approval, once the certificate was issued.
	// +optional
	IssuedTime *metav1.Time `json:"issuedTime,omitempty"`
	// expirationTime was written by earlier versions, which had no unrevokedCertificates.
	// +optional
	ExpirationTime *metav1.Time `json:"expirationTime,omitempty"`
}

// SentKey is a key with which a CertificateSigningRequest was sent.
type SentKey struct {
	// tokenID is the id of the bootstrap token that the CertificateSigningRequest was sent with.
	TokenID string `json:"tokenID"`
	// keyFingerprint is SHA256:<hex of the SHA-256 of the DER SubjectPublicKeyInfo>.
	KeyFingerprint string `json:"keyFingerprint"`
	// name of the first CertificateSigningRequest with this key.
	Name string `json:"name"`
	// time when that CertificateSigningRequest was created, or decided if it no longer exists.
	Time metav1.Time `json:"time"`
}

// TokenTTL is the life of one token: spec.token.ttl or its default.
func (s *NodeBootstrapSpec) TokenTTL() time.Duration {
	if s.Token.TTL == nil {
		return DefaultTokenTTL
	}
	return s.Token.TTL.Duration
}

// ReplacementKeys is spec.clientCertificate.replacementKeys.
func (s *NodeBootstrapSpec) ReplacementKeys() int {
	return max(0, int(s.ClientCertificate.ReplacementKeys))
}

// PinnedKey is spec.clientCertificate.keyFingerprint; empty if no key is pinned, or with approval ClusterWide.
func (s *NodeBootstrapSpec) PinnedKey() string {
	if s.ApprovalMode() == ApprovalClusterWide {
		return ""
	}
	return s.ClientCertificate.KeyFingerprint
}

// ApprovalMode is spec.clientCertificate.approval or its default.
func (s *NodeBootstrapSpec) ApprovalMode() Approval {
	if s.ClientCertificate.Approval == "" {
		return ApprovalNode
	}
	return s.ClientCertificate.Approval
}
