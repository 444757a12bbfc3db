//go:build !cgo

package runner

import "context"

// Without cgo the driver's library cannot be loaded; nvidia-smi tells the same.
func queryGPUs(ctx context.Context) (gpus []GPU, driver string, known bool) { return smiGPUs(ctx) }

func gpuMemory(ctx context.Context, member func(pid int) bool) (int64, bool) {
	return smiMemory(ctx, member)
}
