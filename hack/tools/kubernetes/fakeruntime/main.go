// SPDX-License-Identifier: Apache-2.0

// Command fakeruntime serves Kubernetes' own fake container runtime on a unix
// socket, so that a stock kubelet runs on a machine without containerd. It
// reports that runtime and network are ready, and runs no container.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cri-client/pkg/fake"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fakeruntime:", err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or SIGINT arrives.
func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: fakeruntime unix:///path/of/socket")
	}
	// Before the socket exists: a client that sees it may already send a signal.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	runtime := fake.NewFakeRemoteRuntime()
	if err := runtime.Start(args[0]); err != nil {
		return err
	}
	<-stop
	runtime.Stop()
	return nil
}
