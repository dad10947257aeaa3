// SPDX-License-Identifier: Apache-2.0

// Package project knows where the project is, for tests and tools that read its files.
package project

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Root is the project's directory. It is searched for from the working directory upwards, by kubebuilder's file PROJECT.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "PROJECT")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no file PROJECT from here upwards: run this inside the project")
		}
		dir = parent
	}
}
