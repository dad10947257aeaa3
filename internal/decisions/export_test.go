// SPDX-License-Identifier: Apache-2.0

package decisions

var ByTime = byTime

const MaxKeyFingerprints = maxKeyFingerprints

var ServingDecision = servingDecision
