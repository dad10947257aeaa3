// SPDX-License-Identifier: Apache-2.0

package token

var Redact = redact

var TokenGroups = tokenGroups

var TokenInText = tokenInText
