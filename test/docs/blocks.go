// SPDX-License-Identifier: Apache-2.0

// Package docs runs the commands of the documentation, on a real control plane.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nodebootstrap/nodebootstrap/hack/project"
)

// The words after a block's language say who runs it. A block of commands without them is run here.
const (
	// onTheNode marks commands for the machine that joins, which run there.
	onTheNode = "node"
	// notRun marks commands that no test runs; the words after it say why.
	notRun = "not-run:"
	// fragment marks YAML that is not a whole object.
	fragment = "fragment"
	// transcript is the language of blocks with commands after "$ ", and what they print. They are run, and compared.
	transcript = "console"
	// offline marks transcripts of commands that need no cluster.
	offline = "offline"
)

// Block is a fenced block of a document.
type Block struct {
	Line int
	// Heading is the last one above it.
	Heading string
	// Language is sh, yaml and so on; Who is the words after it.
	Language, Who string
	Text          string
}

// File is the name under which to store a block, which a comment in its first line gives: "# worker-1.yaml".
func (b Block) File() string {
	first, _, _ := strings.Cut(b.Text, "\n")
	if m := fileComment.FindStringSubmatch(first); m != nil {
		return m[1]
	}
	return ""
}

var (
	fileComment = regexp.MustCompile(`^# ([\w./-]+\.(?:yaml|csv|json))$`)
	fence       = regexp.MustCompile("^( *)```(.*)$")
	// notInAnchors are the characters that GitHub drops from the anchor of a heading.
	notInAnchors = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Documents are the project's documents, relative to its root.
func Documents() ([]string, error) {
	root, err := project.Root()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*/*.md", "charts/*/*.md", "test/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			name, err := filepath.Rel(root, path)
			if err != nil {
				return nil, err
			}
			names = append(names, filepath.ToSlash(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Blocks are the fenced blocks of a document, in order.
func Blocks(document string) ([]Block, error) {
	root, err := project.Root()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(document)))
	if err != nil {
		return nil, err
	}
	return parse(string(content))
}

func parse(content string) ([]Block, error) {
	var blocks []Block
	var open *Block
	indent, heading := "", ""
	for i, line := range strings.Split(content, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil:
			language, who, _ := strings.Cut(m[2], " ")
			open, indent = &Block{Line: i + 1, Heading: heading, Language: language, Who: who}, m[1]
		case m != nil:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		return nil, fmt.Errorf("the block in line %d does not end", open.Line)
	}
	return blocks, nil
}

// withoutBlocks is the text of a document between its blocks.
func withoutBlocks(content string) string {
	var text strings.Builder
	inBlock := false
	for line := range strings.Lines(content) {
		if fence.MatchString(strings.TrimSuffix(line, "\n")) {
			inBlock = !inBlock
		} else if !inBlock {
			text.WriteString(line)
		}
	}
	return text.String()
}

// HasHeading reports whether a document has a heading with an anchor, as GitHub derives them.
func HasHeading(content, anchor string) bool {
	for line := range strings.Lines(withoutBlocks(content)) {
		heading := strings.TrimLeft(line, "#")
		if heading != line && strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

// under are the blocks of commands under a heading of a document, whoever runs them.
func under(document, heading string) (string, error) {
	blocks, err := Blocks(document)
	if err != nil {
		return "", err
	}
	text := ""
	for _, b := range blocks {
		if b.Heading == heading && b.Language == "sh" {
			text += b.Text
		}
	}
	if text == "" {
		err = fmt.Errorf("%s has no commands under %q", document, heading)
	}
	return text, err
}

// run reports whether a block has commands that are run here.
func (b Block) run() bool { return b.Language == "sh" && b.Who == "" }
