// Reader is what runs in a container that uses a model: it maps the file once,
// opens it again and again, and says on each round whether both have the bytes
// whose digest is its second argument.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"syscall"
	"time"
)

func main() {
	path, want := os.Args[1], os.Args[2]
	f, err := os.Open(path)
	if err != nil {
		fmt.Println("bad", err)
		return
	}
	st, err := f.Stat()
	if err != nil {
		fmt.Println("bad", err)
		return
	}
	mapped, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	f.Close()
	if err != nil {
		fmt.Println("bad", err)
		return
	}
	for round := 1; ; round++ {
		b, err := os.ReadFile(path)
		if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != want {
			fmt.Println("bad", round, len(b), err)
		} else if sum := sha256.Sum256(mapped); hex.EncodeToString(sum[:]) != want {
			fmt.Println("bad", round, "mapped bytes")
		} else {
			fmt.Println("good", round)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
