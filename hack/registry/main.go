package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		fmt.Fprintln(os.Stderr, "usage: registry serve -dir DIR [-listen ADDRESS] [-memory] [-referrers] [-plain-http] [-no-auth] [-http1] [-upstream URL]")
		os.Exit(2)
	}
	var o Options
	f := flag.NewFlagSet("registry serve", flag.ExitOnError)
	f.StringVar(&o.Dir, "dir", "", "`directory` that the registry owns")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "`address` to listen on; port 0 takes the last one again, or any")
	f.BoolVar(&o.Memory, "memory", false, "keep blobs in memory")
	f.BoolVar(&o.Referrers, "referrers", false, "offer the OCI 1.1 referrers API")
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "no TLS")
	f.BoolVar(&o.NoAuth, "no-auth", false, "no password")
	f.BoolVar(&o.HTTP1, "http1", false, "no HTTP/2")
	f.StringVar(&o.Upstream, "upstream", "", "be a pull-through cache of the registry at this `URL`")
	_ = f.Parse(os.Args[2:]) // exits on error
	if o.Dir == "" || f.NArg() > 0 {
		f.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := Serve(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}
