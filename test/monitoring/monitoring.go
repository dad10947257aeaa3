// SPDX-License-Identifier: Apache-2.0

// Package monitoring reads the alerts and the dashboard that ship, and PromQL.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/hack/project"
)

const (
	rulesFile     = "config/components/prometheus/rules.yaml"
	dashboardFile = "config/components/dashboard/nodebootstrap.json"
)

// Rules are the content of a file of rules, and the spec of a PrometheusRule.
type Rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []Rule `json:"rules"`
	} `json:"groups"`
}

// Rule is an alert.
type Rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// ReadRules reads the alerts that ship.
func ReadRules() (Rules, error) {
	var object struct {
		APIVersion string          `json:"apiVersion"`
		Kind       string          `json:"kind"`
		Metadata   json.RawMessage `json:"metadata"`
		Spec       Rules           `json:"spec"`
	}
	content, err := read(rulesFile)
	if err == nil {
		err = yaml.UnmarshalStrict(content, &object)
	}
	return object.Spec, err
}

// Query is a query of a dashboard.
type Query struct{ Panel, Expr string }

// ReadDashboard reads the queries of the dashboard that ships, as Grafana sends them, including those of its variables.
func ReadDashboard() ([]Query, error) {
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct {
				Name  string `json:"name"`
				Query string `json:"query"`
			} `json:"list"`
		} `json:"templating"`
	}
	content, err := read(dashboardFile)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		return nil, fmt.Errorf("%s: %w", dashboardFile, err)
	}
	var queries []Query
	for _, p := range dashboard.Panels {
		for _, t := range p.Targets {
			queries = append(queries, Query{p.Title, inGrafana.Replace(t.Expr)})
		}
	}
	for _, v := range dashboard.Templating.List {
		if of, ok := strings.CutPrefix(v.Query, "label_values("); ok { // a metric and a label of it
			metric, label, _ := strings.Cut(strings.TrimSuffix(of, ")"), ", ")
			queries = append(queries, Query{"variable " + v.Name, "sum by (" + label + ") (" + metric + ")"})
		}
	}
	return queries, nil
}

// inGrafana are the variables that Grafana replaces.
var inGrafana = strings.NewReplacer("$__rate_interval", "5m", "$job", ".+")

// Selector is what hack/tools/prometheus/selectors finds in a PromQL expression.
type Selector struct {
	Metric   string `json:"metric"`
	Matchers []struct {
		Label string `json:"label"`
		Op    string `json:"op"`
		Value string `json:"value"`
	} `json:"matchers"`
	GroupedBy []string `json:"groupedBy"`
}

// Selectors reads expressions as Prometheus does.
func Selectors(ctx context.Context, expressions []string) ([][]Selector, error) {
	in, err := json.Marshal(expressions)
	if err != nil {
		return nil, err
	}
	out, err := run(ctx, bytes.NewReader(in), "./selectors")
	if err != nil {
		return nil, err
	}
	var selectors [][]Selector
	return selectors, json.Unmarshal(out, &selectors)
}

// promtool runs promtool.
func promtool(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, nil, append([]string{"github.com/prometheus/prometheus/cmd/promtool"}, args...)...)
}

// run runs a program of the module of the Prometheus tools. Not go tool: that takes no build tags.
func run(ctx context.Context, in *bytes.Reader, args ...string) ([]byte, error) {
	root, err := project.Root()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "-tags=remove_all_sd"}, args...)...)
	cmd.Dir = filepath.Join(root, "hack", "tools", "prometheus")
	if in != nil {
		cmd.Stdin = in
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s%s", args, err, out, stderr.Bytes())
	}
	return out, nil
}

func read(name string) ([]byte, error) {
	root, err := project.Root()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
}
