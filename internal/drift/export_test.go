// SPDX-License-Identifier: Apache-2.0

package drift

const MaxFields = maxFields
