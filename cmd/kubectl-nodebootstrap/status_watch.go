// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/nodebootstrap/nodebootstrap/internal/steps"
)

// statusInterval is the time between two reads of a watch.
const statusInterval = time.Second

// watchOne shows each change of a node, until all its steps are done.
func (o *statusOptions) watchOne(ctx context.Context, r *statusReader, name string) error {
	view := (&lines{out: o.Out}).begin(joinTarget{node: name})
	shown := map[string]bool{}
	var last any
	err := poll(ctx, o, func(ctx context.Context) (bool, error) {
		s, err := r.one(ctx, name)
		if err != nil {
			return false, err
		}
		if o.output.isStructured() {
			err = o.changed(&last, s)
		} else {
			for _, n := range s.news() {
				if !shown[n.key] {
					shown[n.key] = true
					view.step(n.text)
				}
			}
		}
		return s.done(r.noNodes), err
	})
	if ctx.Err() != nil {
		return errors.New("interrupted before the node was Ready")
	}
	return err
}

// done reports whether all steps of a node are done, as far as the user may see them.
func (s *nodeStatus) done(nodesForbidden bool) bool {
	for _, step := range s.Steps {
		if !step.Done && (step.Name != steps.Ready || !nodesForbidden) {
			return false
		}
	}
	return s.Joined
}

// news is a line about a node, which is shown once for each key.
type news struct{ key, text string }

// news are the lines about a node.
func (s *nodeStatus) news() []news {
	var out []news
	for _, w := range s.warnings {
		text := markWarning + " " + w.label + ": " + oneLine(w.text)
		out = append(out, news{text, text})
	}
	for _, step := range s.Steps {
		switch {
		case step.Done:
			text := markGood + " " + step.Name
			if step.Time != nil {
				text += " at " + step.Time.UTC().Format(time.RFC3339)
			}
			if step.Seconds != nil {
				text += ", after " + tookText(*step.Seconds)
			}
			out = append(out, news{step.Name, text})
		case step.Name == s.Step:
			text := s.mark() + " " + step.Name + ": waiting for " + oneLine(s.WaitingFor)
			out = append(out, news{text, text})
		}
	}
	return out
}

// watchAll shows all nodes that wait, and each change, until the command is interrupted.
func (o *statusOptions) watchAll(ctx context.Context, r *statusReader) error {
	var views map[string]*nodeView
	var screen screen
	var last any
	count := ""
	defer func() {
		if screen != nil {
			screen.close()
		}
	}()
	err := poll(ctx, o, func(ctx context.Context) (bool, error) {
		list, err := r.all(ctx)
		if err != nil {
			return false, err
		}
		if o.output.isStructured() {
			return false, o.changed(&last, list)
		}
		if screen == nil {
			screen, views = o.screen(list), map[string]*nodeView{}
		}
		showAll(screen, views, list)
		if text := list.count(); text != count && !printers.IsTerminal(o.Out) {
			count = text
			fmt.Fprintln(o.Out, text)
		}
		return false, nil
	})
	if ctx.Err() != nil { // that is how it ends
		return nil
	}
	return err
}

// nodeView is the row of a node, or its lines.
type nodeView struct {
	timeline
	text string
}

func (o *statusOptions) screen(list statusList) screen {
	if !printers.IsTerminal(o.Out) {
		return &lines{out: o.Out, named: true}
	}
	var rows []joinTarget
	for _, s := range list.Nodes {
		rows = append(rows, joinTarget{node: s.Name})
	}
	return newTable(o.Out, rows)
}

// showAll shows what is new in a list.
func showAll(screen screen, views map[string]*nodeView, list statusList) {
	listed := map[string]bool{}
	for i := range list.Nodes {
		s := &list.Nodes[i]
		listed[s.Name] = true
		if views[s.Name] == nil {
			views[s.Name] = &nodeView{timeline: screen.begin(joinTarget{node: s.Name})}
		}
		views[s.Name].show(s.mark() + " " + s.currentStep() + ": " + s.headline())
	}
	for name, view := range views {
		if !listed[name] {
			view.show(markGood + " it has joined, or was deleted")
			view.end(nil)
			delete(views, name)
		}
	}
}

func (v *nodeView) show(text string) {
	if v.text != text {
		v.text = text
		v.step(text)
	}
}

// changed prints a value if it is not the one before.
func (o *statusOptions) changed(last *any, value any) error {
	if reflect.DeepEqual(*last, value) {
		return nil
	}
	*last = value
	if o.output.format == outputYAML {
		fmt.Fprintln(o.Out, "---")
	}
	return o.output.print(o.Out, value)
}

// poll looks until it is done. After the first look, an error that can be transient is shown, and the next look follows.
func poll(ctx context.Context, o *statusOptions, look func(context.Context) (bool, error)) error {
	looked, lastError := false, ""
	return wait.PollUntilContextCancel(ctx, statusInterval, true, func(ctx context.Context) (bool, error) {
		done, err := look(ctx)
		if err == nil {
			looked, lastError = true, ""
			return done, nil
		}
		if _, gone := errors.AsType[*notFoundError](err); gone || !looked || apierrors.IsForbidden(err) {
			return false, err
		}
		if ctx.Err() == nil && err.Error() != lastError {
			lastError = err.Error()
			fmt.Fprintf(o.ErrOut, "Cannot read the state, trying again: %s\n", lastError)
		}
		return false, nil
	})
}
