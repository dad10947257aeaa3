// SPDX-License-Identifier: Apache-2.0

package status

// The record is a line in the log for each thing that the operator did to grant an identity or to take one away. It outlives
// objects, events and the status (docs/security.md). A line is written when the API server has answered that it was done, so what
// failed has none, and none has a secret part.
const (
	RecordCreated   = "created a token"
	RecordTakenOver = "took over a token that an interrupted reconcile had created"
	RecordRevoked   = "revoked a token"
	RecordApproved  = "approved a CertificateSigningRequest"
	RecordDenied    = "denied a CertificateSigningRequest"
	RecordDeleted   = "deleted a CertificateSigningRequest"
	RecordAlarm     = "raised an alarm"
)
