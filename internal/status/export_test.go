// SPDX-License-Identifier: Apache-2.0

package status

var AddHosts = addHosts

const MaxKeys = maxKeys
