// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
)

// entry is a command of a transcript, and what it printed, both with their line breaks.
type entry struct{ command, output string }

// prompt precedes a command. A command whose line ends with a backslash goes on in the next line.
const prompt = "$ "

// entries are those of a transcript.
func (b Block) entries() ([]entry, error) {
	var found []entry
	goesOn := false
	for line := range strings.Lines(b.Text) {
		command, isCommand := strings.CutPrefix(line, prompt)
		switch {
		case isCommand:
			found = append(found, entry{command: command})
		case len(found) == 0:
			return nil, fmt.Errorf("the transcript in line %d does not begin with a command", b.Line)
		case goesOn:
			found[len(found)-1].command += line
		default:
			found[len(found)-1].output += line
		}
		goesOn = (isCommand || goesOn) && strings.HasSuffix(line, "\\\n")
	}
	return found, nil
}

// transcribe runs the commands of a transcript, and returns it with what they print now. A command that fails is followed by echo $?, so that
// readers see its exit code.
func transcribe(b Block, run func(commands string) (string, error)) (string, error) {
	entries, err := b.entries()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	code := 0
	for _, e := range entries {
		if code != 0 && strings.TrimSpace(e.command) != "echo $?" {
			return text.String(), fmt.Errorf("the command before %q fails, and no echo $? follows", strings.TrimSpace(e.command))
		}
		output, err := run(fmt.Sprintf("set +e\n(exit %d)\n%s", code, e.command))
		code = 0
		if err != nil {
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				return text.String(), err
			}
			code = exit.ExitCode()
		}
		text.WriteString(prompt + e.command + output)
		if !strings.HasSuffix(output, "\n") && output != "" {
			text.WriteString("\n")
		}
	}
	if code != 0 {
		return text.String(), fmt.Errorf("the last command ends with exit code %d, and no echo $? follows", code)
	}
	return text.String(), nil
}

// rewrite replaces the text of a block in a document.
func rewrite(document string, b Block, text string) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return err
	}
	file := filepath.Join(root, filepath.FromSlash(document))
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	lines := strings.SplitAfter(string(content), "\n")
	lines = slices.Replace(lines, b.Line, b.Line+strings.Count(b.Text, "\n"), text)
	return os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644)
}

// sameText reports whether two transcripts are the same, except for the width of columns.
func sameText(a, b string) bool {
	squeeze := func(text string) string {
		var out strings.Builder
		for line := range strings.Lines(text) {
			out.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
		return out.String()
	}
	return squeeze(a) == squeeze(b)
}

// stabilizer replaces what differs between two runs. What is the same in one run stays the same.
type stabilizer struct {
	// literal are texts of this run, like the API server's URL, and what the document has instead.
	literal *strings.Replacer
	started time.Time
	given   map[string]string
	used    map[string]int
}

// tokenIDs are those in the document, for the ids of tokens in the order in which they are published.
var tokenIDs = []string{"x7f2qk", "m4c9tz", "p3w8hd", "k5r6vb", "t8n2fj", "c6q4ws"}

// named is what has another name in each run, with what the document has instead, in the order of appearance.
var named = []struct {
	pattern *regexp.Regexp
	instead []string
}{
	{regexp.MustCompile(`\bcsr-[a-z0-9]{5}\b`), []string{"csr-8kx4v", "csr-t2m9c", "csr-q5z7h", "csr-w6b3n"}},
	{regexp.MustCompile(`\bsign-[a-z0-9]{5}\b`), []string{"sign-v4k8w", "sign-h9d2r", "sign-n7c5x"}},
	{regexp.MustCompile(`\bSHA256:[0-9a-f]{64}\b`), []string{
		"SHA256:9f2c41d07be85a36f1c4920e8d73b65a0c1e7f48d2935b6ea7084fc31d92e65b",
		"SHA256:27a6e0f9c85b143d7e92f01ab64cd8350b7f19e2d4a863c5f0712e9b8d46c3a1",
		"SHA256:c40d8b617f92e35a06d1fb49873ce250a95e7d1c4b8036f2e98a571d3c60bf24",
	}},
}

// dropped are lines that depend on how fast the operator or the node is.
var dropped = regexp.MustCompile(`(?m)^.*(?:[Ww]aiting: the operator has not handled|waiting for Ready: ).*\n`)

// fixed is what differs between two runs, and is the same everywhere in the document.
var fixed = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b127\.0\.0\.1:\d{4,5}\b`), "192.0.2.5:6443"},
	{regexp.MustCompile(`\b127\.0\.0\.1\b`), "192.0.2.5"},
	{regexp.MustCompile(`\bgo1\.\d+(?:\.\d+)?\b`), "go1.26.0"},
	{regexp.MustCompile(`\b\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC \d{4}\b`), "Sat Nov 28 09:00:00 UTC 2026"},
	{regexp.MustCompile(`\bafter \d+\.\d s\b`), "after 3.1 s"},
	{regexp.MustCompile(`\b(?:\d+m)?\d+s\b`), "12s"},            // ages and steps, which take less than an hour here
	{regexp.MustCompile(`\b(\d+)h\d+m(?:\d+s)?\b`), "${1}h59m"}, // what is left of a lifetime
	{regexp.MustCompile(`\bSHA256:[0-9a-f]{12}\.{3}`), "SHA256:5d81c7f02ab4..."},
	{regexp.MustCompile(`\b[\w.-]+_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "nodebootstrap-manager-6c9f8d7b54-x2x8q_4ce3f53f-7e22-4f8b-8a0b-5214bd02017b"},
}

var (
	// moment is a time. The document has it by the hour, since its own start.
	moment = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	// date has no time. The document has it by the week, which leaves lifetimes of a week and of a year as they are.
	date = regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`)
	// step begins a line of join.
	step = regexp.MustCompile(`(?m)^ *\d+\.\d\d s  `)

	documentedStart = time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
)

func newStabilizer(literal ...string) *stabilizer {
	return &stabilizer{literal: strings.NewReplacer(literal...), started: time.Now().UTC(), given: map[string]string{}, used: map[string]int{}}
}

func (s *stabilizer) stable(output string) string {
	output = dropped.ReplaceAllString(s.literal.Replace(output), "")
	for _, n := range named {
		for _, was := range n.pattern.FindAllString(output, -1) {
			s.give(n.pattern.String(), was, n.instead)
		}
	}
	for was, is := range s.given {
		output = regexp.MustCompile(`\b`+regexp.QuoteMeta(was)+`\b`).ReplaceAllString(output, is)
	}
	output = date.ReplaceAllStringFunc(moment.ReplaceAllStringFunc(output, s.documented), s.documentedDate)
	steps := 0
	output = step.ReplaceAllStringFunc(output, func(string) string {
		steps++
		return fmt.Sprintf("%7.2f s  ", float64(steps)*0.14)
	})
	for _, f := range fixed {
		output = replaceInColumn(f.pattern, output, f.instead)
	}
	return output
}

// give finds a text in the document for one of this run.
func (s *stabilizer) give(kind, was string, instead []string) {
	if _, isGiven := s.given[was]; isGiven || slices.Contains(instead, was) {
		return
	}
	s.given[was] = instead[s.used[kind]%len(instead)]
	s.used[kind]++
}

func (s *stabilizer) documented(text string) string {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return text
	}
	return documentedStart.Add(at.Sub(s.started).Round(time.Hour)).Format(time.RFC3339)
}

func (s *stabilizer) documentedDate(text string) string {
	at, err := time.Parse(time.DateOnly, text)
	if err != nil {
		return text
	}
	const week = 7 * 24 * time.Hour
	return documentedStart.Add(at.Sub(s.started).Round(week)).Format(time.DateOnly)
}

// replaceInColumn replaces, and keeps the column that follows where it is.
func replaceInColumn(pattern *regexp.Regexp, text, instead string) string {
	wide := regexp.MustCompile(`(?:` + pattern.String() + `)(  +)`)
	text = wide.ReplaceAllStringFunc(text, func(match string) string {
		was := strings.TrimRight(match, " ")
		if was == "" {
			return match
		}
		is := pattern.ReplaceAllString(was, instead)
		return is + strings.Repeat(" ", max(2, len(match)-len(is)))
	})
	return pattern.ReplaceAllString(text, instead)
}
