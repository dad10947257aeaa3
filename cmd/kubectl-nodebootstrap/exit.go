// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// The plugin's exit codes. The command join has more: see docs/join.md.
const (
	exitFailed = 1
	exitUsage  = 2
)

const exitCodesHelp = `Exit codes: 0 done, 1 failed, 2 wrong command line. The command join has more, which are in docs/join.md.`

// commandLineError is an error in the command line. Nothing was read or changed.
type commandLineError struct {
	err  error
	path string // of the command
}

func (e *commandLineError) Error() string { return fmt.Sprintf("%v\nSee %s --help", e.err, e.path) }

func (e *commandLineError) Unwrap() error { return e.err }

// usageError returns an error in the command line with a hint to --help.
func usageError(cmd *cobra.Command, err error) error {
	return &commandLineError{err: err, path: cmd.CommandPath()}
}

// exitCode is the plugin's exit code for an error.
func exitCode(err error) int {
	if e, ok := errors.AsType[*joinError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*commandLineError](err); ok {
		return exitUsage
	}
	return exitFailed
}
