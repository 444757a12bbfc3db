package oci

import "net/netip"

// embedded returns the IPv4 addresses that an IPv6 address may stand for:
// what a translator or a tunnel on the way makes of it. Prefixes that a network
// chose for itself (RFC 6052, 3.2) cannot be told from other addresses.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	var out []netip.Addr
	take := func(at ...int) {
		out = append(out, netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}))
	}
	in := func(prefix string) bool { return netip.MustParsePrefix(prefix).Contains(a) }
	switch {
	case in("::ffff:0:0/96"), // mapped
		in("::/96"),           // compatible (RFC 4291, 2.5.5.1)
		in("::ffff:0:0:0/96"), // translated (RFC 2765)
		in("64:ff9b::/96"):    // NAT64 (RFC 6052)
		take(12, 13, 14, 15)
	case in("64:ff9b:1::/48"): // NAT64 of a site (RFC 8215), with a prefix of 48 bits or more inside
		take(6, 7, 9, 10)
		take(7, 9, 10, 11)
		take(9, 10, 11, 12)
		take(12, 13, 14, 15)
	case in("2002::/16"): // 6to4 (RFC 3056)
		take(2, 3, 4, 5)
	case in("2001::/32"): // Teredo (RFC 4380), whose client is written inverted
		take(4, 5, 6, 7)
		out = append(out, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	case b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe && b[8]&^2 == 0: // ISATAP (RFC 5214)
		take(12, 13, 14, 15)
	}
	return out
}
