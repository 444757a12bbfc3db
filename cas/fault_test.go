package cas_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas/castest"
)

func TestFaults(t *testing.T) {
	step := 13
	if os.Getenv(soakEnv) != "" {
		step = 1
	}
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Logf("%d faults", castest.Faults(t, openSubject, fastDir(t), errno, step))
		})
	}
}
