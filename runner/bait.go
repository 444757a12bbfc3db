package runner

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// bait is what the probe must not reach: things of the host that answer
// anyone who gets at them.
type bait struct {
	tcp     []string // addresses where we listen, on loopback alone
	nowhere []string // addresses of the host and beyond, where nobody of ours listens
	socket  string   // abstract Unix socket
	vsock   uint32
	file    string

	close []func()
}

func layBait(stateDir string) (*bait, error) {
	b := &bait{}
	var token [8]byte
	if _, err := rand.Read(token[:]); err != nil {
		return nil, err
	}
	name := "rmodels-bait-" + hex.EncodeToString(token[:])
	listen := func(network, address string) (string, error) {
		l, err := net.Listen(network, address)
		if err != nil {
			return "", err
		}
		b.close = append(b.close, func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return l.Addr().String(), nil
	}
	addr, err := listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.tcp = append(b.tcp, addr)
	if addr, err := listen("tcp6", "[::1]:0"); err == nil { // a host may have no IPv6
		b.tcp = append(b.tcp, addr)
	}
	if _, err := listen("unix", "@"+name); err != nil {
		b.remove()
		return nil, err
	}
	b.socket = name
	b.listenVsock()
	b.file = filepath.Join(stateDir, name)
	if err := os.WriteFile(b.file, []byte("bait\n"), 0o644); err != nil {
		b.remove()
		return nil, err
	}
	b.close = append(b.close, func() { os.Remove(b.file) })
	b.nowhere = append(hostAddresses(),
		"169.254.169.254:80",   // the clouds' metadata service
		"[fe80::1%1]:80",       // link-local, on the first interface
		"192.0.2.1:443",        // TEST-NET-1 (RFC 5737)
		"[2001:db8::1]:443",    // documentation prefix (RFC 3849)
		"224.0.0.251:5353",     // multicast DNS
		"255.255.255.255:9999", // broadcast
	)
	return b, nil
}

// listenVsock listens for AF_VSOCK, where the kernel has it: a network
// namespace does not confine it.
func (b *bait) listenVsock() {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	bound := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}) == nil && unix.Listen(fd, 1) == nil
	sa, err := unix.Getsockname(fd)
	vm, ok := sa.(*unix.SockaddrVM)
	if !bound || err != nil || !ok {
		unix.Close(fd)
		return
	}
	b.vsock = vm.Port
	b.close = append(b.close, func() { unix.Close(fd) })
}

// hostAddresses are this host's own addresses but loopback, at most eight,
// with the port of ssh: whether anything listens does not matter.
func hostAddresses() []string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && len(out) < 8 {
			out = append(out, net.JoinHostPort(n.IP.String(), strconv.Itoa(22)))
		}
	}
	return out
}

func (b *bait) remove() {
	for _, f := range b.close {
		f()
	}
}
