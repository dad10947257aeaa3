// SPDX-License-Identifier: Apache-2.0

package env

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
)

// Audit is the API server's record of the operator's requests.
type Audit struct{ dir string }

const operatorUser = "system:serviceaccount:" + operator.Namespace + ":" + operator.ServiceAccount

// NewAudit prepares a record in a directory.
func NewAudit(dir string) (*Audit, error) {
	policy := fmt.Sprintf(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: [%q]
- level: None
`, operatorUser)
	a := &Audit{dir: dir}
	return a, os.WriteFile(a.file("policy.yaml"), []byte(policy), 0o600)
}

func (a *Audit) file(name string) string { return filepath.Join(a.dir, name) }

// Args are the API server's flags for the record.
func (a *Audit) Args() map[string]string {
	return map[string]string{"audit-policy-file": a.file("policy.yaml"), "audit-log-path": a.file("audit.log")}
}

// Entry is one request of the operator's.
type Entry struct {
	Verb      string
	ObjectRef struct{ Resource, Subresource, Namespace, Name string }
	// ResponseStatus has the HTTP status.
	ResponseStatus struct{ Code int }
	// Annotations has the authorizer's decision.
	Annotations map[string]string
}

// String is the request in a line.
func (e Entry) String() string {
	return fmt.Sprintf("%s %s/%s %s/%s: %d", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource, e.ObjectRef.Namespace, e.ObjectRef.Name, e.ResponseStatus.Code)
}

// IsWrite reports whether the request is a write, stored or refused. Leases do not count, nor reviews, which store nothing.
func (e Entry) IsWrite() bool {
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb) &&
		!slices.Contains([]string{"leases", "tokenreviews", "subjectaccessreviews"}, e.ObjectRef.Resource)
}

// Forbidden reports whether the operator was refused for lack of a permission, and not by admission or quota.
func (e Entry) Forbidden() bool { return e.Annotations["authorization.k8s.io/decision"] == "forbid" }

// Entries are all requests so far.
func (a *Audit) Entries() ([]Entry, error) {
	f, err := os.Open(a.file("audit.log"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []Entry
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the line is still being written
		}
		out = append(out, e)
	}
	return out, lines.Err()
}

// Writes are the writes so far.
func (a *Audit) Writes() ([]Entry, error) {
	entries, err := a.Entries()
	return slices.DeleteFunc(entries, func(e Entry) bool { return !e.IsWrite() }), err
}
