// Small programs of critest's images, told apart by the name they are called by: what the suite expects of busybox, nginx and
// util-linux, and what Debian's static busybox lacks. Built without modules: the standard library alone.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	name := filepath.Base(os.Args[0])
	arguments := os.Args[1:]
	switch {
	case strings.HasPrefix(os.Args[0], "nginx:"):
		web()
	case name == "nginx":
		master()
	case name == "httpd":
		fmt.Println("httpd: serving")
		serve("80")
	case name == "nonewprivs":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case name == "ipcs":
		segments()
	case name == "ipcmk":
		makeSegment(arguments)
	case name == "pgrep":
		find(arguments)
	case name == "sudo":
		become(arguments)
	case name == "pause":
		wait()
	case name == "pod-cidr":
		podCIDR(arguments)
	default:
		fail("%s is no program of this file", name)
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

func wait() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
}

// The suite looks for the name nginx, the words "master process" in the command line, and the pid file.
func master() {
	title := "nginx: master process nginx -g daemon off;"
	err := syscall.Exec("/usr/sbin/nginx", []string{title}, os.Environ())
	fail("become the master process: %v", err)
}

func web() {
	port := "80"
	if text, err := os.ReadFile("/etc/nginx/port"); err == nil {
		port = strings.TrimSpace(string(text))
	}
	if err := os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		fail("%v", err)
	}
	serve(port)
}

func serve(port string) {
	page := func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, "<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>")
	}
	fail("%v", http.ListenAndServe(":"+port, http.HandlerFunc(page)))
}

func segments() {
	text, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		fail("%v", err)
	}
	fmt.Println("------ Shared Memory Segments --------\nkey        shmid      owner      perms      bytes      nattch     status")
	for _, line := range strings.Split(string(text), "\n")[1:] {
		if fields := strings.Fields(line); len(fields) > 7 {
			key, _ := strconv.Atoi(fields[0])
			fmt.Printf("0x%08x %-10s %-10s %-10s %-10s %-10s\n", uint32(key), fields[1], fields[7], fields[2], fields[3], fields[6])
		}
	}
}

func makeSegment(arguments []string) {
	if len(arguments) != 2 || arguments[0] != "-M" {
		fail("usage: ipcmk -M BYTES")
	}
	size, err := strconv.Atoi(arguments[1])
	if err != nil {
		fail("%v", err)
	}
	const create = 0o1000
	id, _, errno := syscall.Syscall(syscall.SYS_SHMGET, uintptr(time.Now().UnixNano()&0x7fffffff), uintptr(size), create|0o644)
	if errno != 0 {
		fail("make a shared memory segment: %v", errno)
	}
	fmt.Printf("Shared memory id: %d\n", id)
}

func find(arguments []string) {
	if len(arguments) != 1 {
		fail("usage: pgrep NAME")
	}
	found := false
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		text, err := os.ReadFile(name)
		pid := filepath.Base(filepath.Dir(name))
		if err == nil && pid != strconv.Itoa(os.Getpid()) && strings.Contains(string(text), arguments[0]) {
			fmt.Println(pid)
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
}

func become(arguments []string) {
	if len(arguments) == 0 {
		fail("usage: sudo COMMAND...")
	}
	path, err := exec.LookPath(arguments[0])
	if err != nil {
		fail("%v", err)
	}
	fail("%v", syscall.Exec(path, arguments, os.Environ()))
}

// Tells the runtime the node's pod range, which without a cluster nobody does: UpdateRuntimeConfig over gRPC, put together by hand.
func podCIDR(arguments []string) {
	if len(arguments) != 2 {
		fail("usage: pod-cidr SOCKET CIDR")
	}
	field := func(body []byte) []byte { return append([]byte{0x0a, byte(len(body))}, body...) }
	message := field(field(field([]byte(arguments[1]))))
	frame := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", arguments[0])
	}}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	request, err := http.NewRequest("POST", "http://localhost/runtime.v1.RuntimeService/UpdateRuntimeConfig", bytes.NewReader(append(frame, message...)))
	if err != nil {
		fail("%v", err)
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	answer, err := client.Do(request)
	if err != nil {
		fail("%v", err)
	}
	body := new(bytes.Buffer)
	if _, err := body.ReadFrom(answer.Body); err != nil {
		fail("%v", err)
	}
	status := answer.Trailer.Get("grpc-status") + answer.Header.Get("grpc-status")
	if status != "0" {
		fail("UpdateRuntimeConfig: status %s: %s%s", status, answer.Trailer.Get("grpc-message"), answer.Header.Get("grpc-message"))
	}
}
