// SPDX-License-Identifier: Apache-2.0

package status

// The decision log has a line for each identity that the operator granted or took away. It outlives objects, events and the status
// (docs/security.md). A line is written after the API server has confirmed the write, so a failed write has no line. No line contains a
// secret part.
const (
	RecordCreated   = "created a token"
	RecordTakenOver = "took over a token that an interrupted reconcile had created"
	RecordRevoked   = "revoked a token"
	RecordApproved  = "approved a CertificateSigningRequest"
	RecordDenied    = "denied a CertificateSigningRequest"
	RecordDeleted   = "deleted a CertificateSigningRequest"
	RecordAlarm     = "raised an alarm"
)
