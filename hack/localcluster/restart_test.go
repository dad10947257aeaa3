// SPDX-License-Identifier: Apache-2.0

//go:build linux

package localcluster

import (
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// noFSync is the flag that envtest passes to etcd.
const noFSync = "--unsafe-no-fsync=true"

func TestControlPlaneComesBackWithItsData(t *testing.T) {
	c := start(t, Config{FSync: true})
	client := kubernetes.NewForConfigOrDie(c.AdminConfig()).CoreV1().ConfigMaps("default")
	server, etcd := c.Server(), c.EtcdURL()
	for name, restart := range map[string]func() error{
		"etcd":           func() error { return c.RestartEtcd(t.Context()) },
		"kube-apiserver": func() error { return c.RestartAPIServer(t.Context()) },
	} {
		before := pids(c)
		kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "before-restart-of-" + name}}
		eventually(t, name+" takes writes", func() error {
			_, err := client.Create(t.Context(), kept, metav1.CreateOptions{})
			return err
		})
		if err := restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" has what was stored", func() error {
			_, err := client.Get(t.Context(), kept.Name, metav1.GetOptions{})
			return err
		})
		replaced := 0
		for i, pid := range pids(c) {
			if pid != before[i] {
				replaced++
				if alive(before[i]) {
					t.Errorf("process %d is still there", before[i])
				}
			}
		}
		if replaced != 1 {
			t.Errorf("the restart of %s replaced %d processes: %v are now %v", name, replaced, before, pids(c))
		}
	}
	if c.Server() != server || c.EtcdURL() != etcd {
		t.Error("an address has changed")
	}
	if findChild(noFSync) != 0 {
		t.Error("etcd does not sync its writes to disk")
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if left := children(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if err := c.RestartEtcd(t.Context()); err == nil {
		t.Error("a stopped cluster's etcd was restarted")
	}
}

func TestPausedProgramGoesOn(t *testing.T) {
	c := start(t, Config{NoControllerManager: true})
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	p, err := c.StartProgram("sleeper", sleep, "60")
	if err != nil {
		t.Fatal(err)
	}
	if findChild(noFSync) == 0 {
		t.Errorf("etcd runs without %s, by which the test of restarts knows that it syncs", noFSync)
	}
	for _, step := range []func() error{p.Pause, p.Resume, p.Pause, p.Kill} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if p.Resume() == nil {
		t.Error("a program that has ended was resumed")
	}
}
