// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

// explanation is the result of the command explain. Its texts come from clean.
type explanation struct {
	Name string `json:"name"`
	// Whose says who sent the CSR.
	Whose         string           `json:"whose"`
	NodeBootstrap string           `json:"nodeBootstrap,omitempty"`
	Request       explainedRequest `json:"request"`
	Checks        []csr.Finding    `json:"checks,omitempty"`
	Verdict       explainedVerdict `json:"verdict"`
	ToDo          string           `json:"toDo"`
}

// explainedRequest is what a CSR requests.
type explainedRequest struct {
	Signer    string       `json:"signer"`
	Username  string       `json:"username,omitempty"`
	Groups    []string     `json:"groups,omitempty"`
	Created   *metav1.Time `json:"created,omitempty"`
	Subject   string       `json:"subject,omitempty"`
	Names     []string     `json:"names,omitempty"`
	Key       string       `json:"key,omitempty"`
	Print     string       `json:"keyFingerprint,omitempty"`
	Usages    []string     `json:"usages,omitempty"`
	Seconds   *int32       `json:"expirationSeconds,omitempty"`
	Malformed string       `json:"malformed,omitempty"`
}

// unknownState is the state of a check that rests on an unknown fact.
const unknownState csr.State = "Unknown"

type explainedVerdict struct {
	// State is Approved, Denied, Failed or Pending.
	State string `json:"state"`
	// By is who decided.
	By   string       `json:"by,omitempty"`
	Time *metav1.Time `json:"time,omitempty"`
	// Issued reports whether the CSR has its certificate.
	Issued bool `json:"issued,omitempty"`
	// Next is what the operator does with a pending CSR, and Rule is the rule of internal/lifecycle that says so.
	Next string `json:"next,omitempty"`
	Rule string `json:"rule,omitempty"`
	// Reason and Message are those of the decision, or of Next.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Unknown reports whether Next rests on facts that are not known here.
	Unknown bool `json:"unknown,omitempty"`
	// Recorded is the decision in the NodeBootstrap's status, and Operators the reason of the operator's checks, if someone else decided.
	Recorded  string `json:"recorded,omitempty"`
	Operators string `json:"operators,omitempty"`
}

// maxCleanRunes bounds each text of a CSR that is printed.
const maxCleanRunes = 1200

// clean makes a text from the cluster safe for a terminal, and a single line: whoever can send CSRs chooses most of what is in them.
func clean(text string) string {
	var out strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > maxCleanRunes {
			out.WriteString("...")
			break
		}
		if unicode.IsPrint(r) {
			out.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return out.String()
}

// maxCleanList bounds each list of a CSR that is printed.
const maxCleanList = 20

func cleanAll[S ~string](texts []S) []string {
	var out []string
	for i, text := range texts {
		if i == maxCleanList {
			return append(out, fmt.Sprintf("and %d more", len(texts)-i))
		}
		out = append(out, clean(string(text)))
	}
	return out
}

// describe returns an explanation that only has what the CSR requests.
func (s *situation) describe() *explanation {
	r := s.sent
	e := &explanation{Name: clean(r.Name), Request: explainedRequest{
		Signer: clean(r.Spec.SignerName), Username: clean(r.Spec.Username), Groups: cleanAll(r.Spec.Groups), Usages: cleanAll(r.Spec.Usages), Seconds: r.Spec.ExpirationSeconds}}
	if !r.CreationTimestamp.IsZero() {
		e.Request.Created = &r.CreationTimestamp
	}
	parsed, err := csr.Parse(r)
	if err != nil {
		e.Request.Malformed = clean(err.Error())
		return e
	}
	e.Request.Subject, e.Request.Key = clean(parsed.Subject.String()), csr.DescribeKey(parsed.PublicKey)
	e.Request.Print, _ = csr.Fingerprint(r)
	names := slices.Clone(parsed.DNSNames)
	for _, ip := range parsed.IPAddresses {
		names = append(names, ip.String())
	}
	e.Request.Names = cleanAll(names)
	return e
}

// write prints an explanation for people.
func (e *explanation) write(out io.Writer, now time.Time) error {
	var text strings.Builder
	e.writeRequest(&text, now)
	m := newMarker(out)
	if len(e.Checks) > 0 {
		text.WriteString("\nChecks:\n")
	}
	width := 0
	for _, c := range e.Checks {
		width = max(width, len(c.Check))
	}
	marks := map[csr.State]string{csr.Passed: markGood, csr.Failed: markBad, unknownState: markWarning, csr.NotReached: "-"}
	for _, c := range e.Checks {
		fmt.Fprintf(&text, "  %s %-*s  %s\n", m.mark(marks[c.State]), width, c.Check, c.Requires)
		if c.Message != "" {
			fmt.Fprintf(&text, "    %s\n", strings.TrimPrefix(c.Reason+": "+c.Message, ": "))
		}
	}
	fmt.Fprintf(&text, "\nVerdict:  %s\n", e.Verdict.text(now))
	if e.Verdict.Message != "" && !e.inChecks(e.Verdict.Message) {
		fmt.Fprintf(&text, "          %s\n", e.Verdict.Message)
	}
	fmt.Fprintf(&text, "To do:    %s\n", e.ToDo)
	_, err := io.WriteString(out, text.String())
	return err
}

func (e *explanation) inChecks(message string) bool {
	return slices.ContainsFunc(e.Checks, func(c csr.Finding) bool { return c.Message == message })
}

func (e *explanation) writeRequest(out io.Writer, now time.Time) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(label, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", label, value)
		}
	}
	r := e.Request
	row("CSR", e.Name)
	row("NodeBootstrap", e.NodeBootstrap)
	row("From", e.Whose)
	row("Requester", strings.Join(slices.DeleteFunc([]string{r.Username, strings.Join(r.Groups, ", ")}, func(s string) bool { return s == "" }), "; "))
	row("Signer", r.Signer)
	if r.Created != nil {
		row("Created", stamp(*r.Created, now))
	}
	row("Subject", r.Subject)
	row("Names", strings.Join(r.Names, ", "))
	row("Key", strings.TrimSpace(r.Key+" "+r.Print))
	row("Usages", strings.Join(r.Usages, ", "))
	if r.Seconds != nil {
		row("Duration", (time.Duration(*r.Seconds) * time.Second).String())
	}
	row("Malformed", r.Malformed)
}

// nexts are what the operator does with a pending CSR, in words.
var nexts = map[string]string{
	"Approve": "the operator approves it", "Deny": "the operator denies it", "Delete": "the operator deletes it", "Wait": "it waits",
	"Leave": "the operator leaves it alone",
}

func (v explainedVerdict) text(now time.Time) string {
	text := v.State
	if v.Next != "" {
		text += ": " + cmp.Or(nexts[v.Next], v.Next)
	}
	if v.Next == "Approve" && v.Unknown {
		text += ", unless what is not known here says otherwise"
	}
	if v.By != "" {
		text += " by " + v.By
	}
	if v.Time != nil {
		text += ", " + stamp(*v.Time, now)
	}
	if v.Reason != "" {
		text += ": " + v.Reason
	}
	switch {
	case v.Issued:
		text += "; the certificate is issued"
	case v.State == approved:
		text += "; the certificate is not issued yet"
	}
	if v.Recorded != "" {
		text += ". The NodeBootstrap's status records: " + v.Recorded
	}
	if v.Operators != "" {
		text += ". The operator's checks say: " + v.Operators
	}
	return text
}
