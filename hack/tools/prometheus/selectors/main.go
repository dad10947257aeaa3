// SPDX-License-Identifier: Apache-2.0

// Command selectors reads PromQL expressions, a JSON array of strings, and prints for each of them its selectors: the
// names of metrics and their labels.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// selector is a metric in an expression, and the labels that the expression uses.
type selector struct {
	Metric string `json:"metric"`
	// Matchers are the values that labels must equal or match.
	Matchers []matcher `json:"matchers"`
	// GroupedBy are the labels that the expression groups by, or joins on.
	GroupedBy []string `json:"groupedBy"`
}

type matcher struct {
	Label string `json:"label"`
	Op    string `json:"op"`
	Value string `json:"value"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "selectors: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		return err
	}
	all := make([][]selector, len(expressions))
	for i, e := range expressions {
		var err error
		if all[i], err = selectors(e); err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

func selectors(expression string) ([]selector, error) {
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		return nil, err
	}
	found := []selector{}
	var unnamed error
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		vector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		s := selector{Metric: vector.Name, Matchers: []matcher{}, GroupedBy: []string{}}
		for _, m := range vector.LabelMatchers {
			if m.Name != model.MetricNameLabel {
				s.Matchers = append(s.Matchers, matcher{m.Name, m.Type.String(), m.Value})
			} else if m.Type != labels.MatchEqual {
				unnamed = errors.New("a metric is not named")
			}
		}
		for _, above := range path {
			switch above := above.(type) {
			case *parser.AggregateExpr:
				if !above.Without {
					s.GroupedBy = append(s.GroupedBy, above.Grouping...)
				}
			case *parser.BinaryExpr:
				if above.VectorMatching != nil && above.VectorMatching.On {
					s.GroupedBy = append(s.GroupedBy, above.VectorMatching.MatchingLabels...)
				}
			}
		}
		slices.Sort(s.GroupedBy)
		s.GroupedBy = slices.Compact(s.GroupedBy)
		found = append(found, s)
		return nil
	})
	return found, unnamed
}
