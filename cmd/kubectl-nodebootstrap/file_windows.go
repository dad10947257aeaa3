// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// restrict lets only the owner read and write a file. On Windows a mode does not do that: the file has the permissions of its directory.
func restrict(path string) error {
	onlyTheOwner, err := windows.SecurityDescriptorFromString("D:P(A;;FA;;;OW)")
	if err != nil {
		return err
	}
	acl, _, err := onlyTheOwner.DACL()
	if err != nil {
		return err
	}
	err = windows.SetNamedSecurityInfo(path, windows.SE_FILE_OBJECT,
		windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, acl, nil)
	if err != nil {
		return fmt.Errorf("restricting who can read it: %w", err)
	}
	return nil
}
