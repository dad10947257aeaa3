// SPDX-License-Identifier: Apache-2.0

// Package problem has the type for why something cannot be done and how to fix it.
package problem

import "fmt"

// Problem is why something cannot be done, and how to fix it.
type Problem struct {
	// Reason is one of the reasons in api/v1alpha1.
	Reason string
	// Message names the field, flag or object to fix.
	Message string
}

// New is a problem with a message of fmt.Sprintf.
func New(reason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}
