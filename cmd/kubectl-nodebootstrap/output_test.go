// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
)

// Colors are only for terminals whose user has not refused them, and the mark is the same with and without.
func TestMarks(t *testing.T) {
	text.EnableColors() // whatever the terminal of the test is
	for name, tc := range map[string]struct {
		terminal bool
		env      map[string]string
		want     bool
	}{
		"a terminal":     {true, map[string]string{"TERM": "xterm"}, true},
		"an empty value": {true, map[string]string{"NO_COLOR": ""}, true},
		"NO_COLOR":       {true, map[string]string{"NO_COLOR": "0"}, false},
		"a dumb one":     {true, map[string]string{"TERM": "dumb"}, false},
		"a file":         {false, map[string]string{"TERM": "xterm"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			colors := wantsColors(tc.terminal, func(key string) string { return tc.env[key] })
			if colors != tc.want {
				t.Fatalf("colors: %v", colors)
			}
			for _, mark := range []string{markGood, markBad, markWarning} {
				printed := marker{colors}.mark(mark)
				if !strings.Contains(printed, mark) || colors != (printed != mark) {
					t.Errorf("the mark %s is printed as %q", mark, printed)
				}
			}
		})
	}
	if newMarker(&bytes.Buffer{}).colors {
		t.Error("a buffer has colors")
	}
}

func TestOutputFlag(t *testing.T) {
	value := map[string]any{"name": "a", "fix": "kubectl get <what>"}
	for _, tc := range []struct{ format, want string }{
		{"json", "{\n  \"fix\": \"kubectl get <what>\",\n  \"name\": \"a\"\n}\n"},
		{"yaml", "fix: kubectl get <what>\nname: a\n"},
		{"wide", "wide"},
		{"", ""},
		{"table", "write json, yaml or wide"},
	} {
		t.Run(tc.format, func(t *testing.T) {
			var out bytes.Buffer
			cmd := &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true}
			cmd.SetFlagErrorFunc(usageError)
			cmd.SetErr(io.Discard)
			f := addOutput(cmd, "wide")
			cmd.RunE = func(*cobra.Command, []string) error {
				if !f.isStructured() {
					out.WriteString(f.format)
					return nil
				}
				return f.print(&out, value)
			}
			cmd.SetArgs(nil)
			if tc.format != "" {
				cmd.SetArgs([]string{"-o", tc.format})
			}
			err := cmd.Execute()
			if err != nil {
				if exitCode(err) != exitUsage || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v with the exit code %d", err, exitCode(err))
				}
				return
			}
			if out.String() != tc.want {
				t.Errorf("got %q, want %q", out.String(), tc.want)
			}
		})
	}
	cmd := &cobra.Command{Use: "test"}
	addOutput(cmd, "wide")
	complete, _ := cmd.GetFlagCompletionFunc("output")
	if offered, _ := complete(cmd, nil, ""); !slices.Equal(offered, []string{"json", "yaml", "wide"}) {
		t.Errorf("completion offers %q", offered)
	}
}
