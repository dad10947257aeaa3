// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// limitsName is the name of the ConfigMap with the parameters of the policy nodebootstrap-limits.
const limitsName = "nodebootstrap-limits"

// InstallPolicies applies all policies of config/components, with the given parameters of the limits on NodeBootstraps instead of
// the default ones, and returns when the API server enforces the policies.
func InstallPolicies(ctx context.Context, c *localcluster.Cluster, limits map[string]string) error {
	root, err := localcluster.ProjectRoot()
	if err != nil {
		return fmt.Errorf("installing the policies: %w", err)
	}
	apply := func(files ...string) error {
		for _, file := range files {
			if _, err := Kubectl(ctx, c, "apply", "-f", filepath.Join(root, "config", "components", file)); err != nil {
				return fmt.Errorf("installing config/components/%s: %w", file, err)
			}
		}
		return nil
	}
	// The parameters come first: the API server uses those that exist when it first reads the policy.
	if err := apply("limits/parameters.yaml"); err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(c.AdminConfig())
	if err != nil {
		return err
	}
	configMaps := clients.CoreV1().ConfigMaps(Namespace)
	parameters, err := configMaps.Get(ctx, limitsName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the parameters of the limits: %w", err)
	}
	maps.Copy(parameters.Data, limits)
	if _, err := configMaps.Update(ctx, parameters, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("setting the parameters of the limits: %w", err)
	}
	if err := apply("cage/cage.yaml", "guard/guard.yaml", "limits/limits.yaml"); err != nil {
		return err
	}
	return WaitForPolicies(ctx, c)
}

// probe is an object that a policy refuses, sent as a dry run by a member of system:masters, so that nothing else refuses it.
type probe struct {
	policy      string
	user, group string
	path, body  string
	says        string // is in the refusal
}

var probes = []probe{
	{"nodebootstrap-cage", operatorUser, "", "/api/v1/namespaces/kube-system/configmaps",
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"probe"}}`, "may write nothing"},
	{"nodebootstrap-cage-secrets", operatorUser, "", "/api/v1/namespaces/kube-system/secrets",
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"probe"}}`, ""},
	{"nodebootstrap-cage-bindings", operatorUser, "", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"probe"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}}`, ""},
	{"nodebootstrap-guard-tokens", "probe", token.Group, "/api/v1/namespaces/kube-system/configmaps",
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"probe"}}`, ""},
	{"nodebootstrap-limits", "probe", "", "/apis/nodebootstrap.io/v1alpha1/nodebootstraps",
		`{"apiVersion":"nodebootstrap.io/v1alpha1","kind":"NodeBootstrap","metadata":{"name":"probe"},"spec":{"servingCertificate":{"addresses":["localhost"]}}}`, "names localhost"}, // and not for lack of parameters
}

const operatorUser = "system:serviceaccount:" + Namespace + ":" + ServiceAccount

// WaitForPolicies waits until the API server, which reads policies from an informer, enforces those of config/components.
func WaitForPolicies(ctx context.Context, c *localcluster.Cluster) error {
	for _, p := range probes {
		cfg := c.AdminConfig()
		cfg.Impersonate = rest.ImpersonationConfig{UserName: p.user, Groups: []string{"system:masters"}}
		if p.group != "" {
			cfg.Impersonate.Groups = append(cfg.Impersonate.Groups, p.group)
		}
		clients, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		var last error
		err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, readyLimit, true, func(ctx context.Context) (bool, error) {
			last = clients.RESTClient().Post().AbsPath(p.path).Param("dryRun", "All").Body([]byte(p.body)).
				SetHeader("Content-Type", "application/json").Do(ctx).Error()
			return Refuses(p.policy, last) && strings.Contains(last.Error(), p.says), nil
		})
		if err != nil {
			return fmt.Errorf("waiting for the policy %s: %w; the last answer was: %v", p.policy, err, last) //nolint:errorlint // nil is printed too
		}
	}
	return nil
}

// Refuses reports whether an error is the refusal of a policy.
func Refuses(policy string, err error) bool {
	return err != nil && strings.Contains(err.Error(), fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding", policy))
}
