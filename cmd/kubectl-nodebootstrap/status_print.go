// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	none = "none"
	// markWaits is before the step that a node waits for, if nobody must act.
	markWaits = "…"
)

// printMarked prints text in which marks can be at the beginning of lines.
func printMarked(out io.Writer, text string) error {
	m := newMarker(out)
	var escaped strings.Builder
	if err := printers.WriteEscaped(&escaped, text); err != nil {
		return err
	}
	for line := range strings.Lines(escaped.String()) {
		trimmed := strings.TrimLeft(line, " ")
		if mark, rest, found := strings.Cut(trimmed, " "); found {
			line = line[:len(line)-len(trimmed)] + m.mark(mark) + " " + rest
		}
		if _, err := io.WriteString(out, line); err != nil {
			return err
		}
	}
	return nil
}

// describe returns a description of a node, for people.
func describe(s *nodeStatus, wide bool, now time.Time) string {
	var out strings.Builder
	describeState(&out, s, now)
	describeSteps(&out, s, now)
	describeConditions(&out, s.Conditions, now)
	describeDecisions(&out, s.Decisions, wide, now)
	return out.String()
}

func tabbed(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

func describeState(out io.Writer, s *nodeStatus, now time.Time) {
	w := tabbed(out)
	defer w.Flush()
	row := func(label, value string) { fmt.Fprintf(w, "%s:\t%s\n", label, oneLine(value)) }
	row("Name", s.Name)
	row("Ready", strings.Join(strings.Fields(s.Ready+" "+s.Reason), ", "))
	row("Message", s.Message)
	for _, warning := range s.warnings {
		row(warning.label, warning.text)
	}
	row("Server", cmp.Or(s.Server, none))
	row("Token", tokenText(s.Token, now))
	row("Kubeconfig", secretText(s.Kubeconfig))
	if s.Expires != nil {
		row("Certificate", "expires "+stamp(s.Expires.ExpirationTime, now))
	}
	if s.Reissue != "" {
		row("Reissue", s.Reissue)
	}
}

func describeSteps(out io.Writer, s *nodeStatus, now time.Time) {
	fmt.Fprintln(out, "Steps:")
	for _, step := range s.Steps {
		mark, text := " ", ""
		switch {
		case step.Done && step.Time == nil:
			mark, text = markGood, "done"
		case step.Done:
			mark, text = markGood, step.Time.UTC().Format(time.RFC3339)
			if step.Seconds != nil {
				text += "  after " + tookText(*step.Seconds)
			}
		case step.Name == s.Step:
			mark, text = s.mark(), "waiting for "+ago(*s.Since, now)+": "+oneLine(s.WaitingFor)
		}
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("  %s %-10s  %s", mark, step.Name, text), " "))
	}
}

// mark is the mark of what a node waits for.
func (s *nodeStatus) mark() string {
	if s.NeedsAction {
		return markWarning
	}
	return markWaits
}

// tookText is a number of seconds as people write it.
func tookText(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func describeConditions(out io.Writer, conditions []metav1.Condition, now time.Time) {
	if len(conditions) == 0 {
		fmt.Fprintln(out, "Conditions:  "+none)
		return
	}
	fmt.Fprintln(out, "Conditions:")
	w := tabbed(out)
	defer w.Flush()
	fmt.Fprint(w, "  Type\tStatus\tReason\tFor\tMessage\n")
	for _, c := range conditions {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", c.Type, c.Status, c.Reason, ago(c.LastTransitionTime, now), oneLine(c.Message))
	}
}

func describeDecisions(out io.Writer, decisions []v1alpha1.CertificateDecision, wide bool, now time.Time) {
	if len(decisions) == 0 {
		fmt.Fprintln(out, "Certificate requests:  "+none)
		return
	}
	fmt.Fprintln(out, "Certificate requests:")
	if wide {
		for _, d := range decisions {
			describeDecision(out, d, now)
		}
		return
	}
	w := tabbed(out)
	defer w.Flush()
	fmt.Fprint(w, "  Name\tDecision\tReason\tAge\tMessage\n")
	for _, d := range decisions {
		line := fmt.Sprintf("  %s\t%s\t%s\t%s\t%s", d.Name, d.Verdict, d.Reason, ago(d.Time, now), oneLine(d.Message))
		fmt.Fprintln(w, strings.TrimRight(line, "\t"))
	}
}

func describeDecision(out io.Writer, d v1alpha1.CertificateDecision, now time.Time) {
	w := tabbed(out)
	defer w.Flush()
	fmt.Fprintf(w, "  %s\n", d.Name)
	fmt.Fprintf(w, "    Decision:\t%s, %s, %s\n", d.Verdict, d.Reason, stamp(d.Time, now))
	if d.Message != "" {
		fmt.Fprintf(w, "    Message:\t%s\n", oneLine(d.Message))
	}
	fmt.Fprintf(w, "    Signer:\t%s\n", d.SignerName)
	fmt.Fprintf(w, "    Token:\t%s\n", cmp.Or(d.TokenID, none))
	fmt.Fprintf(w, "    Key:\t%s\n", cmp.Or(d.KeyFingerprint, none))
	if d.IssuedTime != nil {
		fmt.Fprintf(w, "    Issued:\t%s\n", stamp(*d.IssuedTime, now))
	}
}

func tokenText(t *v1alpha1.TokenStatus, now time.Time) string {
	if t == nil {
		return none
	}
	return t.ID + ", expires " + stamp(t.ExpirationTime, now)
}

func secretText(ref *v1alpha1.SecretReference) string {
	if ref == nil {
		return none
	}
	return "Secret " + ref.Namespace + "/" + ref.Name
}

// describeList returns a line for each node that waits or requires action, and one for all that have joined.
func describeList(list statusList, wide bool, now time.Time) string {
	var out strings.Builder
	if len(list.Nodes) > 0 {
		w := tabbed(&out)
		header := "  NAME\tNEXT STEP\tFOR\tWAITING FOR"
		if wide {
			header = "  NAME\tNEXT STEP\tFOR\tTOKEN\tSERVER\tREQUEST\tWAITING FOR"
		}
		fmt.Fprintln(w, header)
		for i := range list.Nodes {
			fmt.Fprintln(w, list.Nodes[i].line(wide, now))
		}
		w.Flush()
		out.WriteString("\n")
	}
	fmt.Fprintln(&out, list.count())
	return out.String()
}

func (l *statusList) count() string {
	text := map[bool]string{true: "1 node has joined", false: fmt.Sprintf("%d nodes have joined", l.Joined)}[l.Joined == 1]
	if len(l.Nodes) == 0 {
		text += ", none is waiting"
	}
	return text + "."
}

// line is the line of a node in the list.
func (s *nodeStatus) line(wide bool, now time.Time) string {
	mark, since := " ", ""
	if s.NeedsAction {
		mark = markWarning
	}
	if s.Since != nil && !s.Joined {
		since = ago(*s.Since, now)
	}
	columns := []string{mark + " " + s.Name, s.currentStep(), since}
	if wide {
		token := none
		if s.Token != nil {
			token = s.Token.ID
		}
		columns = append(columns, token, cmp.Or(s.Server, none), cmp.Or(s.Request, none))
	}
	return strings.Join(append(columns, s.headline()), "\t")
}

// currentStep is the step that the list shows.
func (s *nodeStatus) currentStep() string {
	if s.Joined {
		return "joined"
	}
	return s.Step
}
