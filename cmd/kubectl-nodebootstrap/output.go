// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// The formats of --output that every command with this flag has.
const (
	outputJSON = "json"
	outputYAML = "yaml"
)

// outputFlag is the value of --output. It is empty for the output that people read.
type outputFlag struct {
	format  string
	formats []string
}

// addOutput adds -o and --output to a command: json, yaml, and more formats, which the command prints itself.
func addOutput(cmd *cobra.Command, more ...string) *outputFlag {
	f := &outputFlag{formats: append([]string{outputJSON, outputYAML}, more...)}
	cmd.Flags().VarP(f, "output", "o", "Print the result in this format: "+f.names()+".")
	complete := cobra.FixedCompletions(f.formats, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // only without the flag
	}
	return f
}

func (f *outputFlag) names() string {
	last := len(f.formats) - 1
	return strings.Join(f.formats[:last], ", ") + " or " + f.formats[last]
}

// String, Set and Type implement pflag.Value.
func (f *outputFlag) String() string { return f.format }

// Set implements pflag.Value.
func (f *outputFlag) Set(format string) error {
	if !slices.Contains(f.formats, format) {
		return fmt.Errorf("write %s", f.names())
	}
	f.format = format
	return nil
}

// Type implements pflag.Value.
func (f *outputFlag) Type() string { return "format" }

// isStructured reports whether the output is for programs, so that print prints it.
func (f *outputFlag) isStructured() bool { return f.format == outputJSON || f.format == outputYAML }

// print prints a value as JSON or YAML, with the names of its json tags.
func (f *outputFlag) print(out io.Writer, value any) error {
	if f.format == outputYAML {
		content, err := yaml.Marshal(value)
		if err == nil {
			_, err = out.Write(content)
		}
		return err
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false) // commands have < and > in them
	return encoder.Encode(value)
}
