// SPDX-License-Identifier: Apache-2.0

// Package servers has URLs at which a node can reach an API server and URLs at which it cannot, for the tests of all code that
// validates them.
package servers

import "strings"

// Good are URLs that a node can use.
func Good() []string {
	return []string{
		"https://api.example.com", "https://api.example.com/", "https://api.example.com:6443", "https://api.example.com:443/", "HTTPS://API.Example.COM:6443",
		"https://localhost:6443", "https://a", "https://a:1", "https://a:65535", "https://1password.example.com:6443", "https://3com", "https://0x.example",
		"https://192.0.2.7", "https://192.0.2.7:6443", "https://127.0.0.1:6443", "https://[2001:db8::1]:6443", "https://[2001:db8::1]", "https://[2001:DB8::1]/x",
		"https://[::1]:6443", "https://xn--bcher-kva.example:6443", "https://b\u00fccher.example:6443", "https://lb.r\u00e4ck.example", "https://\u4f8b\u3048.example:6443/x", "https://10.0.0.7.nip.io:6443", "https://ec2-192-0-2-7.compute.example:6443",
		"https://api.example.com/k8s/clusters/c-m-1", "https://kcp.example.com:6443/clusters/root:org:ws", "https://api.example.com/a_b~c%20d/",
		"https://" + strings.Repeat("a", 63) + ".example.com:6443", "https://" + strings.Repeat("a.", 126) + "b:6443",
	}
}

// Bad are URLs that no node can use; a password in them is hunter2.
func Bad() []string {
	hosts := []string{
		"<LB_IP>", "<lb-ip>", "&lt;LB_IP&gt;", "{{ip}}", "{{ .Values.ip }}", "{ip}", "$IP", "${IP}", "$(IP)", "%IP%", "[LB_IP]", "LB_IP", "api_server", "_api.example.com", "*", "*.example.com",
		"api..example.com", ".example.com", "api.example.com.", "api.example.com..", ".", "-", "-api.example.com", "api-.example.com", "api.-example.com",
		"10.0.0.300", "999.1.1.1", "256.256.256.256", "10.0.0", "10.0.0.0.1", "1.2.3.4.5", "10", "010.0.0.1", "10.0.0.01", "0x0a.0.0.0x1", "0x7f000001", "2130706433", "10.0.0.7.", "api.1", "0.0.0.0", "[::]", "[::0]",
		"2001:db8::1", "[2001:db8::1", "2001:db8::1]", "[2001:db8::g]", "[2001:db8:::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::ffff:192.0.2.7]", "[192.0.2.7]", "[]", "[api.example.com]", "[2001:db8::1]x",
		"api example.com", " api.example.com", "api.example.com ", "api\texample.com", "api.example.com\n", "b\u00fccher.example.", "b\u00fccher..example", "b\u00fccher_.example", "\u20acapi.example.com", "api\u3002example.com", "\u2615.example", "10.0.0.\uff13", "a\u200bpi.example.com", "api\u00a0.example.com", "%62api.example.com", "b%C3%BCcher.example",
		"api,example.com", "api;example.com", "a,b", "api.example.com,api2.example.com", "api!", "'api.example.com'", "\"api.example.com\"", "`api`", "api|b", "api^b", "api\\b", "api(b)", "192.0.2.7/24:6443 ", "IP:PORT", "...", "\u2026",
		strings.Repeat("a", 64) + ".example.com", strings.Repeat("a.", 127) + "b",
	}
	var out []string
	for _, host := range hosts {
		out = append(out, "https://"+host+":6443", "https://"+host)
	}
	for _, port := range []string{"", "0", "00", "65536", "70000", "99999", "100000", "06443", "-1", "+6443", "6443x", "https", "<PORT>", "${PORT}", "{{port}}", "6443:6443", " 6443", "6443 ", "\u0664\u0664", "18446744073709551617"} {
		out = append(out, "https://api.example.com:"+port, "https://192.0.2.7:"+port+"/", "https://[2001:db8::1]:"+port)
	}
	return append(out,
		" https://api.example.com", "https://api.example.com/ ", "https://api.example.com/a b", "https://api.example.com/{{path}}", "https://api.example.com/<path>", "https://api.example.com/$PATH", "https://api.example.com/%zz",
		"https://https://api.example.com:6443", "https://api.example.com:6443https://api.example.com:6443", "https://api.example.com:6443,https://b.example.com:6443", "https:api.example.com", "https:/api.example.com", "https://", "https:///", "https://:6443", "//api.example.com", "api.example.com", "api.example.com:6443",
		"http://api.example.com", "ftp://api.example.com", "tcp://192.0.2.7:6443", "https", "<LB_IP>", "\u00a0https://api.example.com", "https://api.example.com\u00a0", "https://api.example.com\x00", "https://api.example.com\u200b:6443",
		"https://admin:hunter2@api.example.com:6443", "https://hunter2@api.example.com", "https://admin:hunter2@10.0.0.300:6443", "https://admin:hunter2@<LB_IP>:6443", "https://admin:hunter2@api example.com",
		"https://admin:hunter2%zz@api.example.com", "https://admin:hunter2@[::1", "https://api.example.com/hunter2@x", "https://api.example.com?token=hunter2", "https://api.example.com/?", "https://api.example.com#hunter2", "https://api.example.com#",
		"admin:hunter2@api.example.com", "https://api.example.com:hunter2", "https://api.example.com/"+strings.Repeat("a", 2048),
	)
}
