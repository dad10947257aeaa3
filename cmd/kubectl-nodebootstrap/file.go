// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile atomically writes a file that only its owner can read or write. It replaces an existing file only if overwrite is
// set.
func writeFile(path string, content []byte, overwrite bool) error {
	temporary, err := writeTemporary(filepath.Dir(path), content)
	if errors.Is(err, fs.ErrNotExist) { // err names the temporary file, which would confuse users
		return fmt.Errorf("writing %s: the directory %s does not exist", path, filepath.Dir(path))
	}
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("writing %s: cannot create a file in the directory %s: %w", path, filepath.Dir(path), failed.Err)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(temporary)
	if overwrite {
		return os.Rename(temporary, path)
	}
	err = os.Link(temporary, path) // unlike a rename, it fails if the file exists
	switch {
	case errors.Is(err, fs.ErrExist):
		return fileExistsError(path)
	case err != nil:
		return fmt.Errorf("%w: if the file system has no hard links, use --overwrite", err)
	}
	return nil
}

// writeTemporary writes a file with a unique name that only its owner can read or write, and returns the name.
func writeTemporary(dir string, content []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, ".bootstrap-kubeconfig-*")
	if err != nil {
		return "", err
	}
	if err = restrict(f.Name()); err == nil {
		_, err = f.Write(content)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// checkAbsent returns an error if a path exists, even as a dangling symlink.
func checkAbsent(path string) error {
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return fileExistsError(path)
}

func fileExistsError(path string) error {
	return fmt.Errorf("%s already exists: choose another file, or replace it with --overwrite", path)
}
