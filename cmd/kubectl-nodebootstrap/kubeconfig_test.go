// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

func TestKubeconfigToStandardOutput(t *testing.T) {
	r := cluster{objects: []client.Object{awaiting(), publishedSecret()}}.succeeds(t, "kubeconfig", node)
	if r.out != kubeconfigText || r.errOut != "" {
		t.Errorf("got %q and %q, want the kubeconfig byte for byte and nothing else", r.out, r.errOut)
	}
}

// A dash means standard output, as in kubectl, not a file of that name.
func TestKubeconfigToDash(t *testing.T) {
	t.Chdir(t.TempDir())
	r := cluster{objects: []client.Object{awaiting(), publishedSecret()}}.succeeds(t, "kubeconfig", node, "--output-file", "-")
	if r.out != kubeconfigText || r.errOut != "" {
		t.Errorf("got %q and %q, want the kubeconfig and nothing else", r.out, r.errOut)
	}
	wantFiles(t, ".")
}

func TestKubeconfigWithTokenThatExpired(t *testing.T) {
	expired := func(nb *v1alpha1.NodeBootstrap) {
		nb.Status.Token.ExpirationTime = metav1.NewTime(time.Now().Add(-time.Hour))
	}
	r := cluster{objects: []client.Object{awaiting(expired), publishedSecret()}}.succeeds(t, "kubeconfig", node)
	if r.out != kubeconfigText {
		t.Errorf("got %q", r.out)
	}
	mention(t, "the error output", r.errOut, "Warning", "token abcdef expired", "60m ago")
}

func TestKubeconfigThatDoesNotExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bootstrap-kubeconfig")
	for name, tc := range map[string]struct {
		cluster cluster
		want    []string
	}{
		"joined": {
			cluster{objects: []client.Object{awaiting(hasJoined)}},
			[]string{"worker-1 has already joined", "kubectl nodebootstrap reissue worker-1\nkubectl nodebootstrap kubeconfig worker-1 --wait"},
		},
		"joined, with a credential that could not be removed": {
			cluster{objects: []client.Object{awaiting(hasJoined, func(nb *v1alpha1.NodeBootstrap) {
				nb.Status.Conditions[0] = condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonWriteFailed, "")
			}), publishedSecret()}},
			[]string{"has already joined"},
		},
		"not reported on": {
			cluster{objects: []client.Object{awaiting(isNew)}},
			[]string{"not ready", "is it running?", "--wait"},
		},
		"stalled": {
			cluster{objects: []client.Object{awaiting(isStalled)}},
			[]string{"is stalled, and waiting does not help", "ServerUnknown: no API server URL is known", "docs/troubleshooting.md under ServerUnknown"},
		},
		"the token misused, and a key was approved with it": {
			cluster{objects: []client.Object{awaiting(isMisused), publishedSecret()}},
			[]string{"was misused", "SecondKey: the request csr-b", "kubectl nodebootstrap reissue worker-1\nkubectl nodebootstrap kubeconfig worker-1 --wait 1m"},
		},
		"the token misused and revoked": {
			cluster{objects: []client.Object{awaiting(isStalled, isMisused)}},
			[]string{"was misused", "kubectl nodebootstrap reissue worker-1"},
		},
		"too late": {
			cluster{objects: []client.Object{awaiting(isTooLate)}},
			[]string{"JoinDeadlineExceeded", "kubectl nodebootstrap reissue worker-1"},
		},
		"reconciling": {
			cluster{objects: []client.Object{awaiting(isReconciling)}},
			[]string{"not ready", "Verifying", "To wait for it, add --wait 1m"},
		},
		"edited since": {
			cluster{objects: []client.Object{awaiting(isEdited), publishedSecret()}},
			[]string{"not ready", "last change of its spec"},
		},
		"reissue requested": {
			cluster{objects: []client.Object{awaiting(awaitsReissue), publishedSecret()}},
			[]string{"not ready", "reissue requested at again"},
		},
		"reissue requested for a joined node": {
			cluster{objects: []client.Object{awaiting(hasJoined, awaitsReissue)}},
			[]string{"not ready", "reissue requested at again"},
		},
		"no Secret named": {
			cluster{objects: []client.Object{awaiting(func(nb *v1alpha1.NodeBootstrap) { nb.Status.KubeconfigSecretRef = nil })}},
			[]string{"names no Secret"},
		},
		"Secret deleted": {
			cluster{objects: []client.Object{awaiting()}},
			[]string{"nodebootstrap-system/bootstrap-kubeconfig-worker-1 does not exist", "try again"},
		},
		"Secret forbidden": {
			cluster{objects: []client.Object{awaiting(), publishedSecret()},
				funcs: failingGet[*corev1.Secret](forbidden(corev1.Resource("secrets"), "bootstrap-kubeconfig-worker-1"))},
			[]string{"permission to get the Secrets in the namespace nodebootstrap-system", "bootstrap-kubeconfig-worker-1"},
		},
		"Secret not read": {
			cluster{objects: []client.Object{awaiting()}, funcs: failingGet[*corev1.Secret](errors.New("connection refused"))},
			[]string{"reading the Secret nodebootstrap-system/bootstrap-kubeconfig-worker-1", "connection refused"},
		},
		"Secret without the key": {
			cluster{objects: []client.Object{awaiting(), secret(map[string][]byte{"config": []byte(kubeconfigText)})}},
			[]string{`no key "kubeconfig"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := tc.cluster.execute(t, "kubeconfig", node, "--output-file", path)
			if r.err == nil {
				t.Fatal("no error")
			}
			mention(t, "the error", r.err.Error(), tc.want...)
			if offers := strings.Contains(r.err.Error(), "this waits for it"); offers && strings.Contains(r.err.Error(), "waiting does not help") {
				t.Errorf("it offers to wait in vain: %v", r.err)
			}
			wantFiles(t, filepath.Dir(path))
		})
	}
}

// isTooLate sets a deadline that has passed.
func isTooLate(nb *v1alpha1.NodeBootstrap) {
	isStalled(nb)
	for i := range nb.Status.Conditions {
		nb.Status.Conditions[i].Reason = v1alpha1.ReasonJoinDeadlineExceeded
	}
}

// wantFiles checks the files of a directory, and thereby that no temporary file is left.
func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the directory holds %q, want %q", got, want)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("%s has mode %s, want 0600", path, info.Mode())
	}
}

func TestKubeconfigToFile(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), publishedSecret()}}
	dir := t.TempDir()
	path := filepath.Join(dir, "file")

	r := cl.succeeds(t, "kubeconfig", node, "--output-file", path)
	wantContent(t, path, kubeconfigText)
	wantFiles(t, dir, "file")
	if r.out != "" {
		t.Errorf("printed %q to standard output too", r.out)
	}
	mention(t, "the error output", r.errOut, path, node, "--bootstrap-kubeconfig")

	t.Run("overwrite", func(t *testing.T) {
		if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), os.Chmod(path, 0o644)); err != nil {
			t.Fatal(err)
		}
		cl.succeeds(t, "kubeconfig", node, "--output-file", path, "--overwrite")
		wantContent(t, path, kubeconfigText)
		wantFiles(t, dir, "file")
	})
}

func TestKubeconfigReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	err := errors.Join(os.WriteFile(file, []byte("mine"), 0o600), os.Symlink(filepath.Join(dir, "nowhere"), link))
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a file": file, "a dangling link": link, "a directory": dir} {
		t.Run(name, func(t *testing.T) {
			// This needs no cluster: the command fails before it waits.
			r := cluster{funcs: failing(errors.New("asked the cluster first"))}.execute(t, "kubeconfig", node, "--output-file", path)
			if r.err == nil {
				t.Fatal("no error")
			}
			mention(t, "the error", r.err.Error(), path, "already exists", "--overwrite")
		})
		t.Run(name+" that appears at the last moment", func(t *testing.T) {
			err := writeFile(path, []byte(kubeconfigText), false)
			if err == nil {
				t.Fatal("no error")
			}
			mention(t, "the error", err.Error(), path, "already exists", "--overwrite")
		})
	}
	wantContent(t, file, "mine")
	wantFiles(t, dir, "file", "link")
}

func TestKubeconfigToFileThatCannotBe(t *testing.T) {
	cl := cluster{objects: []client.Object{awaiting(), publishedSecret()}}
	dir := t.TempDir()
	missing := filepath.Join(dir, "no", "file")
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inFile := filepath.Join(notDir, "file")
	for name, args := range map[string][]string{
		"in no directory":  {"--output-file", missing},
		"in a file":        {"--output-file", inFile, "--overwrite"},
		"over a directory": {"--output-file", dir, "--overwrite"},
	} {
		t.Run(name, func(t *testing.T) {
			r := cl.execute(t, append([]string{"kubeconfig", node}, args...)...)
			if r.err == nil {
				t.Fatal("no error")
			}
			if strings.Contains(r.err.Error(), ".bootstrap-kubeconfig-") && slices.Contains(args, inFile) {
				t.Errorf("the error names a temporary file: %v", r.err)
			}
			if slices.Contains(args, missing) {
				mention(t, "the error", r.err.Error(), missing, "the directory "+filepath.Dir(missing)+" does not exist")
			}
			wantFiles(t, dir)
		})
	}
}

// waiting is a command line that waits, and a cluster that changes after the watch starts.
type waiting struct {
	cluster cluster
	// onWatch is called after the start of the nth watch, counted from 1.
	onWatch func(ctx context.Context, c client.WithWatch, n int) error
	limit   string
	command string // by default kubeconfig
	// joined writes the limit after =.
	joined bool
}

func (w waiting) execute(t *testing.T) result {
	n := 0
	w.cluster.funcs.Watch = func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
		n++
		i, err := c.Watch(ctx, list, opts...)
		if err == nil && w.onWatch != nil {
			err = w.onWatch(ctx, c, n)
		}
		return i, err
	}
	limit := []string{"--wait", w.limit}
	if w.joined {
		limit = []string{"--wait=" + w.limit}
	}
	return w.cluster.execute(t, append([]string{cmp.Or(w.command, "kubeconfig"), node}, limit...)...)
}

// put stores the status of the NodeBootstrap.
func put(ctx context.Context, c client.Client, want *v1alpha1.NodeBootstrap) error {
	var nb v1alpha1.NodeBootstrap
	if err := c.Get(ctx, client.ObjectKeyFromObject(want), &nb); err != nil {
		return err
	}
	nb.Status = want.Status
	return c.Status().Update(ctx, &nb)
}

func TestKubeconfigWait(t *testing.T) {
	isReissued := func(nb *v1alpha1.NodeBootstrap) {
		awaitsReissue(nb)
		nb.Status.LastHandledReissueAt = "again"
	}
	for name, w := range map[string]waiting{
		"ready already": {cluster: cluster{objects: []client.Object{awaiting(), publishedSecret()}}},
		"ready after a while": {
			cluster: cluster{objects: []client.Object{awaiting(isNew), publishedSecret()}},
			onWatch: func(ctx context.Context, c client.WithWatch, _ int) error {
				return errors.Join(put(ctx, c, awaiting(isReconciling)), put(ctx, c, awaiting()))
			},
		},
		"reissued after a while": {
			cluster: cluster{objects: []client.Object{awaiting(hasJoined, awaitsReissue), publishedSecret()}},
			onWatch: func(ctx context.Context, c client.WithWatch, _ int) error { return put(ctx, c, awaiting(isReissued)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.limit = "1m"
			if r := w.execute(t); r.err != nil || r.out != kubeconfigText {
				t.Errorf("got %q and the error %v", r.out, r.err)
			}
		})
	}
}

func TestKubeconfigWaitReportsTheReason(t *testing.T) {
	r := waiting{cluster: cluster{objects: []client.Object{awaiting(isReconciling)}}, limit: "20ms"}.execute(t)
	if r.err == nil {
		t.Fatal("no error")
	}
	mention(t, "the error", r.err.Error(), "gave up after 20ms", "Verifying: the API server is asked")
	if want := "Waiting: Verifying: the API server is asked\n"; r.errOut != want {
		t.Errorf("got %q, want %q", r.errOut, want)
	}
}

func TestKubeconfigWaitEndsWhenItCannotHelp(t *testing.T) {
	for name, tc := range map[string]struct {
		onWatch func(ctx context.Context, c client.WithWatch, n int) error
		want    []string
	}{
		"deleted": {
			func(ctx context.Context, c client.WithWatch, _ int) error { return c.Delete(ctx, awaiting()) },
			[]string{"NodeBootstrap worker-1 does not exist"},
		},
		"stalled": {
			func(ctx context.Context, c client.WithWatch, _ int) error { return put(ctx, c, awaiting(isStalled)) },
			[]string{"waiting does not help: ServerUnknown"},
		},
		"misused meanwhile": {
			func(ctx context.Context, c client.WithWatch, _ int) error { return put(ctx, c, awaiting(isMisused)) },
			[]string{"was misused", "kubectl nodebootstrap reissue worker-1"},
		},
		"joined meanwhile": {
			func(ctx context.Context, c client.WithWatch, _ int) error { return put(ctx, c, awaiting(hasJoined)) },
			[]string{"has already joined"},
		},
		"watching forbidden": {
			func(context.Context, client.WithWatch, int) error { return forbidden(nodeBootstraps, node) },
			[]string{"permission to watch nodebootstraps"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := waiting{cluster: cluster{objects: []client.Object{awaiting(isNew)}}, onWatch: tc.onWatch, limit: "1m"}.execute(t)
			if r.err == nil {
				t.Fatal("no error")
			}
			mention(t, "the error", r.err.Error(), tc.want...)
		})
	}
}

func TestFollow(t *testing.T) {
	other := awaiting()
	other.Name = "worker-2"
	begin := func(t *testing.T, events ...watch.Event) (client.WithWatch, *watch.FakeWatcher) {
		w := watch.NewFakeWithOptions(watch.FakeOptions{ChannelSize: 10})
		for _, e := range events {
			w.Action(e.Type, e.Object)
		}
		return cluster{objects: []client.Object{awaiting(isNew), other}, funcs: interceptor.Funcs{
			Watch: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
				return w, nil
			},
		}}.client(t), w
	}
	tokens := func(seen *[]string) func(*v1alpha1.NodeBootstrap) (bool, error) {
		return func(nb *v1alpha1.NodeBootstrap) (bool, error) {
			*seen = append(*seen, nb.Name+" "+tokenID(nb))
			return tokenID(nb) != "", nil
		}
	}

	t.Run("only the node that was asked for", func(t *testing.T) {
		c, _ := begin(t, watch.Event{Type: watch.Modified, Object: other}, watch.Event{Type: watch.Bookmark, Object: awaiting(isNew)},
			watch.Event{Type: watch.Modified, Object: awaiting()})
		var seen []string
		done, err := follow(t.Context(), c, node, tokens(&seen))
		if !done || err != nil || seen[len(seen)-1] != "worker-1 abcdef" {
			t.Errorf("done %t, error %v, seen %q", done, err, seen)
		}
	})
	t.Run("an end of the watch is no error", func(t *testing.T) {
		c, w := begin(t)
		w.Stop()
		var seen []string
		if done, err := follow(t.Context(), c, node, tokens(&seen)); done || err != nil || len(seen) != 1 {
			t.Errorf("done %t, error %v, seen %q", done, err, seen)
		}
	})
	t.Run("an expired watch is no error", func(t *testing.T) {
		c, _ := begin(t, watch.Event{Type: watch.Error, Object: &metav1.Status{Code: 410}})
		var seen []string
		if done, err := follow(t.Context(), c, node, tokens(&seen)); done || err != nil {
			t.Errorf("done %t, error %v, seen %q", done, err, seen)
		}
	})
}

func tokenID(nb *v1alpha1.NodeBootstrap) string {
	if nb.Status.Token == nil {
		return ""
	}
	return nb.Status.Token.ID
}

// The command prints the kubeconfig that the operator renders, from a Secret as the operator creates it.
func TestKubeconfigOfTheOperator(t *testing.T) {
	nb := awaiting()
	made, err := kubeconfig.NewSecret(nb, namespace, kubeconfig.Cluster{Server: nb.Status.Server, CA: []byte("ca")},
		token.Token{ID: "abcdef", Secret: token.NewSecretPart(canary)})
	if err != nil {
		t.Fatal(err)
	}
	r := cluster{objects: []client.Object{nb, made}}.succeeds(t, "kubeconfig", node)
	mention(t, "the kubeconfig", r.out, nb.Status.Server, "abcdef."+canary)
}
