// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// explanation is what kubectl nodebootstrap explain -o json prints, as far as the tests need it.
type explanation struct {
	Checks []struct {
		Check, State, Reason string
	}
	Verdict struct {
		State, By, Next, Reason string
	}
}

// failed is the check that decided, with its reason.
func (e *explanation) failed() (check, reason string) {
	for _, c := range e.Checks {
		if c.State == "Failed" {
			return c.Check, c.Reason
		}
	}
	return "", ""
}

// explain runs the plugin's command as an administrator.
func explain(t *testing.T, request string) (*explanation, string) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	admin, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"), "explain", request, "-o", "json", "--kubeconfig", admin)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, errOut.String()
	}
	var e explanation
	env.Must(t, json.Unmarshal([]byte(out.String()), &e))
	return &e, ""
}

// explainsDenial checks that the plugin explains a denial with the check and the reason of the operator's decision.
func explainsDenial(t *testing.T, a attack) {
	t.Helper()
	e, failure := explain(t, a.request.Name)
	if e == nil { // the operator deletes what asks another signer
		err := cluster.Client.Get(t.Context(), client.ObjectKeyFromObject(a.request), a.request)
		if !apierrors.IsNotFound(err) || !strings.Contains(failure, "Denied, "+a.Reason) {
			t.Errorf("%s: explain fails: %s", a.Name, failure)
		}
		return
	}
	check, reason := e.failed()
	if check == "" || reason != a.Reason || e.Verdict.State != "Denied" || e.Verdict.By != "the operator" || e.Verdict.Reason != a.Reason {
		t.Errorf("%s (%s): the operator's decision is Denied, %s; explain says %s, %s and %+v", a.Name, a.Why, a.Reason, check, reason, e.Verdict)
	}
}

// explainsWait checks that the plugin explains why a CSR is not approved.
func explainsWait(t *testing.T, a attack) {
	t.Helper()
	e, failure := explain(t, a.request.Name)
	if e == nil {
		t.Fatalf("%s: explain fails: %s", a.Name, failure)
	}
	check, reason := e.failed()
	if check == "" || reason != a.Reason || e.Verdict.State != "Pending" || e.Verdict.Next != "Wait" || e.Verdict.Reason != a.Reason {
		t.Errorf("%s (%s): the operator waits for %s; explain says %s, %s and %+v", a.Name, a.Why, a.Reason, check, reason, e.Verdict)
	}
}

// explainsApproval checks that the plugin explains an approval with the operator's reason.
func explainsApproval(t *testing.T, request, reason string) {
	t.Helper()
	e, failure := explain(t, request)
	if e == nil {
		t.Fatalf("explain fails: %s", failure)
	}
	if check, _ := e.failed(); check != "" || len(e.Checks) == 0 || e.Verdict.State != "Approved" || e.Verdict.By != "the operator" || e.Verdict.Reason != reason {
		t.Errorf("the operator approved %s, %s; explain says %q and %+v", request, reason, check, e.Verdict)
	}
}
