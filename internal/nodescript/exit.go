// SPDX-License-Identifier: Apache-2.0

package nodescript

// The script's exit codes. They differ from those of the shell (126 and above) and of ssh (255).
const (
	ExitJoined         = 0
	ExitNotMember      = 9
	ExitNotRoot        = 10
	ExitProgramMissing = 11
	ExitOtherNode      = 12
	ExitOtherName      = 13
	ExitRuntime        = 14
	ExitServer         = 15
	ExitClock          = 16
	ExitFiles          = 17
	ExitNoConfig       = 18
	ExitNoAnswer       = 19
	ExitNotJoined      = 20
	ExitHalfJoined     = 21
)

// ExitCode is one that the script ends with.
type ExitCode struct {
	Code int
	name string // in the script
	// What is what happened, in a few words.
	What string
}

// ExitCodes are all of them. The script's last line on standard error says what to do.
var ExitCodes = []ExitCode{
	{ExitJoined, "", "the machine has joined, or was this node already"},
	{ExitNotMember, "EXIT_NOT_MEMBER", "another machine has joined as this node"},
	{ExitNotRoot, "EXIT_NOT_ROOT", "it does not run as root"},
	{ExitProgramMissing, "EXIT_PROGRAM_MISSING", "the kubelet, kubeadm, openssl or systemd is missing"},
	{ExitOtherNode, "EXIT_OTHER_NODE", "the machine is another node already, or one of another cluster"},
	{ExitOtherName, "EXIT_OTHER_NAME", "the kubelet would register under another name"},
	{ExitRuntime, "EXIT_RUNTIME", "the container runtime does not answer"},
	{ExitServer, "EXIT_SERVER", "the API server cannot be reached, or its certificate is not of the cluster's CA"},
	{ExitClock, "EXIT_CLOCK", "the clock is wrong, or the bootstrap token has expired"},
	{ExitFiles, "EXIT_FILES", "a file cannot be written"},
	{ExitNoConfig, "EXIT_NO_CONFIG", "there is no kubelet configuration"},
	{ExitNoAnswer, "EXIT_NO_ANSWER", "the connection ended before the certificate arrived"},
	{ExitNotJoined, "EXIT_NOT_JOINED", "the kubelet got no certificate, or kubeadm join failed"},
	{ExitHalfJoined, "EXIT_HALF_JOINED", "kubeadm join failed after the kubelet had got its certificate"},
}

// What returns what an exit code means; empty if the script never ends with it.
func What(code int) string {
	for _, e := range ExitCodes {
		if e.Code == code {
			return e.What
		}
	}
	return ""
}
