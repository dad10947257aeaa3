// SPDX-License-Identifier: Apache-2.0

package rendered

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/hack/project"
)

var (
	pinnedImage  = regexp.MustCompile(`^[^@\s]+@sha256:[0-9a-f]{64}$`)
	pinnedAction = regexp.MustCompile(`^[^@\s]+@[0-9a-f]{40}$`)
	stageName    = regexp.MustCompile(`(?i)^FROM .* AS (\S+)$`)
)

// unpinned are the lines of a Dockerfile that use something without a digest.
func unpinned(dockerfile string) []string {
	var found []string
	stages := map[string]bool{"scratch": true}
	for line := range strings.Lines(dockerfile) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(strings.ReplaceAll(line, " ", ""), "#syntax="):
			_, image, _ := strings.Cut(line, "=")
			if !pinnedImage.MatchString(strings.TrimSpace(image)) {
				found = append(found, line)
			}
		case len(words) > 1 && strings.EqualFold(words[0], "FROM"):
			image := words[1]
			if strings.HasPrefix(image, "--") && len(words) > 2 {
				image = words[2]
			}
			if !stages[image] && !pinnedImage.MatchString(image) {
				found = append(found, line)
			}
			if name := stageName.FindStringSubmatch(line); name != nil {
				stages[name[1]] = true
			}
		case len(words) > 1 && strings.EqualFold(words[0], "COPY") && strings.HasPrefix(words[1], "--from="):
			if image := strings.TrimPrefix(words[1], "--from="); !stages[image] && !pinnedImage.MatchString(image) {
				found = append(found, line)
			}
		}
	}
	return found
}

// All images in the Dockerfile, including the frontend's, are named by digest.
func TestImagesArePinned(t *testing.T) {
	content := read(t, "Dockerfile")
	for _, line := range unpinned(content) {
		t.Errorf("there is no digest in %q", line)
	}
	if !strings.HasPrefix(content, "# syntax=") || strings.Count(content, "@sha256:") < 3 {
		t.Error("the Dockerfile names neither its syntax nor two images by a digest: does this test find them?")
	}
	digest := "@sha256:" + strings.Repeat("0", 64)
	for _, good := range []string{"# syntax=a:1" + digest, "FROM a:1" + digest + " AS b\nFROM b\nCOPY --from=b /a /a", "FROM scratch"} {
		if found := unpinned(good); len(found) > 0 {
			t.Errorf("%q is taken for unpinned", found)
		}
	}
	for _, bad := range []string{"# syntax=docker/dockerfile:1", "#syntax = a", "FROM golang:1.26", "from --platform=$BUILDPLATFORM golang AS a", "COPY --from=busybox /a /a", "FROM a@sha256:0"} {
		if len(unpinned(bad)) != 1 {
			t.Errorf("%q is taken for pinned", bad)
		}
	}
}

// workflow is the part of a workflow that the tests read.
type workflow struct {
	Permissions any
	Jobs        map[string]struct {
		Uses        string
		Environment any
		Permissions any
		Steps       []struct{ Uses string }
	}
}

// Each action that a workflow uses is named by its commit, and a job with write permissions waits for the approval of its
// environment.
func TestWorkflowsArePinned(t *testing.T) {
	root, err := project.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("the workflows are %q (%v)", files, err)
	}
	publishing := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(content, &w); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if writes(w.Permissions) || w.Permissions == nil {
			t.Errorf("%s lets all its jobs write", filepath.Base(file))
		}
		for name, job := range w.Jobs {
			uses := []string{job.Uses}
			for _, step := range job.Steps {
				uses = append(uses, step.Uses)
			}
			for _, action := range uses {
				if action != "" && !strings.HasPrefix(action, "./") && !pinnedAction.MatchString(action) {
					t.Errorf("%s, job %s: %s is not named by its commit", filepath.Base(file), name, action)
				}
			}
			if !writes(job.Permissions) {
				continue
			}
			publishing++
			if job.Environment != "release" {
				t.Errorf("%s, job %s: it may write, and its environment is %v", filepath.Base(file), name, job.Environment)
			}
		}
	}
	if publishing == 0 {
		t.Error("no job publishes anything: does this test find them?")
	}
}

// writes reports whether permissions, which are a word or a map, include more than reading.
func writes(permissions any) bool {
	switch p := permissions.(type) {
	case string:
		return p != "read-all"
	case map[string]any:
		for _, access := range p {
			if access == "write" {
				return true
			}
		}
	}
	return false
}

func read(t *testing.T, name string) string {
	t.Helper()
	root, err := project.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
