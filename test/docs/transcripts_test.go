// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var update = flag.Bool("update", false, "rewrite the transcripts in the documents with what the commands print now")

// pluginPage is the page of the kubectl plugin, with a section for each command.
const pluginPage = "docs/plugin.md"

// stages are what happens in the cluster before a section of the plugin's page, outside its transcripts.
var stages = map[string]string{
	// Nothing there runs Pods, so that those of the Deployment are declared ready.
	"create": installed + `
kubectl create clusterrolebinding approve-kubelet-renewals --group=system:nodes \
  --clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient
kubectl set image -n nodebootstrap-system deployment/nodebootstrap-manager manager=ghcr.io/nodebootstrap/nodebootstrap:v0.1.0
until "$KUBECTL" rollout status -n nodebootstrap-system deployment/nodebootstrap-manager --timeout=1s; do
  for pod in $(kubectl get pods -n nodebootstrap-system -o name); do
    kubectl patch -n nodebootstrap-system "$pod" --subresource=status --type=merge -p '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}' || : # it may be deleted
  done
done
`,
	"join": "kubectl wait --for=condition=Ready nodebootstrap/worker-1 --timeout=1m",
	"userdata": `
kubectl nodebootstrap create worker-2
kubectl wait --for=condition=Ready nodebootstrap/worker-2 --timeout=1m
`,
	"sign": `
kubectl nodebootstrap create worker-3
kubectl wait --for=condition=Ready nodebootstrap/worker-3 --timeout=1m
` + request("worker-3", "node"),
	"check": `
kubectl create clusterrolebinding approve-all --group=system:bootstrappers \
  --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient
kubectl wait --for=condition=ApprovalEnforced=False nodebootstrap/worker-2 --timeout=1m
`,
	"explain": `
kubectl nodebootstrap kubeconfig worker-2 > leaked
` + request("worker-4", "other") + `
kubectl --kubeconfig leaked create -f - <<EOF
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: csr-8kx4v}
spec:
  signerName: kubernetes.io/kube-apiserver-client-kubelet
  usages: [digital signature, client auth]
  request: $(base64 -w0 other.csr)
EOF
kubectl wait --for=condition=Denied csr/csr-8kx4v --timeout=1m
kubectl wait --for=condition=TokenMisused nodebootstrap/worker-2 --timeout=1m
`,
}

// request creates a key and a CSR of a node, in files of that name.
func request(node, name string) string {
	return fmt.Sprintf(`
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %[2]s.key
printf "[req]\nstring_mask=default\ndistinguished_name=req\n" |
  openssl req -new -config /dev/stdin -key %[2]s.key -subj /O=system:nodes/CN=system:node:%[1]s -out %[2]s.csr
`, node, name)
}

// TestTranscripts runs the commands of the transcripts on a cluster, and compares what they print, except for what differs in each run.
func TestTranscripts(t *testing.T) {
	dir := build(t, "manager", "kubectl-nodebootstrap")
	t.Setenv("NODEBOOTSTRAP_MANAGERS", filepath.Join(dir, "manager")) // so that the versions are those of a release
	p := newPlayground(t)
	p.path = dir + ":" + p.path
	p.env = append(p.env, "PATH="+p.path)
	s := newStabilizer(p.Server(), documentedServer, strings.TrimPrefix(p.Server(), "https://"), strings.TrimPrefix(documentedServer, "https://"))
	staged := ""
	compareTranscripts(t, func(b Block) bool { return b.Who == "" }, func(b Block) (string, error) {
		if b.Heading != staged {
			staged = b.Heading
			p.run(t, "set -x\n"+strings.TrimPrefix(stages[staged], "\n"))
		}
		return transcribe(b, func(commands string) (string, error) {
			p.noteTokens(t, s)
			output, err := p.try(t, commands)
			p.noteTokens(t, s)
			return s.stable(output), err
		})
	})
}

// noteTokens gives the tokens that are published now their ids in the document, in the order of their nodes.
func (p *playground) noteTokens(t *testing.T, s *stabilizer) {
	t.Helper()
	ids, _ := p.try(t, "kubectl get nodebootstraps -o jsonpath='{.items[*].status.token.id}' 2>/dev/null || :")
	for id := range strings.FieldsSeq(ids) {
		s.give("token", id, tokenIDs)
	}
}

// TestOfflineTranscripts does the same for commands that need no cluster.
func TestOfflineTranscripts(t *testing.T) {
	dir, bin := t.TempDir(), build(t, "kubectl-nodebootstrap")
	env.Must(t, os.WriteFile(filepath.Join(bin, "kubectl"), []byte("#!/bin/sh\nshift\nexec kubectl-nodebootstrap \"$@\"\n"), 0o700))
	s := newStabilizer()
	compareTranscripts(t, func(b Block) bool { return b.Who == offline }, func(b Block) (string, error) {
		return transcribe(b, func(commands string) (string, error) {
			cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", commands)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "none"), "PATH="+bin+":"+os.Getenv("PATH"))
			output, err := cmd.CombinedOutput()
			return s.stable(string(output)), err
		})
	})
}

// compareTranscripts compares the transcripts that are meant with what transcribes them now, or rewrites them.
func compareTranscripts(t *testing.T, isMeant func(Block) bool, now func(Block) (string, error)) {
	t.Helper()
	blocks, err := Blocks(pluginPage)
	env.Must(t, err)
	var stale []Block
	found := 0
	for _, b := range blocks {
		if b.Language != transcript || !isMeant(b) {
			continue
		}
		found++
		text, err := now(b)
		if err != nil {
			t.Errorf("%s, line %d: %v", pluginPage, b.Line, err)
		}
		if sameText(text, b.Text) {
			continue
		}
		if !*update {
			t.Errorf("%s, line %d: the transcript is stale, see make transcripts. It is\n%s\nand should be\n%s", pluginPage, b.Line, b.Text, text)
		}
		now := b
		now.Text = text
		stale = append(stale, now)
	}
	if found == 0 {
		t.Fatalf("%s has no such transcripts", pluginPage)
	}
	if !*update {
		return
	}
	for _, b := range slices.Backward(stale) {
		i := slices.IndexFunc(blocks, func(was Block) bool { return was.Line == b.Line })
		env.Must(t, rewrite(pluginPage, blocks[i], b.Text))
	}
}

// build builds programs with the version of a release, and returns their directory.
func build(t *testing.T, programs ...string) string {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	dir := t.TempDir()
	args := []string{"build", "-ldflags", "-X github.com/nodebootstrap/nodebootstrap/internal/version.version=v0.1.0", "-o", dir + "/"}
	for _, program := range programs {
		args = append(args, "./cmd/"+program)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

var (
	listedCommand = regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)
	mentionedFlag = regexp.MustCompile(`--[a-z][a-z-]+`)
	commandLine   = regexp.MustCompile(`(?m)^\$ .*\n`)
	section       = regexp.MustCompile(`(?m)^## `)
)

// The plugin's page has a section for each command, with a transcript, and mentions no flag that the command does not have.
func TestEachCommandHasItsSection(t *testing.T) {
	program := filepath.Join(build(t, "kubectl-nodebootstrap"), "kubectl-nodebootstrap")
	help := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), program, append(args, "--help")...).Output()
		env.Must(t, err)
		return string(out)
	}
	sections := map[string]string{}
	for _, text := range section.Split(read(t, pluginPage), -1) {
		heading, content, _ := strings.Cut(text, "\n")
		for name := range strings.SplitSeq(heading, ", ") {
			sections[strings.Trim(name, "`")] = content
		}
	}
	_, list, _ := strings.Cut(help(), "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	commands := listedCommand.FindAllStringSubmatch(list, -1)
	if len(commands) < 7 {
		t.Fatalf("only %d commands are found", len(commands))
	}
	for _, match := range commands {
		name := match[1]
		if name == "help" {
			continue
		}
		content := sections[name]
		if !strings.Contains(content, prompt+"kubectl nodebootstrap "+name) {
			t.Errorf("%s has no section %s with a transcript of it", pluginPage, name)
		}
		flags := help(name)
		for _, mentioned := range mentionedFlag.FindAllString(withoutBlocks(content)+strings.Join(commandLine.FindAllString(content, -1), ""), -1) {
			if !regexp.MustCompile(regexp.QuoteMeta(mentioned) + `\b[^-]`).MatchString(flags) {
				t.Errorf("%s, section %s: there is no flag %s", pluginPage, name, mentioned)
			}
		}
	}
}
