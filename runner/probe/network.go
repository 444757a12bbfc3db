package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// reach is how long an address may take to refuse. A box without a network
// refuses at once.
const reach = 250 * time.Millisecond

// network tries to reach the host's bait and everything else.
func network(r *Report, plan Plan) {
	for _, addr := range plan.TCP {
		r.mustFail("connect to "+addr, dial("tcp", addr))
	}
	for _, addr := range plan.Nowhere {
		err := dial("tcp", addr)
		r.add("connect to "+addr, noWay(err), "%s", said(err))
		err = send(addr)
		r.add("send to "+addr+" by UDP", noWay(err), "%s", said(err))
	}
	if plan.Socket != "" {
		r.mustFail("connect to the host's abstract socket", dial("unix", "@"+plan.Socket))
	}
	ifs, err := net.Interfaces()
	up := 0
	for _, i := range ifs {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			up++
		}
	}
	r.add("see an interface that is up", up == 0, "%s", interfaces(up, err))
	ctx, cancel := context.WithTimeout(context.Background(), reach)
	defer cancel()
	_, err = (&net.Resolver{PreferGo: true}).LookupHost(ctx, "rmodels-probe.example.com")
	r.mustFail("resolve a name", err)
}

func interfaces(up int, err error) string {
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d besides loopback", up)
}

// noWay says whether the kernel knew no route. A refused or a timed out
// attempt went somewhere.
func noWay(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func dial(network, addr string) error {
	c, err := net.DialTimeout(network, addr, reach)
	if err == nil {
		c.Close()
	}
	return err
}

func send(addr string) error {
	c, err := net.DialTimeout("udp", addr, reach)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

// socketFamilies that a network namespace does not confine, or that have no
// place in a box. Numbers from linux/socket.h.
var socketFamilies = []struct {
	name   string
	family int
	kind   int
}{
	{"AF_VSOCK", 40, unix.SOCK_STREAM},
	{"AF_PACKET", 17, unix.SOCK_RAW},
	{"AF_ALG", 38, unix.SOCK_SEQPACKET},
	{"AF_BLUETOOTH", 31, unix.SOCK_RAW},
	{"AF_CAN", 29, unix.SOCK_RAW},
	{"AF_TIPC", 30, unix.SOCK_STREAM},
	{"AF_RDS", 21, unix.SOCK_SEQPACKET},
	{"AF_XDP", 44, unix.SOCK_RAW},
	{"AF_SMC", 43, unix.SOCK_STREAM},
	{"AF_KEY", 15, unix.SOCK_RAW},
	{"AF_NFC", 39, unix.SOCK_SEQPACKET},
	{"AF_QIPCRTR", 42, unix.SOCK_DGRAM},
	{"AF_PPPOX", 24, unix.SOCK_DGRAM},
	{"AF_X25", 9, unix.SOCK_SEQPACKET},
	{"AF_NETLINK audit", 16, unix.SOCK_RAW},
}

func families(r *Report, plan Plan) {
	for _, f := range socketFamilies {
		protocol := 0
		if f.family == 16 {
			protocol = 9 // NETLINK_AUDIT
		}
		fd, err := unix.Socket(f.family, f.kind, protocol)
		if err == nil {
			if f.family == 40 && plan.VSock != 0 {
				err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: plan.VSock})
				r.add("connect to the host by AF_VSOCK", err != nil, "%s", said(err))
			}
			unix.Close(fd)
		}
		r.mustFail("open a socket of "+f.name, err)
	}
	for _, p := range []int{unix.IPPROTO_ICMP, unix.IPPROTO_RAW, unix.IPPROTO_TCP} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, p)
		if err == nil {
			unix.Close(fd)
		}
		r.mustFail(fmt.Sprintf("open a raw socket of protocol %d", p), err)
	}
}
