// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// The timeline of a stock kubelet's join becomes complete, in order, and stays so when its token and CSR no longer exist.
func TestStatusShowsATimeline(t *testing.T) {
	t.Parallel()
	const name = "worker-timeline"
	type node struct {
		Joined     bool   `json:"joined"`
		Step       string `json:"step"`
		WaitingFor string `json:"waitingFor"`
		Steps      []struct {
			Name string     `json:"name"`
			Done bool       `json:"done"`
			Time *time.Time `json:"time"`
		} `json:"steps"`
	}
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	admin, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	status := func() (n node, err error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"),
			"status", name, "-o", "json", "--kubeconfig", admin).Output()
		if err == nil {
			err = json.Unmarshal(out, &n)
		}
		return n, err
	}
	_, kubeconfig := cluster.CreateAwaited(t, name)
	before, err := status()
	if err != nil || before.Step != steps.Requested || before.Joined || !before.Steps[0].Done || before.Steps[0].Time == nil {
		t.Fatalf("before the kubelet starts it is %+v, %v", before, err)
	}
	startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
	waitNodeReady(t, name)
	env.Eventually(t, "the timeline is complete", func() error {
		n, err := status()
		if err != nil {
			return err
		}
		if !n.Joined || n.Step != "" {
			return fmt.Errorf("it is %+v", n)
		}
		var names []string
		last := time.Time{}
		for _, s := range n.Steps {
			names = append(names, s.Name)
			if !s.Done || s.Time == nil || s.Time.Before(last) {
				return fmt.Errorf("the step %s is %+v, after %s", s.Name, s, last)
			}
			last = *s.Time
		}
		if want := []string{steps.Published, steps.Requested, steps.Approved, steps.Issued, steps.Registered, steps.Ready}; !slices.Equal(names, want) {
			return fmt.Errorf("the steps are %q", names)
		}
		return nil
	})
}
