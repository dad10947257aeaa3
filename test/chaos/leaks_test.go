// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
	"github.com/nodebootstrap/nodebootstrap/test/invariants"
)

// finding is a canary that was found in a file.
type finding struct {
	file string
	invariants.Found
}

func (f finding) String() string {
	return invariants.Secrets.Violated("%s has %s: %q", f.file, f.Name, f.Around)
}

// wholeToken matches any whole token. One whose Secret could not be stored is unknown here, but must not leak either.
var wholeToken = regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)

// searchFiles searches all files below a directory for all canaries. Files that only the operator fills are also
// searched for anything like a token. It also returns the number of bytes in each file.
func searchFiles(known *invariants.Canaries, dir string) (found []finding, sizes map[string]int, err error) {
	sizes = map[string]int{}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := entry.Name()
		sizes[name] = len(content)
		for _, f := range known.In(content) {
			found = append(found, finding{name, f})
		}
		if strings.HasPrefix(name, managerLog) || name == metricsFile {
			for _, at := range wholeToken.FindAllIndex(content, -1) {
				found = append(found, finding{name, invariants.Found{Name: "what looks like a token", Around: invariants.Around(content, at[0], at[1]-at[0])}})
			}
		}
		return nil
	})
	return found, sizes, err
}

// The files that the search must have read. Of stored objects it reads every version.
const (
	metricsFile  = "metrics.txt"  // /metrics, scraped again and again
	eventsFile   = "events.txt"   // each Event that was stored
	statusesFile = "statuses.txt" // each NodeBootstrap that was stored
	othersFile   = "others.txt"   // all other stored objects, except Secrets
	auditFile    = "audit.log"
	managerLog   = "manager-" // and a number
)

// canaryNode is a node's name as long as the secret part of a token, and is searched for like one: finding it wherever the
// operator names nodes proves that the search covers those files.
const canaryNode = "canary4node5name"

// printedLeaks is how many leaks are printed, because one bad line of code leaks in many places.
const printedLeaks = 20

// checkLeaks searches for the secret part of every token that ever existed: in the logs of managers, servers and kubelets,
// in the audit log, in /metrics, and in everything that was ever stored outside of Secrets.
func (s *suite) checkLeaks() {
	parts := look(s.seen, func(l *ledger) map[string]string { return maps.Clone(l.Parts) })
	tokens := len(parts)
	parts[canaryNode] = canaryNode
	found, sizes, err := searchFiles(invariants.CanariesOf(parts), s.dir)
	if err != nil {
		s.t.Error(err)
	}
	named := map[string]bool{}
	leaks := slices.DeleteFunc(found, func(f finding) bool {
		isName := strings.HasPrefix(f.Name, canaryNode) && f.file != metricsFile // metrics have no labels with names of nodes
		switch {
		case isName && strings.HasPrefix(f.file, managerLog):
			named[managerLog] = true
		case isName:
			named[f.file] = true
		}
		return isName
	})
	for _, leak := range leaks[:min(len(leaks), printedLeaks)] {
		s.t.Error(leak)
	}
	if more := len(leaks) - printedLeaks; more > 0 {
		s.t.Errorf("and %d more", more)
	}
	total := 0
	for _, size := range sizes {
		total += size
	}
	s.t.Logf("searched %d files with %d bytes for the secret parts of %d tokens", len(sizes), total, tokens)
	for _, file := range []string{eventsFile, statusesFile, auditFile, managerLog} {
		if !named[file] {
			s.t.Errorf("the search did not find the name of the node %s in %s", canaryNode, file)
		}
	}
	for _, file := range []string{metricsFile, othersFile, "kube-apiserver.log", "etcd.log", "kube-controller-manager.log"} {
		if sizes[file] == 0 {
			s.t.Errorf("there was nothing to search in %s", file)
		}
	}
}

const foreignTokenID, foreignGroup = "theirs", "system:bootstrappers:theirs"

// plantForeign creates objects that look like the operator's and are not.
func (s *suite) plantForeign() []client.Object {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name}
	}
	planted := []client.Object{
		&corev1.Secret{
			ObjectMeta: meta(token.Namespace, token.SecretName(foreignTokenID)),
			Type:       bootstrapapi.SecretTypeBootstrapToken,
			StringData: map[string]string{
				bootstrapapi.BootstrapTokenIDKey: foreignTokenID, bootstrapapi.BootstrapTokenSecretKey: "0123456789abcdef",
				bootstrapapi.BootstrapTokenUsageAuthentication: "true", bootstrapapi.BootstrapTokenExtraGroupsKey: foreignGroup,
			},
		},
		&corev1.Secret{ObjectMeta: meta(operator.Namespace, "foreign"), StringData: map[string]string{"key": "value"}},
		&corev1.Secret{ObjectMeta: meta(operator.Namespace, owned.KubeconfigSecretName("foreign")), StringData: map[string]string{"kubeconfig": "theirs"}},
		&corev1.ConfigMap{ObjectMeta: meta(operator.Namespace, "foreign"), Data: map[string]string{"key": "value"}},
		env.Binding("foreign", "system:node-bootstrapper", rbacv1.GroupKind, foreignGroup),
		env.Binding("foreign-wide", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rbacv1.GroupKind, token.ClusterWideGroup+"r"),
	}
	for _, o := range planted {
		if err := s.env.Client.Create(s.ctx, o); err != nil {
			s.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
	return append(planted, s.plantRequest(canaryNode), s.plantRequest("foreign"))
}

// plantRequest sends a kubelet's CSR with someone else's token.
func (s *suite) plantRequest(node string) client.Object {
	request, err := env.KubeletRequest(node)
	env.Must(s.t, err)
	kubeconfig, err := s.env.TokenKubeconfig(foreignTokenID + ".0123456789abcdef")
	env.Must(s.t, err)
	_, c, err := connect(kubeconfig)
	env.Must(s.t, err)
	var sent *certificatesv1.CertificateSigningRequest
	s.admin.insist(s.ctx, "sending a foreign request", func(ctx context.Context) error { // the API server accepts the token after a moment
		sent, err = c.CertificatesV1().CertificateSigningRequests().Create(ctx, request, metav1.CreateOptions{})
		return err
	})
	return sent
}

// checkForeign checks that the planted objects are unchanged.
func (s *suite) checkForeign(planted []client.Object) {
	for _, o := range planted {
		now := o.DeepCopyObject().(client.Object)
		err := s.env.Client.Get(s.t.Context(), client.ObjectKeyFromObject(o), now)
		switch {
		case err != nil:
			s.t.Error(invariants.Foreign.Violated("%T %s: %v", o, o.GetName(), err))
		case now.GetUID() != o.GetUID() || now.GetResourceVersion() != o.GetResourceVersion():
			s.t.Error(invariants.Foreign.Violated("%T %s was changed: %+v is now %+v", o, o.GetName(), o, now))
		}
	}
}
